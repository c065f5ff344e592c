"""The picture of `omni cues --plot`: records over time, drawn with Pillow.

thumbnails ▣ ▣ ▣ ▣ ▣        a frame every so often
AU12 …        ▬▬▬┃▬▬        one row for each cue of each person; darker is stronger, the mark is the apex
pitch       ▬▬▬  ▬▬▬▬
sound       ▁▃▅▂▁▁▄▆▃
seconds     0    1    2
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .record import CueRecord

if TYPE_CHECKING:
    from ..clip import Clip

WIDTH, LEFT, RIGHT, ROW = 1200, 260, 20, 22  # px; the names of the cues stand in LEFT
THUMBNAIL, WAVE, AXIS, TEXT = 90, 60, 26, 13  # px of height
COLOURS = {"face": (31, 90, 160), "voice": (160, 70, 20)}
INK, FAINT = (30, 30, 30), (225, 225, 225)
FULL = 3.0  # strength from which a bar is drawn in its full colour
WHOLE = ("face", "speech", "no face", "no voice")  # rows that say where there is anything at all; always full


def cue_plot(clip: Clip, records: Sequence[CueRecord]) -> Image.Image:
    """Records of a clip over its time as a picture."""
    rows: dict[tuple[str, int | None, str], list[CueRecord]] = {}
    for record in sorted(records, key=lambda r: (r.modality, r.person or 0, r.cue not in WHOLE)):
        rows.setdefault((record.modality, record.person, record.cue), []).append(record)
    top = THUMBNAIL if clip.frames is not None else 0
    wave = WAVE if clip.wave is not None else 0
    picture = Image.new("RGB", (WIDTH, top + ROW * len(rows) + wave + AXIS), "white")
    canvas = _Canvas(picture, max(clip.duration, *(record.t1 for record in records), 1e-3))
    if clip.frames is not None:
        canvas.thumbnails(clip.frames, clip.times)
    many = len({person for _, person, _ in rows if person is not None}) > 1
    for number, ((modality, person, cue), found) in enumerate(rows.items()):
        name = f"{cue}, person {person}" if many and person is not None else cue
        canvas.row(top + ROW * number, name, found, COLOURS[modality])
    if clip.wave is not None:
        canvas.wave(top + ROW * len(rows), clip.wave)
    canvas.axis(picture.height - AXIS)
    return picture


class _Canvas:
    """A picture with time from left to right."""

    def __init__(self, picture: Image.Image, seconds: float) -> None:
        self.picture, self.seconds = picture, seconds
        self.draw, self.font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)

    def x(self, time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time / self.seconds

    def thumbnails(self, frames: np.ndarray, times: np.ndarray) -> None:
        """As many frames as stand side by side, each where its time is."""
        height, width = frames.shape[1:3]
        small = (max(1, round(width * (THUMBNAIL - 6) / height)), THUMBNAIL - 6)
        free = float(LEFT)
        for frame, time in zip(frames, times, strict=True):
            if self.x(time) >= free and self.x(time) + small[0] <= WIDTH:
                self.picture.paste(Image.fromarray(frame).resize(small), (round(self.x(time)), 2))
                free = self.x(time) + small[0] + 2

    def row(self, y: float, name: str, records: Sequence[CueRecord], colour: tuple[int, ...]) -> None:
        self.draw.line((LEFT, y + ROW / 2, WIDTH - RIGHT, y + ROW / 2), FAINT)
        self.draw.text((LEFT - 8, y + ROW / 2), name, INK, self.font, anchor="rm")
        for record in records:
            share = 1.0 if record.cue in WHOLE else 0.25 + 0.75 * min(1.0, record.strength / FULL)
            tint = tuple(round(255 - share * (255 - c)) for c in colour)
            left, right = self.x(record.t0), max(self.x(record.t1), self.x(record.t0) + 3)
            self.draw.rectangle((left, y + 5, right, y + ROW - 5), tint)
            if record.apex is not None:
                self.draw.line((self.x(record.apex), y + 2, self.x(record.apex), y + ROW - 2), INK, 2)

    def wave(self, y: float, wave: np.ndarray) -> None:
        """The largest sample of each column of pixels, against the loudest of the clip."""
        columns = np.array_split(np.abs(wave), WIDTH - LEFT - RIGHT)
        highest = np.array([part.max(initial=0.0) for part in columns])
        for i, height in enumerate(highest / max(highest.max(), 1e-6) * (WAVE / 2 - 4)):
            self.draw.line((LEFT + i, y + WAVE / 2 - height, LEFT + i, y + WAVE / 2 + height), COLOURS["voice"])
        self.draw.text((LEFT - 8, y + WAVE / 2), "sound", INK, self.font, anchor="rm")

    def axis(self, y: float) -> None:
        """Seconds, at most ten of them with a number."""
        step = next(s for s in (0.5, 1, 2, 5, 10, 30, 60, 300, 600, 3600) if self.seconds / s <= 10 or s == 3600)
        for time in np.arange(0, self.seconds + 1e-6, step):
            self.draw.line((self.x(time), y, self.x(time), y + 5), INK)
            self.draw.text((self.x(time), y + 6), f"{time:g}", INK, self.font, anchor="ma")
        self.draw.text((LEFT - 8, y + 6), "seconds", INK, self.font, anchor="ra")
