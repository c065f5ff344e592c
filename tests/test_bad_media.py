"""Bad media: each file gets a defined answer or a defined error, in time, and makes us open and call nothing else.

What is opened is measured, not believed: by an audit hook for what Python opens, and by inotify, which the decoder's C
code cannot pass by; calls are noted by a listener, and sockets by the hook.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from omni.answer import Answer
from omni.clip import REASONS, Clip, Limits, read_clip
from omni.clip_reader import ClipReader
from omni.errors import ClipError
from omni.journal import printable
from omni.label import label
from omni.label_run import Labeller
from omni.label_table import decode_table
from tests.bad_media import bad_media, bit_flipped
from tests.media import make_clip

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
IN_OPEN = 0x20
SECONDS = 20.0  # for one file; the slowest takes less than one

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes pipes, links and names that Windows lacks")


class Corpus(NamedTuple):
    folder: Path
    outcomes: dict  # name → code or warnings
    calls: list[bytes]  # what the listener heard


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    calls.append(connection.recv(200))

        thread = threading.Thread(target=serve)
        thread.start()
        folder = tmp_path_factory.mktemp("bad") / "corpus"
        yield Corpus(folder, bad_media(folder, server.getsockname()[1]), calls)
        done.set()
        thread.join()


def outcome_of(read, path: Path) -> str | tuple[str, ...]:
    """A code, or the warnings of a clip, which must be sound."""
    try:
        clip = read(path)
    except ClipError as err:
        assert_is_advice(str(err), err.code)
        return err.code
    assert_is_sound(clip)
    return clip.warnings


def assert_is_sound(clip: Clip) -> None:
    assert clip.modalities and 0 <= clip.duration < 700 and len(clip.sha256) == 64
    if clip.frames is not None:
        assert clip.frames.dtype == np.uint8 and clip.frames.ndim == 4 and len(clip.frames) == len(clip.times)
        assert ((clip.times >= -1e-6) & (clip.times <= clip.duration + 1e-6)).all()
    if clip.wave is not None:
        assert clip.wave.dtype == np.float32 and np.isfinite(clip.wave).all()


def assert_is_advice(message: str, code: str) -> None:
    """One of our sentences, filled in: no words of a decoder, no folders, nothing that a terminal acts on."""
    ours = [reason for key, reason in REASONS.items() if key.partition(".")[0] == code]
    patterns = [re.sub(r"\\\{[^}]*\\\}", ".{1,60}", re.escape(reason)) for reason in ours]
    assert any(re.fullmatch(r".{1,120} " + pattern, message) for pattern in patterns), (code, message)
    assert message.isprintable() and not re.search(r"0x|\[Errno|Traceback|/tmp", message)


def test_every_bad_file_has_its_defined_outcome_and_none_takes_long(corpus: Corpus) -> None:
    assert len(corpus.outcomes) >= 40 and set(corpus.outcomes) == set(os.listdir(corpus.folder))
    found, slowest = {}, 0.0
    with ClipReader(timeout=SECONDS) as reader:
        for name in corpus.outcomes:
            started = time.monotonic()
            found[name] = outcome_of(reader.read, corpus.folder / name)
            slowest = max(slowest, time.monotonic() - started)
    assert found == corpus.outcomes
    assert slowest < SECONDS / 2
    assert corpus.calls == []


def test_a_hundred_files_with_flipped_bits_are_read_or_refused_and_kill_no_reader(tmp_path: Path) -> None:
    outcomes = Counter()
    with ClipReader(timeout=SECONDS) as reader:
        first = None
        for seed in range(100):
            path = bit_flipped(tmp_path, seed)
            outcome = outcome_of(reader.read, path)
            outcomes["read" if isinstance(outcome, tuple) else outcome] += 1
            first = first or reader.child
            path.unlink()
        assert reader.child is first  # neither a crash nor a hang
    assert sum(outcomes.values()) == 100
    assert outcomes["read"] >= 20 and len(outcomes) >= 2, outcomes


class Watch:
    """Names in some folders that any process opens, by inotify: the decoder's C code included."""

    def __init__(self, *folders: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.file = self.libc.inotify_init1(os.O_NONBLOCK)
        assert self.file >= 0
        for folder in folders:
            assert self.libc.inotify_add_watch(self.file, os.fsencode(folder), IN_OPEN) >= 0

    def opened(self) -> set[str]:
        names, data = set(), b""
        while True:
            try:
                data += os.read(self.file, 65536)
            except BlockingIOError:
                break
        at = 0
        while at < len(data):
            size = struct.unpack_from("iIII", data, at)[3]
            names.add(os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0")))
            at += 16 + size
        return names

    def close(self) -> None:
        os.close(self.file)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_nothing_is_opened_but_the_file_that_was_given(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.folder)
    beside = corpus.folder.parent / "beside"
    with ClipReader(timeout=SECONDS) as reader:
        reader.read(corpus.folder / "talk.mp4")  # started, all imported
        watch = Watch(corpus.folder, beside)
        try:
            (beside / "secret.mp4").read_bytes()
            assert watch.opened() == {"secret.mp4"}  # the watch sees
            seen = set()
            for name in corpus.outcomes:
                outcome_of(reader.read, corpus.folder / name)
                target = "talk.mp4" if name == "linked.mp4" else name
                opened = watch.opened()
                assert opened <= {target}, (name, opened)
                seen |= opened
        finally:
            watch.close()
    assert len(seen) > 100 and "pipe.mp4" not in seen


HOOK = """
import json, sys
from pathlib import Path
from omni import clip
import av, PIL.Image, numpy
from omni.errors import ClipError
PIL.Image.init()
given = json.load(sys.stdin)
for warm in given[:1]:
    clip.read_clip(warm)
bad = []
def hook(event, parts):
    if event == "open" and isinstance(parts[0], (str, bytes)):
        bad.append([event, str(parts[0])])
    elif event.split(".")[0] in ("socket", "subprocess", "os.system", "os.exec", "urllib", "ctypes.dlopen"):
        bad.append([event, ""])
sys.addaudithook(hook)
done = []
for path in given:
    bad.clear()
    try:
        clip.read_clip(path)
    except ClipError:
        pass
    target = str(Path(path).resolve()) if not path.endswith("loop.mp4") else path
    done.append([path, [one for one in bad if one[1] not in (path, target)]])
print(json.dumps(done))
"""


def test_python_opens_no_other_file_no_socket_and_no_process(corpus: Corpus) -> None:
    names = [name for name in corpus.outcomes if not name.startswith("loop")]
    given = json.dumps([str(corpus.folder / name) for name in ["talk.mp4", *names]])
    done = subprocess.run(
        [sys.executable, "-c", HOOK],
        input=given,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == len(names) + 1
    assert [one for one in found if one[1]] == []
    assert corpus.calls == []


def test_a_folder_of_bad_media_becomes_a_table_with_a_row_for_each(corpus: Corpus, tmp_path: Path) -> None:
    """Through the labeller itself; a fake model answers what could be read."""
    out, p = tmp_path / "out.parquet", {"happy": 0.5, "sad": 0.5}

    def answer(clips, question) -> list[Answer]:
        return [Answer("happy", 0.5, p, "", "", True, clip.modalities, clip.warnings, clip.duration) for clip in clips]

    with ClipReader(timeout=SECONDS) as reader:
        labeller = Labeller(reader.read, answer, lambda question, answer: "", "What?")
        paths = [corpus.folder / name for name in corpus.outcomes]
        manifest = tmp_path / "m.jsonl"
        manifest.write_text("".join(json.dumps({"clip": str(path)}) + "\n" for path in paths))
        summary = label([manifest], out, labels="happy,sad", labeller=labeller, progress=False, batch_size=4)
    rows = {row["clip"]: row for row in decode_table(out.read_bytes(), ".parquet")}
    assert summary.ok + summary.errors == len(rows) == len(paths)
    for name, outcome in corpus.outcomes.items():
        row = rows[printable(corpus.folder / name)]
        if isinstance(outcome, str):
            assert (name, row["status"], row["error"]["code"]) == (name, "error", outcome)
            assert_is_advice(row["error"]["message"], outcome)
        else:
            assert (name, row["status"], tuple(row["warnings"])) == (name, "ok", outcome)


# ---- the reader's process ----


def test_a_clip_is_the_same_from_another_process(talking_clip: Path, voice_clip: Path) -> None:
    with ClipReader(frames=5, sampling="even_indices") as reader:
        for path in (talking_clip, voice_clip, talking_clip):
            one, other = reader.read(path), read_clip(path, frames=5, sampling="even_indices")
            for name in ("frames", "times", "wave"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert one.frames is None or one.frames.flags.writeable
            assert (one.duration, one.sha256, one.warnings) == (other.duration, other.sha256, other.warnings)


def command(body: str) -> list[str]:
    """In place of the child: says that it is ready, and then does something bad with each request."""
    return [sys.executable, "-c", f"import os, sys, time\nprint('ready', flush=True)\nfor line in sys.stdin:\n {body}"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("time.sleep(60)", "decode_timeout"),
        ("exec('while True: pass')", "decode_timeout"),
        ("os.abort()", "decoder_crashed"),
        ("os._exit(0)", "decoder_crashed"),
        (
            'print(\'{"shapes": {"wave": [9]}, "duration": 1.0}\', end=\'\\n12\', flush=True); os._exit(1)',
            "decoder_crashed",
        ),
    ],
)
def test_a_decoder_that_hangs_or_dies_is_an_error_of_its_clip_alone(body: str, code: str, talking_clip: Path) -> None:
    with ClipReader(timeout=0.7, command=command(body)) as reader:
        started = time.monotonic()
        assert outcome_of(reader.read, talking_clip) == code
        assert time.monotonic() - started < 5
        reader.command, reader.timeout = ClipReader().command, SECONDS
        assert outcome_of(reader.read, talking_clip) == ()


def test_a_reader_that_died_between_two_clips_is_replaced_in_silence(talking_clip: Path) -> None:
    with ClipReader() as reader:
        reader.read(talking_clip)
        assert reader.child is not None
        reader.child.kill()
        reader.child.wait()
        assert reader.read(talking_clip).modalities == ("video", "audio")


def test_limits_hold_in_the_other_process_too(talking_clip: Path) -> None:
    with ClipReader(limits=Limits(seconds=0.5)) as reader:
        assert outcome_of(reader.read, talking_clip) == "too_long"


def test_an_installation_that_is_broken_is_no_fault_of_a_clip(talking_clip: Path) -> None:
    reader = ClipReader(command=[sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RuntimeError, match="does not start"):
        reader.read(talking_clip)


def test_the_reader_imports_nothing_from_the_folder_of_the_clips(
    tmp_path: Path, monkeypatch, talking_clip: Path
) -> None:
    (tmp_path / "av.py").write_text("raise SystemExit('run')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    with ClipReader() as reader:
        assert reader.read(talking_clip).modalities == ("video", "audio")


def test_the_reader_ends_with_its_parent(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4")
    body = (
        "import os, signal, sys; from omni.clip_reader import ClipReader\n"
        f"reader = ClipReader(); reader.read({str(tmp_path / 'a.mp4')!r}); print(reader.child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", body], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    child, end = int(done.stdout), time.monotonic() + 10
    while time.monotonic() < end and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for stays as a zombie in some containers
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
