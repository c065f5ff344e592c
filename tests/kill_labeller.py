"""Kills the labeller at random moments and looks at what is left.

    python tests/kill_labeller.py [--kills 20] [--clips 60] [--seed 0]

Labels clips that it makes with the tiny random model of `omni/tiny.py`: once undisturbed, once with SIGKILL at random
moments of the work (while the model starts, while a clip is read, between and within batches, while a row is written).
Then the table must have a row for every clip, none twice, equal to that of the undisturbed run but for the times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def kill_many_times(
    command: Sequence[str],
    journal: Path,
    *,
    clips: int,
    kills: int,
    seed: int,
    environment: Mapping[str, str],
    code: int = 0,
) -> int:
    """Run a command that labels, kill it so many times, and let it end with `code`; gives how often it was killed.

    A moment is: so many rows are in the journal (drawn over all clips but the last few), and then up to a tenth of a
    second more, or, at the first, up to the whole time that a start takes.
    """
    rng = random.Random(seed)
    moments = sorted(rng.randrange(clips - 3) for _ in range(kills))
    done = 0
    for rows in moments:
        process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), start_new_session=True)
        started = time.monotonic()
        while process.poll() is None and _lines(journal) < rows:
            time.sleep(0.002)
        spent = time.monotonic() - started
        time.sleep(rng.random() * (0.1 if rows else max(spent, 1.0)))
        process.send_signal(signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
    last = subprocess.run(command, cwd=ROOT, env=dict(environment)).returncode
    assert last == code, f"the last run ended with {last}"
    return done


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def rows_without_time(table: Path) -> list[dict]:
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def make_clips(folder: Path, count: int) -> None:
    """Clips of half a second, each of its own noise; every tenth is damaged."""
    import numpy as np

    from omni.clip_writer import write_clip

    for i in range(count):
        rng = np.random.default_rng(i)
        frames = rng.integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
        path = folder / f"{i:02}.mp4"
        write_clip(path, frames=frames, fps=10, wave=(0.2 * rng.standard_normal(8000)).astype(np.float32))
        if i % 10 == 9:
            path.write_bytes(path.read_bytes()[:200])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, number in (("--kills", 20), ("--clips", 60), ("--seed", 0)):
        parser.add_argument(name, type=int, default=number)
    options = parser.parse_args()
    from omni.tiny import tiny

    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        (work / "clips").mkdir()
        make_clips(work / "clips", options.clips)
        for part in tiny():
            part.save_pretrained(work / "model")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        label = [sys.executable, "-m", "omni.cli", "label", str(work / "clips"), "--model", str(work / "model")]
        label += ["--batch-size", "4", "--dtype", "float32"]
        calm, killed = work / "calm.jsonl", work / "killed.jsonl"
        how: dict = {"clips": options.clips, "seed": options.seed, "environment": environment}
        how |= {"code": 3 if options.clips > 9 else 0}  # damaged clips are rows with errors
        kill_many_times([*label, "--out", str(calm)], work / "calm.jsonl.journal", kills=0, **how)
        done = kill_many_times(
            [*label, "--out", str(killed)], work / "killed.jsonl.journal", kills=options.kills, **how
        )
        rows = rows_without_time(killed)
        assert done == options.kills, f"killed {done} times"
        assert len(rows) == len({row["clip"] for row in rows}) == options.clips, "a row for every clip, none twice"
        assert rows == rows_without_time(calm), "equal to an undisturbed run"
        lines = _lines(work / "killed.jsonl.journal")
        assert lines == options.clips, f"{lines} lines in the journal: no answer was given twice"
        print(f"{done} kills over {options.clips} clips: {len(rows)} rows, no duplicates, equal to an undisturbed run")


if __name__ == "__main__":
    main()
