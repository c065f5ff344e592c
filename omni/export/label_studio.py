"""Label Studio: tasks that carry the model's answer as a prediction, and the labelling page that fits them.

    tasks.json   [{"data": {"clip": URL, "question": …, "omni": {…}},
                   "predictions": [{"model_version": …, "score": confidence, "result": [label, rationale, cues…]}]}]
    config.xml   Video "clip", Choices "label", TextArea "rationale", TimelineLabels "evidence"

In an open vocabulary there is no list to choose from, so "label" is a TextArea. Without any evidence there is no
timeline. The least certain rows come first in the file, and Label Studio can sort by `score` as well.
`data.omni` is what the model said: `omni/corrections.py` compares a human's answer with it, since an export need not
hold the predictions.

A clip's URL is that of Label Studio's local storage, /data/local-files/?d=PATH, relative to the folder that it serves
(LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT). Its timeline counts frames from 1 at the page's `frameRate`, so seconds become
frames at RATE, whatever the clip's own rate is.
Source: labelstud.io/guide/predictions, labelstud.io/tags/timelinelabels
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from ..errors import ManifestError
from ..journal import Row
from .evidence import Span, chosen, clip_path, spans, xml_text

RATE = 25  # frames a second on the page's timeline
URL = "/data/local-files/?d="
KEPT = ("clip", "sha256", "question", "label", "thought", "transcript", "model")  # in data.omni


def label_studio_files(rows: Sequence[Row], root: Path) -> Mapping[str, bytes]:
    """tasks.json and config.xml.

    Raises:
        ManifestError: a clip that does not lie below root, so that Label Studio could not serve it.
    """
    certain = sorted(rows, key=lambda row: 1.0 if row["confidence"] is None else row["confidence"])
    tasks = [_task(row, root) for row in certain]
    return {
        "tasks.json": json.dumps(tasks, ensure_ascii=False, indent=1).encode(errors="replace"),
        "config.xml": _config(rows).encode(),
    }


def _task(row: Row, root: Path) -> Row:
    told = {name: row[name] for name in KEPT} | {
        "label": chosen(row),
        "thought": row["thought"] or "",
    }  # null in a .csv
    data = {"clip": _url(row, root), "question": row["question"], "omni": told}
    prediction = {"model_version": row["model"], "result": _result(row)}
    score = {} if row["confidence"] is None else {"score": row["confidence"]}
    return {"data": data, "predictions": [prediction | score]}


def _url(row: Row, root: Path) -> str:
    path = clip_path(row, root)
    if not path.is_relative_to(root):
        raise ManifestError(
            f"{row['clip']} is not below {root}, so Label Studio could not show it. "
            "Give --root a folder above all clips.",
            code="bad_root",
        )
    return URL + quote(path.relative_to(root).as_posix(), errors="replace")


def _result(row: Row) -> list[Row]:
    found = []
    if chosen(row):
        found.append(_text("label", row["label"]) if row["labels"] is None else _choice(row["label"]))
    if row["thought"]:
        found.append(_text("rationale", row["thought"]))
    return found + [_range(number, cue) for number, cue in enumerate(spans(row), start=1)]


def _choice(label: str) -> Row:
    return _region("label", "choices", {"choices": [label]}) | {"id": "label"}


def _text(name: str, text: str) -> Row:
    return _region(name, "textarea", {"text": [text]}) | {"id": name}


def _range(number: int, cue: Span) -> Row:
    frames = {"start": 1 + int(cue.start * RATE), "end": 1 + int(cue.end * RATE)}
    value = {"ranges": [frames], "timelinelabels": [xml_text(cue.name)]}
    note = {"text": [f"{cue.modality}, {cue.verdict}: {cue.sentence}"]}
    return _region("evidence", "timelinelabels", value) | {"id": f"cue-{number}", "meta": note}


def _region(name: str, kind: str, value: dict[str, Any]) -> Row:
    return {"from_name": name, "to_name": "clip", "type": kind, "value": value}


def _config(rows: Sequence[Row]) -> str:
    """The page: the clip with its timeline, then the question, the label and the rationale."""
    view = ET.Element("View")
    cues = sorted({xml_text(cue.name) for row in rows for cue in spans(row)})
    if cues:
        timeline = ET.SubElement(view, "TimelineLabels", name="evidence", toName="clip")
        for cue in cues:
            ET.SubElement(timeline, "Label", value=cue)
    ET.SubElement(view, "Video", name="clip", value="$clip", frameRate=str(RATE))
    ET.SubElement(view, "Header", value="$question")
    labels = sorted({label for row in rows for label in row["labels"] or ()})
    if labels:
        choices = ET.SubElement(view, "Choices", name="label", toName="clip", choice="single", required="true")
        for label in labels:
            ET.SubElement(choices, "Choice", value=label)
    else:
        _area(view, "label", rows=1, required=True)
    _area(view, "rationale", rows=4, required=False)
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _area(view: ET.Element, name: str, *, rows: int, required: bool) -> None:
    facts = {"name": name, "toName": "clip", "rows": str(rows), "required": str(required).lower()}
    ET.SubElement(view, "TextArea", facts | {"editable": "true", "maxSubmissions": "1"})
