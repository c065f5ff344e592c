"""One process at a time writes a table: the second is refused, and a killed one leaves nothing behind that refuses.

The operating system holds the lock (`flock`; on Windows `msvcrt.locking`) and lets it go when its holder ends, however
it ends. So a lock cannot go stale: a file NAME.lock that a killed process left is taken over, whatever it says. What it
says (who and when) is for the message to the second alone. No process ids are compared, which are used again, and which
mean nothing on another machine.

The package `filelock` does the same and more (waiting, re-entering, threads, a fallback by mere existence of the file,
which does go stale); of that nothing is needed here, and the two system calls are these few lines.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import ManifestError

FAR = 2**30  # the byte that is locked on Windows, where others cannot read a locked one


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the body runs.

    Raises:
        ManifestError: another process holds it (`locked`), or there can be no lock at this place.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _opened(lock)
    except OSError as err:
        raise _refusal(err, path, lock) from err
    try:
        with suppress(OSError):  # a full disk is told by what is written under the lock
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M')}")
            file.flush()
        yield
    finally:
        if os.name == "nt":  # where an open file cannot be removed
            file.close()
        with suppress(OSError):
            lock.unlink()  # while it is held: whoever has opened it finds out, see `_is_there`
        file.close()


def _opened(lock: Path) -> IO[str]:
    """The lock file, open and locked."""
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            _take(file)
            if os.name == "nt" or _is_there(file, lock):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # its last holder removed it between our opening and our locking it


def _take(file: IO[str]) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: another holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        file.seek(FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as err:  # EACCES or EDEADLOCK, which say no more
            raise BlockingIOError from err
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_there(file: IO[str], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _refusal(err: OSError, path: Path, lock: Path) -> ManifestError:
    if not isinstance(err, BlockingIOError):
        why = f"Cannot lock {path}: {err.strerror}. Give an --out on a disk where you may write."
        return ManifestError(why, code="cannot_write")
    who = "another process"
    with suppress(OSError):  # it may be gone by now
        who = lock.read_text(encoding="utf-8", errors="replace")[:120] or who
    return ManifestError(f"{path} is being written by {who}. Wait for it, or give another --out.", code="locked")
