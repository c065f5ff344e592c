"""What people corrected in Label Studio, as training rows and preference pairs.

    EXPORT (Label Studio's "JSON") of tasks that omni export wrote
      ─► OUT    a manifest for train_sft.py, one row for each task that was annotated:
                clip, label, rationale, question; extra: review (confirmed | corrected), annotators, agreeing,
                text (the words of the clip, as the model was told them)
      ─► PAIRS  JSON lines, one for each distinct answer that differs from the model's:
                clip, question, chosen, rejected, annotator, changed ([label, rationale]), model, sha256

`chosen` is the human's answer and `rejected` the model's, both as `answer.format_answer` writes them. An answer that
was left as it was makes no pair.

Several annotators: of each the latest annotation counts. The label of a row is that of the majority, or of the
annotation marked as ground truth; without a majority the task is left out. The rationale is the latest of those with
that label, one that was rewritten before one that was left. Only they make pairs. Left out as well: skipped annotations
(`was_cancelled`) and those without a label. Moved cues of the timeline are not taken over: the manifest has no column
for them.
Source: labelstud.io/guide/export, "Label Studio JSON format of annotated tasks"
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .answer import format_answer
from .errors import ManifestError
from .export.label_studio import KEPT
from .journal import Row, encodable, replace_file
from .manifest import Example, write_manifest


class Said(NamedTuple):
    """An answer: of the model, or of a person."""

    label: str
    rationale: str


class Annotation(NamedTuple):
    """What one person said about a clip. `changed` are the parts that differ from the model's."""

    said: Said
    annotator: str
    changed: tuple[str, ...]
    updated: str
    ground_truth: bool


@dataclass(frozen=True)
class Imported:
    """What became of the tasks of an export; all numbers but `pairs` count tasks."""

    confirmed: int
    corrected: int
    pairs: int
    unanswered: int
    disputed: int

    def lines(self) -> list[str]:
        """
        >>> Imported(3, 2, 2, 1, 0).lines()
        ['5 rows: 3 confirmed, 2 corrected; 2 preference pairs', 'left out: 1 skipped or without a label']
        """
        rows = self.confirmed + self.corrected
        counts = {"skipped or without a label": self.unanswered, "without a majority": self.disputed}
        left = [f"{count} {why}" for why, count in counts.items() if count]
        written = f"{rows} rows: {self.confirmed} confirmed, {self.corrected} corrected; {self.pairs} preference pairs"
        return [written] + ([f"left out: {', '.join(left)}"] if left else [])


def import_corrections(export: str | Path, out: str | Path, pairs: str | Path, root: str | Path = ".") -> Imported:
    """Write the manifest and the preference pairs of an export.

    Args:
        root: the folder that relative clips start from, as in `omni.export.export_table`.

    Raises:
        ManifestError: no export of Label Studio, tasks that are not ours, or a rationale with our tags in it.
    """
    if Path(out).resolve() == Path(pairs).resolve():
        raise ManifestError("--out and --pairs are the same file. Name two.", code="bad_argument")
    answers = [(_model(task, export), task) for task in _tasks(Path(export))]
    given_to = [(model, _annotations(task, model, export)) for model, task in answers]
    agreed = [(model, given, agreement(given)) for model, given in given_to]
    rows = [_example(model, given, best, Path(root)) for model, given, best in agreed if best]
    preferred = [pair for model, _, best in agreed for pair in _pairs(model, best, Path(root))]
    write_manifest(out, rows)
    replace_file(Path(pairs), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in preferred).encode())
    reviews = Counter(row.extra["review"] for row in rows)
    unanswered = sum(not given for _, given in given_to)
    disputed = len(given_to) - len(rows) - unanswered
    return Imported(reviews["confirmed"], reviews["corrected"], len(preferred), unanswered, disputed)


def agreement(given: Sequence[Annotation]) -> list[Annotation]:
    """The annotations with the label that counts, the best rationale first; none without a majority.

    >>> def note(label, who, changed=(), truth=False):
    ...     return Annotation(Said(label, "…"), who, changed, "2026", truth)
    >>> [one.annotator for one in agreement([note("sad", "1"), note("happy", "2"), note("sad", "3", ("rationale",))])]
    ['3', '1']
    >>> agreement([note("sad", "1"), note("happy", "2")])
    []
    >>> [one.annotator for one in agreement([note("sad", "1"), note("happy", "2", (), True)])]
    ['2']
    """
    voters = [one for one in given if one.ground_truth] or given
    votes = Counter(one.said.label for one in voters)
    winners = [label for label, count in votes.items() if 2 * count > len(voters)]
    agreeing = [one for one in voters if one.said.label in winners]
    return sorted(agreeing, key=lambda one: ("rationale" in one.changed, one.updated), reverse=True)


def _tasks(path: Path) -> list[Row]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as err:
        raise ManifestError(f"Cannot read {path}: {err.strerror}. Check the path.", code="not_found") from err
    except ValueError as err:
        raise _foreign(path) from err
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise _foreign(path)
    return tasks


def _foreign(path: str | Path) -> ManifestError:
    return ManifestError(
        f"{path} is no export of Label Studio as JSON. Choose Export, JSON there, not JSON-MIN or CSV.",
        code="bad_export",
    )


def _model(task: Row, path: str | Path) -> Row:
    """What the model said about the clip of a task."""
    notes = task.get("annotations")
    if not isinstance(task.get("data"), dict) or not isinstance(notes, list):
        raise _foreign(path)
    if not all(isinstance(note, dict) and isinstance(note.get("result"), list) for note in notes):
        raise _foreign(path)
    told = task["data"].get("omni")
    if not isinstance(told, dict) or not told.keys() >= set(KEPT):
        raise ManifestError(
            f"{path}: task {task.get('id')} has no data.omni, so what the model said is unknown. "
            "Import into Label Studio the tasks.json that omni export wrote.",
            code="bad_export",
        )
    return told


def _annotations(task: Row, model: Row, path: str | Path) -> list[Annotation]:
    """The latest annotation of each person, if it is not skipped and has a label."""
    latest: dict[str, Row] = {}
    for raw in sorted(task["annotations"], key=lambda raw: raw.get("updated_at") or ""):
        person = raw.get("completed_by")
        latest[str(person["id"] if isinstance(person, dict) else person)] = raw
    where, rejected = f"{path}: task {task.get('id')}", _said_by_model(model)
    found = [_annotation(raw, name, rejected, where) for name, raw in latest.items() if not raw.get("was_cancelled")]
    return [one for one in found if one]


def _annotation(raw: Row, annotator: str, model: Said, where: str) -> Annotation | None:
    said = Said(_value(raw["result"], "label"), _value(raw["result"], "rationale"))
    if not said.label:
        return None
    try:
        format_answer(*said)
    except ValueError as err:
        raise ManifestError(f"{where}: {err} Edit it in Label Studio and export again.", code="bad_text") from err
    changed = tuple(name for name in Said._fields if getattr(said, name) != getattr(model, name))
    return Annotation(said, annotator, changed, raw.get("updated_at") or "", bool(raw.get("ground_truth")))


def _value(result: Iterable[Row], name: str) -> str:
    """What a control of the page holds, on one line; "" if it was left empty.

    >>> _value([{"from_name": "rationale", "type": "textarea", "value": {"text": ["A smile. ", "Loud."]}}], "rationale")
    'A smile. Loud.'
    """
    values: list[Any] = []
    for region in result:
        if region.get("from_name") == name:
            told = region["value"].get("choices") or region["value"].get("text") or []
            values += [told] if isinstance(told, str) else told
    return encodable(_line(" ".join(values)))


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _said_by_model(model: Row) -> Said:
    return Said(_line(model["label"]), _line(model["thought"]))


def _example(model: Row, given: Sequence[Annotation], best: Sequence[Annotation], root: Path) -> Example:
    label, rationale = best[0].said
    review = "corrected" if best[0].changed else "confirmed"
    agreeing = sum(one.said.label == label for one in given)
    extra = {"review": review, "annotators": len(given), "agreeing": agreeing}
    extra |= {"text": model["transcript"]} if model["transcript"] else {}
    return Example(_clip(model, root), label, rationale or None, model["question"], extra)


def _pairs(model: Row, best: Sequence[Annotation], root: Path) -> list[Row]:
    """A pair for each distinct answer that was changed; none if the model gave no answer to reject."""
    rejected = _said_by_model(model)
    distinct = {one.said: one for one in reversed(best) if one.changed and rejected.label}
    return [
        {
            "clip": str(_clip(model, root)),
            "question": model["question"],
            "chosen": format_answer(*one.said),
            "rejected": format_answer(*rejected),
            "annotator": one.annotator,
            "changed": list(one.changed),
            "model": model["model"],
            "sha256": model["sha256"],
        }
        for one in reversed(distinct.values())
    ]


def _clip(model: Row, root: Path) -> Path:
    return Path(os.path.abspath(root / model["clip"]))
