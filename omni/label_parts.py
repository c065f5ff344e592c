"""Parts: what other processes have answered, on the disk before the process that shares out the work has it.

    OUT.parts/part-….parquet    rows of one batch, as the journal has them (`label_journal.py`), in typed columns

A part appears under its name in one step, so it is whole or not there. Its name is made of what its rows are about:
a batch that is answered again, since its process was lost, writes over its own part. When labelling starts, by whatever
engine, what the parts know and the journal does not goes into the journal. When the table is there they are removed.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from .errors import ManifestError
from .journal import Row, replace_file
from .label_journal import Known, refuse_others
from .label_row import COLUMNS, Task
from .label_table import decode_table, encode_table


def parts_of(out: Path) -> Path:
    """The folder of the parts of a table."""
    return out.with_name(out.name + ".parts")


def write_part(folder: Path, rows: Sequence[Row]) -> Path:
    """Write rows of the journal as a part; returns when they are on the disk.

    Args:
        folder: of `parts_of`, which must be there: on another machine it may not be.

    Raises:
        ManifestError: they cannot be written.
    """
    about = "\n".join(f"{row['sha256']} {row['clip']} {row['asked']}" for row in rows)
    name = hashlib.sha256(about.encode(errors="replace")).hexdigest()[:16]
    path = folder / f"part-{name}.parquet"
    replace_file(path, encode_table(rows, ".parquet"))
    return path


def new_rows(out: Path, task: Task, known: Known, retry_errors: bool) -> list[Row]:
    """Rows of the parts of a table that are not known yet.

    Args:
        retry_errors: leave out rows with an error.

    Raises:
        ManifestError: a part is not ours, or of another model or way of asking.
    """
    facts, found = task.facts(), []
    for path in sorted(parts_of(out).glob("part-*.parquet")):
        for row in _read(path, frozenset([*COLUMNS, *facts, "asked"])):
            refuse_others(row, facts, path)
            wanted = row["status"] == "ok" or not retry_errors
            if wanted and not known.has(row):
                found += known.added([row])
    return found


def remove_parts(out: Path) -> None:
    """Remove the parts of a table, whose rows are in its journal."""
    shutil.rmtree(parts_of(out), ignore_errors=True)


def _read(path: Path, columns: frozenset[str]) -> list[Row]:
    import pyarrow as pa

    try:
        rows = decode_table(path.read_bytes(), ".parquet")
    except (OSError, pa.ArrowException) as err:
        raise ManifestError(f"{path} cannot be read ({err}). Move it away.", code="bad_row") from err
    if not all(row.keys() >= columns for row in rows):
        raise ManifestError(f"{path} has no rows of ours. Move it away.", code="bad_row")
    return rows
