"""The row of one clip and question: what `omni label` writes into its table and `omni ask --json` prints.

A row has all of `COLUMNS`, in their order. Without an answer (`status` is "error") the columns of the answer are null
and `error` says why, as {code, message}. In an open vocabulary `label` is what the model wrote, one or more words, and
there are no probabilities. `docs/labels.md` says what each column is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from .answer import Answer, parse_answer
from .clip import display_name
from .emotions import LabelSpace, emotion_words
from .errors import OmniError
from .journal import Row, encodable, printable
from .predictions import MESSAGE_LENGTH, OPEN, ModelId, open_fields

# Column → its kind in a file that has types. The order is that of the columns.
COLUMNS: dict[str, str] = {
    "clip": "text",
    "sha256": "text",
    "status": "text",
    "error": "error",
    "label": "text",
    "confidence": "number",
    "labels": "labels",
    "thought": "text",
    "text": "text",
    "well_formed": "truth",
    "modalities": "texts",
    "duration_s": "number",
    "evidence": "evidence",
    "model": "text",
    "model_sha256": "text",
    "prompt_sha256": "text",
    "omni_version": "text",
    "seed": "whole",
    "seconds": "number",
    "question": "text",
    "think": "truth",
    "warnings": "texts",
    "transcript": "text",
    "gates": "gates",
    "maps": "maps",
    "leading": "texts",
}


class Job(NamedTuple):
    """A clip with the question that it is asked. `sha256` is "" if the file cannot be read."""

    path: Path
    question: str
    sha256: str


class Task(NamedTuple):
    """What is the same for all clips of a run, and what their answers depend on."""

    space: LabelSpace
    model: ModelId
    think: bool = True
    seed: int = 0
    dtype: str = "auto"

    def facts(self) -> Row:
        """The same as fields of a row; `space` and `dtype` stand in the journal only."""
        named = {"model": self.model.name, "model_sha256": self.model.sha256, "think": self.think, "seed": self.seed}
        return named | {"space": list(self.space.labels), "dtype": self.dtype}


def clip_row(job: Job, task: Task, answer: Answer, seconds: float, asked: str) -> Row:
    """The row of a clip that was answered.

    Args:
        seconds: that reading and answering took.
        asked: the text that the model was asked with, beside the clip.
    """
    fields = answer.to_dict()
    if task.space == OPEN:
        words = ", ".join(emotion_words(parse_answer(answer.text).label))
        fields = open_fields(answer) | {"label": words or None}
    elif not answer.labels:  # of a server that gives none
        fields |= {"confidence": None, "labels": None}
    prompt = hashlib.sha256(asked.encode(errors="replace")).hexdigest()
    return _row(job, task, seconds) | fields | {"status": "ok", "prompt_sha256": prompt}


def asked_text(processor: Any, question: str | None, task: Task, answer: Answer) -> str:
    """The text that a model was asked with when it gave an answer."""
    how = {"modalities": answer.modalities, "transcript": answer.transcript}
    text: str = processor.prompt(question, task.space, think=task.think, **how)
    return text


def error_row(job: Job, task: Task, err: Exception, seconds: float) -> Row:
    """The row of a clip that could not be read or answered."""
    return _row(job, task, seconds) | {"status": "error", "error": _told(err, job.path)}


def _row(job: Job, task: Task, seconds: float) -> Row:
    """What a row has with and without an answer; all columns, in their order."""
    from . import __version__

    row = dict.fromkeys(COLUMNS) | {"clip": printable(job.path), "sha256": job.sha256, "question": job.question}
    row |= {name: value for name, value in task.facts().items() if name in COLUMNS}
    return row | {"evidence": [], "omni_version": __version__, "seconds": round(seconds, 3)}


def _told(err: Exception, path: Path) -> Row:
    if isinstance(err, OmniError):
        return {"code": err.code, "message": str(err)}
    if is_memory(err):
        message = f"{display_name(path)} needs more memory than there is. Cut it, or label it on a larger machine."
        return {"code": "out_of_memory", "message": message}
    what = encodable(" ".join(f"{type(err).__name__}: {err}".split())[:MESSAGE_LENGTH])
    message = f"A fault of ours, {what}. Look at it with omni ask CLIP --debug, and report it."
    return {"code": "internal", "message": message}


def is_memory(err: Exception) -> bool:
    """Whether memory ran out: Python's own error, CUDA's, or what torch says on a processor."""
    text = str(err).lower()
    return isinstance(err, MemoryError) or "out of memory" in text or "can't allocate memory" in text
