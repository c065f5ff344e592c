"""Manifests: which clips there are and what is known about them, one row per clip.

Three formats with the same columns, told apart by the suffix:

    clip        path of the media file; a relative one resolves against the folder of the manifest
    label       the true emotion, or empty
    rationale   the reasons in words (the thought of a cold-start example), or empty
    question    the question to ask, or empty for the default
    …           every other column is kept as `extra`

    .jsonl      one JSON object per line; extra values of any JSON type; blank lines are skipped
    .csv        a header line; an extra value that is no string is written as JSON and stays a string when read
    .parquet    an extra column holds strings, JSON if no string

Errors name file and line. Nothing here opens a clip: the manifest of a corpus on another disk can be read.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ManifestError
from .journal import csv_text, encodable, replacing, writing

COLUMNS = ("clip", "label", "rationale", "question")
Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One clip and what is known about it.

    >>> Example(Path("a.mp4"), "happy", extra={"speaker": "03"}).extra["speaker"]
    '03'
    """

    clip: Path
    label: str | None = None
    rationale: str | None = None
    question: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def read_manifest(path: str | Path) -> list[Example]:
    """Read a manifest.

    Raises:
        ManifestError: no such file, an unknown suffix, or a bad row; the message has file and line.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "m.jsonl").write_text('{"clip": "a.mp4", "label": "sad", "take": 2}')
    ...     example = read_manifest(Path(folder) / "m.jsonl")[0]
    >>> example.clip.name, example.label, example.extra
    ('a.mp4', 'sad', {'take': 2})
    """
    path = Path(path)
    reader = FORMATS[_suffix(path)][0]
    if not path.is_file():
        raise ManifestError(f"There is no manifest at {path}. Check the path.", code="not_found")
    return [_example(row, f"{path}:{line}", path.parent) for line, row in reader(path)]


def write_manifest(path: str | Path, examples: Iterable[Example]) -> None:
    """Write a manifest in one step: whoever reads the path sees the old file or the whole new one.

    Clips below the manifest's folder are written relative to it, so that it can move; others absolute.

    Raises:
        ManifestError: an unknown suffix, an extra key that is a column of its own, or a place that cannot be written.
    """
    path = Path(path)
    write = _writer(path, examples)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary)


def check_writable(path: str | Path, examples: Iterable[Example]) -> None:
    """Refuse, before hours of work, a place or rows that `write_manifest` could not write.

    Raises:
        ManifestError: as `write_manifest`.
    """
    path = Path(path)
    write = _writer(path, examples)
    if path.is_dir():
        raise ManifestError(f"{path} is a folder. Name a file.", code="cannot_write")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            write(Path(folder) / path.name)


def _writer(path: Path, examples: Iterable[Example]) -> Callable[[Path], None]:
    """What writes these rows in the format of the suffix of `path`, as seen from its folder."""
    write, rows = FORMATS[_suffix(path)][1], [_row(example, path.parent) for example in examples]
    return lambda place: write(place, rows)


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise ManifestError(f"{path.name} is no manifest. Use {', '.join(FORMATS)}.", code="unknown_format")
    return path.suffix.lower()


def _example(row: Row, where: str, folder: Path) -> Example:
    clip = row.get("clip")
    if not isinstance(clip, str) or not clip.strip():
        raise ManifestError(
            f"{where}: the row has no 'clip'. Give each row the path of its media file.", code="bad_row"
        )
    for column in COLUMNS[1:]:
        if not isinstance(row.get(column), str | None):
            raise ManifestError(f"{where}: '{column}' must be text, got {row[column]!r}.", code="bad_row")
    known = {column: row.get(column) or None for column in COLUMNS[1:]}
    extra = {key: value for key, value in row.items() if key not in COLUMNS}
    return Example(Path(os.path.normpath(folder.absolute() / clip)), extra=extra, **known)


def _row(example: Example, folder: Path) -> Row:
    clash = set(example.extra) & set(COLUMNS)
    if clash:
        raise ManifestError(
            f"Extra key '{min(clash)}' of {example.clip} is a column of its own. Rename it.", code="bad_row"
        )
    clip, home = Path(os.path.normpath(example.clip.absolute())), Path(os.path.normpath(folder.absolute()))
    name = clip.relative_to(home).as_posix() if clip.is_relative_to(home) else clip.as_posix()
    known = {column: getattr(example, column) for column in COLUMNS[1:]}
    return {"clip": name} | {key: value for key, value in known.items() if value} | example.extra


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    for line, text in _numbered(path):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as err:
            raise ManifestError(f"{path}:{line}: no JSON ({err.msg}). Repair the line.", code="bad_row") from err
        if not isinstance(row, dict):
            raise ManifestError(f"{path}:{line}: wanted a JSON object, got {text.strip()[:40]}.", code="bad_row")
        yield line, row


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file from 1; a byte order mark (as Windows writes it) is taken off."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            yield from enumerate(file, start=1)
        except UnicodeDecodeError as err:
            raise ManifestError(f"{path} is not UTF-8 text. Save it as UTF-8.", code="bad_encoding") from err


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)  # else a stray quote swallows the rows after it
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise ManifestError(
                        f"{path}:{reader.line_num}: the row has another number of columns than the header. "
                        "Quote values that contain a comma.",
                        code="bad_row",
                    )
                yield reader.line_num, {key: value for key, value in row.items() if value != ""}
        except UnicodeDecodeError as err:
            raise ManifestError(f"{path} is not UTF-8 text. Save it as UTF-8.", code="bad_encoding") from err
        except csv.Error as err:
            raise ManifestError(
                f"{path}:{reader.line_num + 1}: {err}. Repair it, or use .jsonl.", code="bad_row"
            ) from err


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = _parquet().read_table(path).to_pylist()
    except (ValueError, OSError) as err:  # pyarrow's
        raise ManifestError(f"{path} is no Parquet file, or a damaged one. Write it again.", code="bad_file") from err
    for line, row in enumerate(rows, start=1):
        yield line, {key: value for key, value in row.items() if value is not None}


def _write_jsonl(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(encodable(json.dumps(row, ensure_ascii=False, default=_moment)) + "\n" for row in rows)


def _write_csv(path: Path, rows: list[Row]) -> None:
    columns = _columns(rows)
    lines = [columns, *([_text(row.get(name)) for name in columns] for row in rows)]
    path.write_text(csv_text(lines), encoding="utf-8", newline="")


def _write_parquet(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa

    columns = _columns(rows)
    table = {column: [None if row.get(column) is None else _text(row[column]) for row in rows] for column in columns}
    schema = pa.schema([(column, pa.string()) for column in columns])
    _parquet().write_table(pa.table(table, schema=schema), path)


def _columns(rows: list[Row]) -> list[str]:
    """The four known columns, then the extra ones in the order in which they appear."""
    return list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return encodable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_moment))


def _moment(value: Any) -> str:
    """A date or time, which Parquet has and JSON has not."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as err:
        raise ManifestError(
            "Parquet needs pyarrow. Run pip install pyarrow, or use .jsonl or .csv.", code="missing_extra"
        ) from err
    return parquet


FORMATS: dict[str, tuple[Callable[[Path], Iterator[tuple[int, Row]]], Callable[[Path, list[Row]], None]]] = {
    ".jsonl": (_read_jsonl, _write_jsonl),
    ".csv": (_read_csv, _write_csv),
    ".parquet": (_read_parquet, _write_parquet),
}
