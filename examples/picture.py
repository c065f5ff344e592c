"""Draw a clip and the model's answer as one picture: three frames, the sound wave, the reasons, the probabilities.

python examples/picture.py examples/clips/conflict.mp4 docs/ask.png [MODEL]
"""

import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from omni.answer import Answer
from omni.clip import Clip, read_clip
from omni.generate import reason
from omni.loading import load

WIDTH, SIDE, INK, PALE, BAR = 960, 200, (30, 30, 36), (120, 124, 134), (52, 104, 192)


def draw(clip: Clip, answer: Answer, title: str) -> Image.Image:
    """The picture, RGB."""
    picture = Image.new("RGB", (WIDTH, 470), "white")
    pen, font, small = ImageDraw.Draw(picture), ImageFont.load_default(19), ImageFont.load_default(15)
    pen.text((20, 12), title, INK, font)
    for i, index in enumerate((1, 4, 7)):
        frame = Image.fromarray(clip.frames[index]).resize((SIDE, SIDE))
        picture.paste(frame, (20 + i * (SIDE + 8), 46))
        pen.text((26 + i * (SIDE + 8), 226), f"{clip.times[index]:.1f} s", "white", small)
    draw_wave(pen, clip, (20, 258, 20 + 3 * SIDE + 16, 318))
    lines = textwrap.wrap(answer.thought, 68)
    for i, line in enumerate(lines):
        pen.text((20, 334 + 22 * i), line, INK, small)
    ranked = sorted(answer.labels.items(), key=lambda item: -item[1])
    for i, (label, probability) in enumerate(ranked):
        y, is_answer = 60 + 34 * i, label == answer.label
        pen.text((660, y), label, INK if is_answer else PALE, font)
        pen.rectangle((750, y + 4, 750 + int(130 * probability), y + 20), BAR if is_answer else PALE)
        pen.text((892, y), f"{probability:.2f}", INK if is_answer else PALE, font)
    return picture.crop((0, 0, WIDTH, 346 + 22 * len(lines)))


def draw_wave(pen: ImageDraw.ImageDraw, clip: Clip, box: tuple[int, int, int, int]) -> None:
    """The sound as a band of its peaks."""
    left, top, right, bottom = box
    middle, half = (top + bottom) // 2, (bottom - top) // 2
    peaks = [np.abs(part).max() for part in np.array_split(clip.wave, right - left)]
    for x, peak in enumerate(np.array(peaks) / max(peaks)):
        pen.line((left + x, middle - half * peak, left + x, middle + half * peak), BAR)


if __name__ == "__main__":
    source, out, name = sys.argv[1], sys.argv[2], (sys.argv[3:] or ["default"])[0]
    media = read_clip(source)
    model, processor = load(name)
    draw(media, reason(model, processor, media), f"omni ask {source}").save(Path(out), optimize=True)
