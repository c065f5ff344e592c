"""Join bundled clips into one and draw its timeline: the picture of docs/timeline.md.

python examples/timeline_picture.py joined.mp4 docs/timeline.png [CLIP …]
"""

import sys
from pathlib import Path

import numpy as np

from omni import load
from omni.clip import RATE, read_clip
from omni.clip_writer import write_clip
from omni.timeline.timeline import draw, read_timeline, told

FPS = 25
NAMES = ("happy", "happy", "angry", "angry", "sad", "sad")


def joined(clips: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) at FPS and sound (L,) of clips of one size, one after the other, in step."""
    frames, waves = [], []
    for path in clips:
        clip = read_clip(path, frames=200)
        shown = np.arange(round(clip.duration * FPS)) / FPS
        frames.append(clip.frames[np.searchsorted(clip.times, shown + 1e-6) - 1])
        length = round(len(shown) * RATE / FPS)
        waves.append(np.pad(clip.wave, (0, max(0, length - len(clip.wave))))[:length])
    return np.concatenate(frames), np.concatenate(waves)


if __name__ == "__main__":
    out, picture = sys.argv[1], sys.argv[2]
    folder = Path(__file__).parent / "clips"
    frames, wave = joined([Path(path) for path in sys.argv[3:]] or [folder / f"{name}.mp4" for name in NAMES])
    write_clip(out, frames=frames, fps=FPS, wave=wave)
    model, processor = load("default")
    found = read_timeline(model, processor, out, window=2, hop=1, think=True)
    draw(found, picture)
    print(told(found))
