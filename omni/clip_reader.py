"""Reading clips in a process of its own, which is ended when a clip takes too long and replaced when it dies.

    reader.read(path) ─► one line of JSON ─► the child: read_clip ─► one line of JSON, then the arrays ─► Clip

A decoder is a million lines of C that takes a stranger's bytes. `Limits` bound what it is asked to do, but a packet on
which it hangs cannot be interrupted from within, and one on which it crashes takes the process along. So whoever reads
thousands of clips reads them here: the first is `decode_timeout`, the second `decoder_crashed`, and the next clip is
read by a new child. A child costs a quarter of a second once; handing over a clip costs a few milliseconds.

The child is `python -m omni.clip_reader`. It imports no torch, ignores Ctrl-C, which is for its parent, and ends when
its stdin does, as it does with its parent. Nothing is pickled: what it says is JSON and plain bytes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from threading import Event, Timer
from types import TracebackType
from typing import IO, Any

import numpy as np

from .clip import Clip, Limits, clip_error, display_name, read_clip
from .errors import ClipError

TIMEOUT = 90.0  # s for one clip: the 30 s of `Limits` and a tenth of its 600 s
COMMAND = (sys.executable, "-P", "-m", "omni.clip_reader")  # -P: no module of the folder that clips lie in is imported
READY = b"ready\n"
ARRAYS = {"frames": np.uint8, "times": np.float64, "wave": np.float32}  # of a Clip


class ClipReader:
    """`read_clip` in a child process; a context manager.

    Args:
        frames: as `read_clip` takes it.
        sampling: as `read_clip` takes it.
        limits: as `read_clip` takes it.
        timeout: seconds for one clip, after which its child is ended.
        command: what to start in place of `COMMAND`; for tests.
    """

    def __init__(
        self,
        *,
        frames: int = 8,
        sampling: str = "mid_bins",
        limits: Limits | None = None,
        timeout: float = TIMEOUT,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.options = {"frames": frames, "sampling": sampling, "limits": asdict(limits or Limits())}
        self.timeout, self.command = timeout, tuple(command)
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, path: str | os.PathLike[str]) -> Clip:
        """Read a clip.

        Raises:
            ClipError: as `read_clip`; `decode_timeout` also where the decoder hangs, `decoder_crashed` where it dies.
        """
        child, is_late = self._running(), Event()

        def end() -> None:
            is_late.set()
            child.kill()

        timer = Timer(self.timeout, end)
        timer.start()
        try:
            _send(child.stdin, {"path": os.fspath(path), **self.options})
            said = _receive(child.stdout)
        except BaseException as err:
            self.close()  # what this child would say next belongs to no question
            if not isinstance(err, OSError | EOFError):
                raise
            why = {"limit": self.timeout} if is_late.is_set() else {}
            raise clip_error("decode_timeout" if why else "decoder_crashed", display_name(path), **why) from err
        finally:
            timer.cancel()
            timer.join()
            if is_late.is_set():
                self.close()
        if isinstance(said, ClipError):
            raise said
        return said

    def close(self) -> None:
        """End the child, if there is one; from any thread."""
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        """The child, started if there is none; one that died between two clips is replaced."""
        if self.child is not None and self.child.poll() is not None:
            self.close()
        if self.child is None:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for us
            )
            if self.child.stdout is None or self.child.stdout.readline() != READY:
                self.close()
                raise RuntimeError(f"The clip reader does not start: {' '.join(self.command)}")
        return self.child


def _environment() -> dict[str, str]:
    """That of this process, with the place of this package first: a checkout need not be installed."""
    here = str(Path(__file__).resolve().parent.parent)
    before = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{before}" if before else here}


def _send(pipe: IO[bytes] | None, message: dict[str, Any], *arrays: np.ndarray) -> None:
    assert pipe is not None
    pipe.write(json.dumps(message).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Clip | ClipError:
    """A clip, or the error that the child met.

    Raises:
        EOFError: the child ended before it had said all.
    """
    assert pipe is not None
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    said = json.loads(line)
    if "code" in said:
        return ClipError(said["message"], code=said["code"])
    shapes = said.pop("shapes")
    arrays: dict[str, Any] = {name: _array(pipe, ARRAYS[name], shapes[name]) for name in ARRAYS if name in shapes}
    return Clip(**arrays, **said | {"warnings": tuple(said["warnings"])})


def _array(pipe: IO[bytes], kind: type, shape: list[int]) -> np.ndarray:
    size = prod(shape) * np.dtype(kind).itemsize
    content = pipe.read(size)
    if len(content) < size:
        raise EOFError
    return np.frombuffer(bytearray(content), kind).reshape(shape)  # a bytearray, so that it can be written to


def serve(requests: IO[bytes], answers: IO[bytes], read: Callable[..., Clip] = read_clip) -> None:
    """Answer requests until there are no more: what the child does."""
    answers.write(READY)
    answers.flush()
    for line in requests:
        asked = json.loads(line)
        limits = Limits(**asked.pop("limits"))
        try:
            clip = read(asked.pop("path"), limits=limits, **asked)
        except Exception as err:  # told to the parent, which raises it
            _send(answers, _fault(err))
            continue
        arrays = {name: array for name in ARRAYS if (array := getattr(clip, name)) is not None}
        facts = {"duration": clip.duration, "sha256": clip.sha256, "warnings": clip.warnings}
        _send(answers, facts | {"shapes": {name: array.shape for name, array in arrays.items()}}, *arrays.values())


def _fault(err: Exception) -> dict[str, Any]:
    if isinstance(err, ClipError):
        return {"code": err.code, "message": str(err)}
    return {"code": "internal", "message": f"A fault of ours, {type(err).__name__}: {err}. Please report it."}


def main() -> None:
    """Serve over stdin and stdout; whatever else writes to stdout is sent to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import av  # noqa: F401  (before `ready`, so that a broken installation is not taken for a broken clip)

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
