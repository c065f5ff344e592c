"""The table of `omni label` as a file, and back: .jsonl, .csv and .parquet.

    .jsonl      one JSON object a line
    .csv        UTF-8 with a header; lists and objects as JSON, null and "" as nothing; text that a spreadsheet would
                take for a formula gets a ' in front (so does text that has one), which `decode_table` takes off
    .parquet    typed columns; `labels` a struct with a field for every label, `error` a struct; needs pyarrow

Columns that pass through keep their types in .jsonl and .parquet. In .parquet one becomes JSON text if its types are
mixed, or its objects are empty or differ in their keys, since all objects of a column have the same fields there.
`decode_table` is the inverse of `encode_table`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ManifestError
from .journal import Row, csv_text, encodable
from .label_row import COLUMNS

FORMULA = tuple("=+-@\t\r'")  # what a spreadsheet takes for the start of a formula, and our own mark


def check_format(path: Path) -> str:
    """The suffix of a table that can be written here.

    Raises:
        ManifestError: another suffix, a folder, or a missing package; said before a week of work and not after it.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS or path.is_dir():
        raise ManifestError(
            f"{path} cannot be the table. Name a file that ends in {', '.join(FORMATS)}.", code="bad_out"
        )
    if suffix == ".parquet":
        _parquet()
    return suffix


def encode_table(rows: Sequence[Row], suffix: str) -> bytes:
    """A table as the bytes of a file of this suffix. Columns that only some rows have are null in the others."""
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    whole = [dict.fromkeys(names) | row for row in rows]
    return FORMATS[suffix][0](whole, names)


def decode_table(content: bytes, suffix: str) -> list[Row]:
    """The rows of a table; in .csv, "" comes back as null and columns that passed through as text."""
    return FORMATS[suffix][1](content)


def _to_jsonl(rows: list[Row], names: list[str]) -> bytes:
    return b"".join(_json(row).encode(errors="replace") + b"\n" for row in rows)


def _from_jsonl(content: bytes) -> list[Row]:
    return [json.loads(line) for line in content.split(b"\n") if line]


def _to_csv(rows: list[Row], names: list[str]) -> bytes:
    return csv_text([names, *([csv_cell(row[name]) for name in names] for row in rows)]).encode(errors="replace")


def _from_csv(content: bytes) -> list[Row]:
    text = content.decode()
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, len(text)))  # which is of the process: a cell of a manifest may be 128 KB long
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    finally:
        csv.field_size_limit(usual)
    return [{name: _value(name, cell) for name, cell in row.items()} for row in rows]


def csv_cell(value: Any) -> str:
    """A value as a cell that no spreadsheet runs as a formula.

    >>> [csv_cell(value) for value in (None, "=1+1", "-5", True, ["video"], "It's")]
    ['', "'=1+1", '-5', 'true', '["video"]', "It's"]
    """
    if value is None:
        return ""
    text = _text(value)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    text = cell.removeprefix("'")
    return text if COLUMNS.get(name, "text") == "text" else json.loads(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    """A value as text: itself, JSON, or what Python prints of a time or a decimal out of a Parquet manifest."""
    if isinstance(value, str):
        return value
    return _json(value) if isinstance(value, bool | int | float | list | dict) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _to_parquet(rows: list[Row], names: list[str]) -> bytes:
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    claim = [*((name, text) for name in ("sentence", "modality", "cue", "verdict")), ("polarity", pa.int64())]
    claim += [("t0", number), ("t1", number)]

    def shares(column: str) -> Any:
        names = dict.fromkeys(name for row in rows for name in row[column] or ())
        return pa.struct([(name, number) for name in names]) if names else pa.null()

    types = {
        "text": text,
        "number": number,
        "truth": pa.bool_(),
        "whole": pa.int64(),
        "texts": pa.list_(text),
        "error": pa.struct([("code", text), ("message", text)]),
        "labels": shares("labels"),
        "evidence": pa.list_(pa.struct(claim)),
        "gates": shares("gates"),
        "maps": pa.list_(pa.struct([("stream", text), ("from_s", number), ("to_s", number), ("weight", number)])),
    }
    columns = {}
    for name in names:
        values = [row[name] for row in rows]
        columns[name] = pa.array(values, types[COLUMNS[name]]) if name in COLUMNS else _passed(values)
    file = io.BytesIO()
    _parquet().write_table(pa.table(columns), file)
    return file.getvalue()


def _passed(values: list[Any]) -> Any:
    """A column that passes through, with the type of its values; as text if they do not have one in common."""
    import pyarrow as pa

    with suppress(pa.ArrowException, ValueError, TypeError, OverflowError):  # mixed types, half an emoji, 2 ** 70
        found = pa.array(values)
        if all(_fits(value, found.type) for value in values):
            return found
    texts = (None if value is None else _text(value) for value in values)
    return pa.array([text and encodable(text) for text in texts], pa.string())


def _fits(value: Any, kind: Any) -> bool:
    """Whether the objects in a value have the fields of its Arrow type, which has those of all rows, and any at all."""
    if isinstance(value, list):
        return all(_fits(one, kind.value_type) for one in value)
    if isinstance(value, dict):
        return bool(value) and len(value) == kind.num_fields and all(_fits(value[one.name], one.type) for one in kind)
    return True


def _from_parquet(content: bytes) -> list[Row]:
    rows: list[Row] = _parquet().read_table(io.BytesIO(content)).to_pylist()
    shares = [name for name, kind in COLUMNS.items() if kind in ("labels", "gates")]
    for row in rows:  # a struct has all fields in every row: those of another row alone are null
        row |= {name: _without_null(row[name]) for name in shares if row.get(name)}
    return rows


def _without_null(found: Row) -> Row:
    return {name: value for name, value in found.items() if value is not None}


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as err:
        raise ManifestError(
            "Parquet needs pyarrow. Run pip install pyarrow, or write .csv or .jsonl.",
            code="missing_extra",
        ) from err
    return parquet


FORMATS: dict[str, tuple[Callable[[list[Row], list[str]], bytes], Callable[[bytes], list[Row]]]] = {
    ".jsonl": (_to_jsonl, _from_jsonl),
    ".csv": (_to_csv, _from_csv),
    ".parquet": (_to_parquet, _from_parquet),
}
