"""Tables of JSON lines that survive a kill: rows are appended and synced, a torn last line is cut off.

    known = recover(table, columns, drop)       what is there, made whole
    with appending(table) as write:             write(rows) returns when they are on the disk

A file that is not a table but written whole goes through `replace_file`: a kill leaves the old one or the new one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ManifestError

Row = dict[str, Any]


def recover(table: Path, columns: frozenset[str], drop: Callable[[Row], bool]) -> list[Row]:
    """The rows of a table, after making it whole: torn last line off, rows to `drop` out.

    Args:
        columns: what every row has; a line without them is not one of ours.

    Raises:
        ManifestError: a line that is no row of ours. Nothing is changed then.
    """
    if not table.exists():
        return []
    raw = table.read_bytes()
    *lines, tail = raw.split(b"\n")
    lines += [tail] if _parse(tail, columns) else []
    kept: list[tuple[bytes, Row]] = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line, columns)
        if row is None:
            raise ManifestError(
                f"{table}:{number}: this is no row of ours. Write to another place, or repair the line.",
                code="bad_row",
            )
        kept += [] if drop(row) else [(line, row)]
    whole = b"".join(line + b"\n" for line, _ in kept)
    if whole != raw:
        replace_file(table, whole)
    return [row for _, row in kept]


@contextmanager
def appending(table: Path) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that appends rows and returns when they are on the disk.

    Raises:
        ManifestError: they cannot be written; earlier rows are safe.
    """
    with writing(table):
        table.parent.mkdir(parents=True, exist_ok=True)
        file = table.open("ab", buffering=0)

    def write(rows: Sequence[Row]) -> None:
        left = memoryview(
            b"".join(json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n" for row in rows)
        )
        with writing(table):
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(file.fileno())

    with file:
        yield write


def replace_file(path: Path, content: bytes) -> None:
    """Put content in the place of a file in one step.

    Raises:
        ManifestError: it cannot be written; what was there is still there.
    """
    with writing(path), replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end; nothing is left of it if that fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # temporary files are private, these are not
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, "" if there is no regular file to read; reading it then says why."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def csv_text(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as .csv; what has a bare carriage return is quoted, which csv leaves out before Python 3.13.

    >>> csv_text([["clip", "said"], ["a.mp4", "one, two"]]), csv_text([["a\\rb"]])
    ('clip,said\\na.mp4,"one, two"\\n', '"a\\rb"\\n')
    """
    returns = any("\r" in cell for line in lines for cell in line)
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL).writerows(lines)
    return file.getvalue()


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: half a character, as cut JSON or a terminal gives it, becomes a question mark.

    >>> encodable("wh\\udcffy")
    'wh?y'
    """
    return text.encode(errors="replace").decode()


def printable(path: Path) -> str:
    """A path as text; bytes that are no UTF-8 (a file from an old disk) become �.

    >>> printable(Path(os.fsdecode(b"caf\\xe9.mp4")))
    'caf�.mp4'
    """
    return os.fsencode(path).decode("utf-8", "replace")


def _parse(line: bytes, columns: frozenset[str]) -> Row | None:
    """A row of ours, or None."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() >= columns else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with the disk becomes a ManifestError that names the path."""
    try:
        yield
    except OSError as err:
        raise ManifestError(
            f"Cannot write {path}: {err.strerror}. Make room or choose another --out; finished rows are safe.",
            code="cannot_write",
        ) from err
