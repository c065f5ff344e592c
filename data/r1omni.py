"""The JSON that R1-Omni trains on: conversations with reasons (cold start) or with a bare label (reinforcement).

    [{"video": "MER24/sample_00000967.mp4", "conversations": [
        {"from": "human", "value": "<video>\\n<audio>\\nAs an emotional recognition expert; throughout the video, which
          emotion conveyed by the characters is the most obvious to you? Output the thinking process in <think> </think>
          and final emotion in <answer> </answer> tags."},
        {"from": "gpt", "value": "<think>The video depicts …</think>\\n<answer>anxious</answer>"}]},
     {"video": "DFEW/videos/1.mp4", "conversations": [
        {"from": "human", "value": "<video>\\n<audio>\\nAs an emotional recognition expert; …?"},
        {"from": "gpt", "value": "sad"}]}]

One list in a `.json` file, or one such object a line in a `.jsonl` file. Each entry gives one example: the reasons
(if any), the label, and the question without the placeholders and without the sentence about the tags, since
`omni.answer` and the prompts of released models write their own.

Size: 580 entries for the cold start (232 of EMER, 348 of HumanOmni), 15,306 for reinforcement (training folds of MAFW
and DFEW). Protocol: all is training data. Licence: that of the corpora it is made of.
Cite: Zhao et al., "R1-Omni: Explainable Omni-Multimodal Emotion Recognition with Reinforcement Learning", arXiv
2503.05379.

Not verified: neither file has been released. Form and examples are from the owners' README and from the code that
loads them. Their words for the 348 clips are unknown: a word that is not in `--labels` is an error, and `--labels
open` keeps all words as they are.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omni.answer import TAG, parse_answer
from omni.errors import ManifestError
from omni.manifest import Example

from .corpus import Found, label_in, listed, read_text

PLACEHOLDERS = re.compile(r"^(?:\s*<(?:video|audio|image)>)+\s*")
INSTRUCTION = re.compile(
    r"\s*Output the thinking process in <think> </think> and (?:the )?final emotion in <answer> </answer> tags\.?\s*$"
)
BETWEEN = re.compile(r"[\s,]*")  # what stands between two entries of a list
DECODER = json.JSONDecoder()


class Entry(NamedTuple):
    """One object of the file."""

    where: str
    values: Any


def read_r1omni(root: Path, clips: Path | None = None, labels: str = "mafw11") -> list[Example]:
    """Lists the clips of a training file of R1-Omni.

    Args:
        root: the `.json` or `.jsonl` file, or a folder that has just one.
        clips: the folder that the paths of the file are relative to; None means that of the file.
        labels: a label space, or "open" to keep each word as it is, in lower case.

    Returns:
        Examples with label, question and, for the cold start, the reasons as `rationale`.

    Raises:
        OmniError: a missing file, another form, an unknown label, a clip that stands twice.
    """
    path = _file(root)
    home = clips or path.parent
    return listed((_found(entry, home, labels) for entry in _entries(path)), path)


def _file(root: Path) -> Path:
    if root.suffix in (".json", ".jsonl"):
        return root
    files = sorted(path for path in root.glob("*.json*") if path.suffix in (".json", ".jsonl"))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise ManifestError(
            f"{root} should have one .json or .jsonl file and has {names}. Give --root the file itself.",
            code="not_found",
        )
    return files[0]


def _entries(path: Path) -> Iterator[Entry]:
    """The objects of the file, each with its line."""
    text = read_text(path)
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield Entry(f"{path}:{number}", _decoded(line, path, number))
        return
    entries = _decoded(text, path, 1)
    if not isinstance(entries, list):
        raise ManifestError(f"{path}:1: no list of entries. Give the file that R1-Omni trains on.", code="bad_row")
    position = text.index("[") + 1
    number = text.count("\n", 0, position) + 1
    for entry in entries:
        start = BETWEEN.match(text, position).end()  # type: ignore[union-attr]  # it matches nothing too
        number += text.count("\n", position, start)
        yield Entry(f"{path}:{number}", entry)
        position = DECODER.raw_decode(text, start)[1]
        number += text.count("\n", start, position)


def _decoded(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as err:
        raise ManifestError(
            f"{path}:{line + err.lineno - 1}: no JSON ({err.msg}). Repair the line.", code="bad_row"
        ) from err


def _found(entry: Entry, home: Path, labels: str) -> Found:
    where, values = entry
    video = values.get("video") if isinstance(values, dict) else None
    if not isinstance(video, str) or not video:
        raise ManifestError(f"{where}: the entry has no 'video'. Give each entry the path of its clip.", code="bad_row")
    clip = home / video
    if not clip.is_file():
        raise ManifestError(
            f"{where}: there is no clip {clip}. Name the folder that '{video}' is in with --clips.", code="no_clip"
        )
    asked, answered = _turns(values.get("conversations"), where)
    question = INSTRUCTION.sub("", PLACEHOLDERS.sub("", asked)).strip()
    word, reasons = _answer(answered, where)
    label = " ".join(word.lower().split()) if labels == "open" else label_in(labels, word, where)
    return Found(where, video, Example(clip, label, reasons or None, question or None))


def _turns(conversation: Any, where: str) -> tuple[str, str]:
    """What is asked and what is answered."""
    turns = conversation if isinstance(conversation, list) else []
    said = {turn.get("from"): turn.get("value") for turn in turns if isinstance(turn, dict)}
    asked, answered = said.get("human"), said.get("gpt")
    if len(turns) != 2 or not isinstance(asked, str) or not isinstance(answered, str):
        raise ManifestError(
            f"{where}: 'conversations' should be a text ('value') of 'human' and one of 'gpt'. Repair the entry.",
            code="bad_row",
        )
    return asked, answered


def _answer(text: str, where: str) -> tuple[str, str]:
    """Label and reasons of an answer in tags, or of a bare label."""
    if not TAG.search(text):
        return text.strip(), ""
    parsed = parse_answer(text)
    if not parsed.well_formed or parsed.label is None:
        raise ManifestError(
            f"{where}: the answer is not <think>…</think> <answer>…</answer>: {text[:60]!r}. Repair it.", code="bad_row"
        )
    return parsed.label, parsed.thought
