"""A table of `omni label` in the formats that people annotate, count and train in.

    label-studio   a folder: tasks.json with the model's answers as predictions, config.xml, the page that fits them
    elan           a folder: one .eaf for each row, with a tier for each modality
    csv            a file: one flat line for each row
    sharegpt       a file of JSON lines: one exchange of question and answer for each row

Rows with an error have no answer and are left out. `omni/corrections.py` is the way back from Label Studio. Nothing
here opens a clip, so a table can be exported where the clips are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ManifestError
from ..journal import Row, replace_file
from ..label_row import COLUMNS
from ..label_table import check_format, decode_table
from .elan import elan_files
from .flat import csv_file
from .label_studio import label_studio_files
from .sharegpt import sharegpt_file

FOLDERS: dict[str, Callable[[Sequence[Row], Path], Mapping[str, bytes]]] = {
    "label-studio": label_studio_files,
    "elan": elan_files,
}
FILES: dict[str, Callable[[Sequence[Row], Path], bytes]] = {"csv": csv_file, "sharegpt": sharegpt_file}


class Exported(NamedTuple):
    """How many rows were written, and how many were left out because they have an error."""

    rows: int
    errors: int


def export_table(table: str | Path, to: str, out: str | Path, root: str | Path = ".") -> Exported:
    """Write a table of `omni label` in another format.

    Args:
        table: .jsonl, .csv or .parquet.
        to: a key of `FOLDERS`, whose `out` is a folder, or of `FILES`, whose `out` is a file.
        root: the folder that relative clips start from: the one `omni label` ran in. For Label Studio also the folder
            that it serves files from.

    Raises:
        ManifestError: an unknown format, no table, a table without an answer, or a place that cannot be written.
    """
    out, root = Path(out), Path(os.path.abspath(root))
    if to not in FOLDERS | FILES:
        raise ManifestError(f"There is no format {to!r}. Use one of {', '.join(FOLDERS | FILES)}.", code="bad_format")
    if os.path.abspath(out) == os.path.abspath(table):
        raise ManifestError(f"{out} is the table itself. Give --out another name.", code="bad_out")
    rows = read_table(Path(table))
    answered = [row for row in rows if row["status"] == "ok"]
    if not answered:
        raise ManifestError(f"{table} has no row with an answer. Run omni label --retry-errors.", code="no_rows")
    if to in FOLDERS:
        _write({out / name: content for name, content in FOLDERS[to](answered, root).items()})
    else:
        _write({out: FILES[to](answered, root)})
    return Exported(len(answered), len(rows) - len(answered))


def read_table(path: Path) -> list[Row]:
    """The rows of a table of `omni label`.

    Raises:
        ManifestError: there is none, or it is no table of ours.
    """
    suffix = check_format(path)
    if not path.is_file():
        raise ManifestError(f"There is no table at {path}. Write one with omni label --out.", code="not_found")
    try:
        rows = decode_table(path.read_bytes(), suffix)
        whole = all(row.keys() >= COLUMNS.keys() for row in rows)
    except (ValueError, AttributeError) as err:  # no JSON, no UTF-8, no Parquet (ArrowInvalid), no objects
        raise _foreign(path) from err
    if not whole:
        raise _foreign(path)
    return rows


def _foreign(path: Path) -> ManifestError:
    return ManifestError(f"{path} is no table of omni label. Export what omni label wrote to --out.", code="bad_table")


def _write(files: Mapping[Path, bytes]) -> None:
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ManifestError(f"{path.parent} cannot be a folder. Choose another --out.", code="bad_out") from err
        replace_file(path, content)
