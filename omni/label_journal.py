"""The journal of a table: what has been answered, and by what it is known.

    OUT.journal     a JSON object a line: a row of the table with all `COLUMNS`, and beside them
        asked           the question as it was given; null for the model's own
        space, dtype    labels that were asked for, precision that was asked for

An answer is known by the sha256 of the clip's bytes and the question as it was given; a row with an error by the path
as well, since its message names the file. Later lines go before earlier ones. All lines are of one model, label space,
way of asking, seed and precision.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ManifestError
from .journal import Row, file_sha256, printable, recover
from .label_row import COLUMNS, Job, Task
from .label_sources import Wanted

Key = tuple[str, str | None]  # what an answer is known by: sha256 and question, None for the model's own


class Todo(NamedTuple):
    """A clip and what it is known by."""

    path: Path
    key: Key

    def job(self, question: str) -> Job:
        """The same, with the model's own question where none was given."""
        return Job(self.path, self.key[1] or question, self.key[0])


@dataclass
class Known:
    """Rows by what they are known by, those with an error also by the path; and the hashes of clips, once made."""

    file_bytes: int
    answers: dict[Key, Row] = field(default_factory=dict)
    errors: dict[tuple[str, Key], Row] = field(default_factory=dict)
    hashes: dict[Path, str] = field(default_factory=dict)

    def todo(self, clip: Wanted) -> Todo:
        if clip.path not in self.hashes:
            self.hashes[clip.path] = _sha256(clip.path, self.file_bytes)
        return Todo(clip.path, (self.hashes[clip.path], clip.question))

    def row(self, todo: Todo) -> Row | None:
        return self.answers.get(todo.key) or self.errors.get((printable(todo.path), todo.key))

    def has(self, row: Row) -> bool:
        """Whether a row of the journal is there already."""
        key = row["sha256"], row["asked"]
        return key in self.answers or (row["clip"], key) in self.errors

    def add(self, row: Row) -> None:
        """Take in a row of the journal."""
        key = row["sha256"], row["asked"]
        if row["status"] == "ok":
            self.answers[key] = row
        else:
            self.errors[row["clip"], key] = row

    def added(self, rows: list[Row]) -> list[Row]:
        """The same rows, taken in."""
        for row in rows:
            self.add(row)
        return rows


def read_journal(out: Path, task: Task, retry_errors: bool, file_bytes: int) -> Known:
    """What the journal of a table holds.

    Args:
        retry_errors: leave out rows with an error, as if they had not been tried.
        file_bytes: larger clips will be refused, so they are not hashed.

    Raises:
        ManifestError: the table has no journal, or one that is not ours, or of another model or way of asking.
    """
    path = journal_of(out)
    if out.exists() and not path.exists():
        raise ManifestError(
            f"{out} is there, but its journal {path.name} is not, so it would be lost. Give another --out, or move it "
            "away.",
            code="no_journal",
        )
    facts = task.facts()
    known = Known(file_bytes)
    for row in recover(path, frozenset([*COLUMNS, *facts, "asked"]), lambda row: False):
        refuse_others(row, facts, path)
        if row["status"] == "ok" or not retry_errors:
            known.add(row)
    return known


def refuse_others(row: Row, facts: Row, path: Path) -> None:
    """Raise if a row of a file was made in another way.

    Args:
        facts: of `Task.facts`.

    Raises:
        ManifestError: by another model, label space, way of asking, seed or precision.
    """
    other = next((name for name, value in facts.items() if row[name] != value), None)
    if other:
        raise ManifestError(
            f"{path} was made with {other} {_short(row[other])}, not with {_short(facts[other])}. Give another "
            "--out for these answers, or go on as before.",
            code="other_run",
        )


def _short(value: Any) -> str:
    """
    >>> _short(["angry", "sad"]), _short("0" * 64), _short(7)
    ('angry, sad', '000000000000…', '7')
    """
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def journal_of(out: Path) -> Path:
    """Where the journal of a table lies."""
    return out.with_name(out.name + ".journal")


def _sha256(path: Path, file_bytes: int) -> str:
    """Hash of a clip, "" where it cannot be read or is too large to be."""
    with suppress(OSError, ValueError):  # a name too long, a zero byte in it: reading it says so
        if path.stat().st_size <= file_bytes:
            return file_sha256(path)
    return ""


def entry(todo: Todo, task: Task, row: Row) -> Row:
    """A row with what the journal keeps beside it."""
    return row | task.facts() | {"asked": todo.key[1]}
