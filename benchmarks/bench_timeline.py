"""How often `omni timeline` names the right speaker, and how often it finds changes, planted or in noise.

python benchmarks/bench_timeline.py [FOLDER]

Speaker: every ordered pair of two clips of the folder (default: one example clip of each emotion) with both faces and
the voice of the first; the second person's mouth moves as it did with a voice that is not heard (`both move`), or is
still (`one is still`), or both are still (`nobody`).
Changes: rows of seven probabilities, softmax of logits with Gaussian noise that overlapping windows share.
"""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np

from omni.clip import Clip, read_clip
from omni.cues.face import face_tower
from omni.emotions import EKMAN7
from omni.timeline.changes import segments
from omni.timeline.people import People

EXAMPLES = [Path(__file__).parent.parent / f"examples/clips/{name}.mp4" for name in EKMAN7]
CALM = np.log([0.7, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03])


def named(tower, left: Clip, right: Clip, wave: np.ndarray) -> int | str | None:
    """Who is said to speak of two people side by side."""
    crowd = People(tower, 0.1)
    count = min(len(left.frames), len(right.frames))
    for i in range(count):
        crowd.watch(float(left.times[i]), np.concatenate([left.frames[i], right.frames[i]], 1))
    present = crowd.between(0.0, 1e9)
    return crowd.speaker(present, 0.0, wave) if len(present) == 2 else "not two"


def still(clip: Clip) -> Clip:
    return Clip(np.repeat(clip.frames[:1], len(clip.frames), 0), clip.times)


def speakers(paths: list[Path]) -> None:
    tower = face_tower()
    clips = [read_clip(path, frames=25) for path in paths]
    clips = [clip for clip in clips if clip.modalities == ("video", "audio")]
    found: dict[str, list[int | str | None]] = {"both move": [], "one is still": [], "nobody": []}
    for a, b in permutations(clips, 2):
        found["both move"].append(named(tower, a, b, a.wave))
        found["one is still"].append(named(tower, a, still(b), a.wave))
        found["nobody"].append(named(tower, still(a), still(b), a.wave))
    for case, rows in found.items():
        right, wrong = rows.count(0), rows.count(1)
        print(f"{case:14} {len(rows)} pairs: right {right}, wrong {wrong}, said nothing {len(rows) - right - wrong}")


def row(rng: np.random.Generator, logits: np.ndarray, spread: float, overlap: int) -> np.ndarray:
    noise = rng.normal(0, spread * np.sqrt(overlap), (len(logits) + overlap - 1, logits.shape[1]))
    shared = np.lib.stride_tricks.sliding_window_view(noise, overlap, axis=0).mean(-1)
    powers = np.exp(logits + shared)
    return powers / powers.sum(1, keepdims=True)


def rows_with_changes() -> None:
    rng, runs = np.random.default_rng(0), 100
    for overlap in (1, 2, 4):
        for spread in (0.2, 0.5, 1.0):
            false = [
                float(np.mean([len(segments(row(rng, np.tile(CALM, (n, 1)), spread, overlap), overlap)) > 1
                         for _ in range(runs)]))
                for n in (10, 100, 400)
            ]  # fmt: skip
            right = []
            for n in (3, 5, 10):
                planted = np.concatenate([np.tile(CALM, (n, 1)), np.tile(np.roll(CALM, 1), (n, 1))])
                given = [segments(row(rng, planted, spread, overlap), overlap) for _ in range(runs)]
                right.append(float(np.mean([len(one) == 2 and abs(one[1].first - n) <= 1 for one in given])))
            print(f"overlap {overlap} noise {spread}: false alarms {false}, one change found {right}")


if __name__ == "__main__":
    rows_with_changes()
    speakers(sorted(Path(sys.argv[1]).glob("*.mp4")) if sys.argv[1:] else EXAMPLES)
