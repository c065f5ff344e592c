"""A model for tests of labelling: it takes any bytes for a clip and gives one answer, at once and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from omni.answer import Answer
from omni.clip import Clip
from omni.errors import ClipError
from omni.label import LabelSummary, label
from omni.label_run import Labeller
from omni.label_table import decode_table


class Fake:
    """A labeller that counts; a file that begins with "bad" cannot be read, with "odd" not be answered."""

    def __init__(self, most: int = 99) -> None:
        self.read_names: list[str] = []
        self.answered: list[str] = []
        self.batches: list[int] = []
        self.most = most  # clips for which the memory suffices
        self.contents: dict[str, str] = {}
        self.labeller = Labeller(self.read, self.answer, lambda question, answer: f"{question}", "What?", 3)

    def read(self, path: Path) -> Clip:
        self.read_names.append(path.name)
        content = path.read_bytes() if path.exists() else b"bad"
        if content.startswith(b"bad"):
            raise ClipError(f"{path.name} is damaged. Record it again.", code="corrupt_media")
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content.decode()
        return Clip(sha256=sha256)

    def answer(self, clips: Sequence[Clip], question: str | None) -> list[Answer]:
        contents = [self.contents[clip.sha256] for clip in clips]
        if len(clips) > self.most:
            raise MemoryError
        if any(content.startswith("odd") for content in contents):
            raise RuntimeError("shapes\ndo not match")
        self.batches.append(len(clips))
        self.answered += contents
        p = {"happy": 0.75, "sad": 0.25}
        return [Answer("happy", 0.75, p, "", content, True, ("video",), duration_s=1.0) for content in contents]


def folder_of(tmp_path: Path, *contents: str) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(contents):
        (folder / f"{number}.mp4").write_text(content)
    return folder


def table_of(out: Path) -> list[dict]:
    return decode_table(out.read_bytes(), out.suffix)


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in journal_of(out).read_text(encoding="utf-8").splitlines()]


def run(folder: Path | list, out: Path, fake: Fake, **options) -> LabelSummary:
    sources = folder if isinstance(folder, list) else [folder]
    return label(sources, out, **{"labels": "happy,sad", "labeller": fake.labeller, "progress": False} | options)
