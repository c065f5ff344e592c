"""The picture of `omni timeline --plot`, drawn with Pillow.

    ▣ ▣ ▣ ▣ ▣ ▣            thumbnails, each where its time is
    ░░▒▒▓▓▓▒▒░░            one band a person: label probabilities stacked to one; white where there was nothing to go by
      ┆     ┆              changes, with the time
    ▁▃▅▂▁▁▄▆▃▁             sound
    0:00    0:10           time

The value at a time is that of the windows whose middles are next to it, in proportion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .record import Reading, Timeline
from .summary import by_person, clock

WIDTH, LEFT, RIGHT = 1400, 110, 150  # px; the legend stands in RIGHT
TOP, THUMBNAIL, BAND, WAVE, AXIS, GAP, TEXT = 8, 66, 190, 70, 34, 12, 15
INK, FAINT = (30, 30, 36), (215, 215, 220)
WAVE_COLOUR = (110, 116, 130)
COLOURS = {
    "angry": (214, 69, 65), "disgust": (122, 145, 64), "fear": (128, 90, 168), "happy": (242, 184, 50),
    "sad": (66, 120, 190), "surprise": (236, 134, 64), "neutral": (176, 180, 188), "calm": (134, 196, 186),
}  # fmt: skip
OTHERS = ((90, 170, 120), (190, 90, 140), (150, 110, 80), (70, 150, 170), (200, 160, 190), (120, 120, 60))
STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


def timeline_plot(found: Timeline) -> Image.Image:
    """A timeline as a picture, RGB."""
    rows = {person: mine for person, mine in by_person(found.windows).items() if any(one.labels for one in mine)}
    thumbnails = THUMBNAIL if found.strip.pictures else 0
    sound = WAVE if found.strip.wave.shape[1] else 0
    bands = max(1, len(rows)) * (BAND + GAP)
    picture = Image.new("RGB", (WIDTH, TOP + thumbnails + GAP + bands + sound + AXIS), "white")
    canvas = _Canvas(picture, max(found.duration_s, 1e-3), found.labels)
    canvas.thumbnails(TOP, found.strip.pictures)
    y = TOP + thumbnails + GAP
    for person, mine in rows.items():
        canvas.band(y, mine, "probability" if person is None else f"person {person}")
        for change in found.changes:
            if change.person == person:
                canvas.change(y, change.t)
        y += BAND + GAP
    canvas.legend(TOP + thumbnails + GAP)
    if sound:
        canvas.wave(y, found.strip.wave)
    canvas.axis(picture.height - AXIS + 4)
    return picture


class _Canvas:
    """A picture with time from left to right."""

    def __init__(self, picture: Image.Image, seconds: float, labels: Sequence[str]) -> None:
        self.picture, self.seconds, self.labels = picture, seconds, labels
        self.draw, self.font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
        others = iter(OTHERS * (1 + len(labels) // len(OTHERS)))
        self.colours = [COLOURS.get(label) or next(others) for label in labels]

    def x(self, time: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time / self.seconds

    def thumbnails(self, y: int, pictures: Sequence[tuple[float, np.ndarray]]) -> None:
        """As many as stand side by side, each in the middle of its time where there is room."""
        free = float(LEFT)
        for time, pixels in pictures:
            left = min(max(self.x(time) - pixels.shape[1] / 2, LEFT), WIDTH - RIGHT - pixels.shape[1])
            if left >= free:
                self.picture.paste(Image.fromarray(pixels), (round(left), y))
                free = left + pixels.shape[1] + 2

    def band(self, y: int, mine: Sequence[Reading], name: str) -> None:
        """Stacked probabilities, column by column."""
        known = [one for one in mine if one.labels is not None]
        rows = np.array([[(one.labels or {})[label] for label in self.labels] for one in known])  # (n, K)
        middles = np.array([one.middle for one in known])
        for column in range(LEFT, WIDTH - RIGHT):
            time = (column + 0.5 - LEFT) * self.seconds / (WIDTH - LEFT - RIGHT)
            if not any(one.t0 <= time <= one.t1 for one in known):
                continue
            shares = np.array([np.interp(time, middles, row) for row in rows.T])
            edges = y + BAND * np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
            for i, colour in enumerate(self.colours):
                if round(edges[i + 1]) > round(edges[i]):
                    self.draw.line((column, round(edges[i]), column, round(edges[i + 1]) - 1), colour)
        self.draw.rectangle((LEFT, y, WIDTH - RIGHT, y + BAND), outline=FAINT)
        self.draw.text((LEFT - 8, y + BAND / 2), name, INK, self.font, anchor="rm")
        for value in ("1", "0"):
            at = y + 8 if value == "1" else y + BAND - 8
            self.draw.text((LEFT - 8, at), value, WAVE_COLOUR, self.font, anchor="rm")

    def change(self, y: int, time: float) -> None:
        """A dashed line, and when."""
        x, label = self.x(time), clock(time)
        for dash in range(y, y + BAND, 10):
            self.draw.line((x, dash, x, dash + 5), INK, 2)
        width = self.draw.textlength(label, self.font)
        self.draw.rectangle((x + 3, y + 3, x + width + 9, y + TEXT + 8), "white")
        self.draw.text((x + 6, y + 4), label, INK, self.font)

    def legend(self, y: int) -> None:
        """The labels from the top of the stack."""
        for i, (label, colour) in enumerate(zip(self.labels, self.colours, strict=True)):
            self.draw.rectangle((WIDTH - RIGHT + 16, y + 24 * i + 2, WIDTH - RIGHT + 32, y + 24 * i + 17), colour)
            self.draw.text((WIDTH - RIGHT + 40, y + 24 * i), label, INK, self.font)

    def wave(self, y: int, wave: np.ndarray) -> None:
        """Lowest and highest sample of each column, against the loudest of the clip."""
        middle, half = y + WAVE / 2, (WAVE / 2 - 4) / max(float(np.abs(wave).max()), 1e-6)
        columns = np.linspace(0, wave.shape[1], WIDTH - LEFT - RIGHT + 1)
        for i in range(WIDTH - LEFT - RIGHT):
            part = wave[:, int(columns[i]) : max(int(columns[i + 1]), int(columns[i]) + 1)]
            low, high = part[0].min(), part[1].max()
            self.draw.line((LEFT + i, middle - half * high, LEFT + i, middle - half * low), WAVE_COLOUR)
        self.draw.text((LEFT - 8, middle), "sound", INK, self.font, anchor="rm")

    def axis(self, y: float) -> None:
        """Time, at most twelve numbers."""
        step = next((step for step in STEPS if self.seconds / step <= 12), STEPS[-1])
        for time in np.arange(0, self.seconds + 1e-6, step):
            self.draw.line((self.x(time), y, self.x(time), y + 5), INK)
            self.draw.text((self.x(time), y + 7), clock(float(time)), INK, self.font, anchor="ma")
