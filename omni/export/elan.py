"""ELAN: an annotation document (.eaf, format 3.0) for each row.

    tier "label"        the label, over the whole clip
    tier "rationale"    the thought, over the whole clip
    tier "video", …     a tier for each modality of the evidence: "smile (supported)" from t0 to t1;
                        a denial is "no smile (supported)"

Times are milliseconds. Annotations of one tier must not overlap in ELAN: cues of one modality that do go to a second
tier, "video 2", and so on. The media descriptor holds the clip's absolute address and its file name, which is where
ELAN looks if the .eaf lies beside the clip.
Source: EAFv3.0.xsd and "EAF Annotation Format 3.0" of the Max Planck Institute for Psycholinguistics
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as ET

from ..journal import Row
from .evidence import clip_path, spans, xml_text

XSI = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
TYPE = "default-lt"


class Note(NamedTuple):
    """An annotation, in milliseconds."""

    start: int
    end: int
    text: str


def elan_files(rows: Sequence[Row], root: Path) -> Mapping[str, bytes]:
    """File name → document. Named after the clips; of two with one name the second is NAME-2.eaf."""
    files: dict[str, bytes] = {}
    taken: set[str] = set()
    for row in rows:
        path = clip_path(row, root)
        files[_free(path.stem, taken) + ".eaf"] = _document(row, path)
    return files


def _free(stem: str, taken: set[str]) -> str:
    """A name that no file has yet, also where case makes no difference."""
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return name


def tiers(row: Row) -> dict[str, list[Note]]:
    """Tier → its annotations by time, none of which overlap.

    >>> smile = {"sentence": "", "modality": "video", "cue": "smile", "polarity": 1, "verdict": "supported"}
    >>> cues = [smile | {"t0": 0.0, "t1": 0.5}, smile | {"cue": "brow_down", "t0": 0.25, "t1": 1.0}]
    >>> for name, notes in tiers({"label": "happy", "thought": "", "duration_s": 1.0, "evidence": cues}).items():
    ...     print(name, *notes)
    label Note(start=0, end=1000, text='happy')
    video Note(start=0, end=500, text='smile (supported)')
    video 2 Note(start=250, end=1000, text='brow_down (supported)')
    """
    whole = max(1, _milliseconds(row["duration_s"]))
    said = {"label": row["label"], "rationale": row["thought"]}
    found = {name: [Note(0, whole, text)] for name, text in said.items() if text}
    for cue in sorted(spans(row), key=lambda cue: cue.start):
        start = _milliseconds(cue.start)
        note = Note(start, max(start + 1, _milliseconds(cue.end)), f"{cue.name} ({cue.verdict})")
        number, tier = 1, cue.modality
        while tier in found and found[tier][-1].end > note.start:
            number += 1
            tier = f"{cue.modality} {number}"
        found.setdefault(tier, []).append(note)
    return found


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _document(row: Row, path: Path) -> bytes:
    ET.register_namespace("xsi", XSI)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"AUTHOR": f"omni {row['omni_version']}", "DATE": now, "FORMAT": "3.0", "VERSION": "3.0"}
    document = ET.Element("ANNOTATION_DOCUMENT", {**facts, f"{{{XSI}}}noNamespaceSchemaLocation": SCHEMA})
    header = ET.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    ET.SubElement(header, "MEDIA_DESCRIPTOR", _media(path))
    found = tiers(row)
    times = sorted({time for notes in found.values() for note in notes for time in (note.start, note.end)})
    slots = {time: f"ts{number}" for number, time in enumerate(times, start=1)}
    order = ET.SubElement(document, "TIME_ORDER")
    for time, slot in slots.items():
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(time))
    count = 0
    for name, notes in found.items():
        tier = ET.SubElement(document, "TIER", LINGUISTIC_TYPE_REF=TYPE, TIER_ID=xml_text(name))
        for note in notes:
            count += 1
            refs = {"TIME_SLOT_REF1": slots[note.start], "TIME_SLOT_REF2": slots[note.end]}
            place = ET.SubElement(
                ET.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", refs, ANNOTATION_ID=f"a{count}"
            )
            ET.SubElement(place, "ANNOTATION_VALUE").text = xml_text(note.text)
    ET.SubElement(
        document, "LINGUISTIC_TYPE", LINGUISTIC_TYPE_ID=TYPE, TIME_ALIGNABLE="true", GRAPHIC_REFERENCES="false"
    )
    ET.indent(document)
    content: bytes = ET.tostring(document, encoding="utf-8", xml_declaration=True)
    return content


def _media(path: Path) -> dict[str, str]:
    kind = mimetypes.guess_type(path.name)[0] or "unknown"
    beside = "./" + quote(path.name, errors="replace")
    return {"MEDIA_URL": path.as_uri(), "MIME_TYPE": kind, "RELATIVE_MEDIA_URL": beside}
