"""Makes the clips that the tests read: with PyAV, on the spot, of pictures that carry their own number.

Picture n shows n in binary as eight vertical stripes, white for 1, most significant bit on the left, so that
`number(picture)` finds out which picture a decoder returned after any lossy codec, and whether it was turned.
The sound is a tone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STRIPES = 8
PIX_FMTS = {"gif": "rgb8", "mjpeg": "yuvj420p", "png": "rgb24", "ffv1": "yuv420p"}
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def picture(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """uint8 (H, W, 3) with `number` as stripes. `size` is (width, height)."""
    bits = [(number >> bit) & 1 for bit in reversed(range(STRIPES))]
    row = np.repeat(np.array(bits, np.uint8) * 220 + 16, size[0] // STRIPES)
    row = np.pad(row, (0, size[0] - len(row)), mode="edge")
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (size[1], size[0], 3)))


def number(pixels: np.ndarray) -> int:
    """The number in a picture of `picture`, of any size.

    >>> number(picture(37))
    37
    """
    width = pixels.shape[1] // STRIPES
    means = [pixels[:, i * width : (i + 1) * width].mean() for i in range(STRIPES)]
    return int("".join("1" if mean > 128 else "0" for mean in means), 2)


def numbers(frames: np.ndarray) -> list[int]:
    return [number(frame) for frame in frames]


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    """float32 (L,)"""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_clip(
    path: Path,
    *,
    pictures: int = 25,
    fps: float = 25,
    codec: str | None = "libx264",
    size: tuple[int, int] = (64, 48),
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    sounds: Sequence[str] = ("aac",),
    seconds: float | None = None,
    peak: float = 0.5,
    rate: int = 48_000,
    channels: int = 1,
    rotation: int = 0,
    context: dict[str, Any] | None = None,
) -> Path:
    """Writes a clip of numbered pictures and a tone.

    Args:
        path: The ending chooses the container.
        pictures: How many.
        fps: Of the pictures.
        codec: Of the pictures, None for no picture.
        size: (width, height).
        stamps: Times of the pictures in milliseconds, for a variable rate; None for `fps`.
        options: Of the picture's encoder.
        sounds: Codec of each sound track; () for none.
        seconds: Of sound; as long as the pictures if None.
        peak: Of the tone; 0 for silence.
        rate: Of the sound, Hz.
        channels: 1, 2 or 6.
        rotation: Degrees counter-clockwise by which a player has to turn the pictures.
        context: Attributes of the picture's codec context, such as `color_trc`.
    """
    context = {"rotation": rotation, **(context or {})}
    length = seconds if seconds is not None else pictures / fps
    with av.open(str(path), "w") as container:
        packets: list[Any] = []
        if codec:
            packets += _pictures(container, codec, pictures, Fraction(fps), size, stamps, options, context)
        for name in sounds:
            wave = np.tile(tone(length, rate, peak=peak), (channels, 1))
            packets += _sound(container, name, wave, rate)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def _pictures(
    container: Any,
    codec: str,
    count: int,
    fps: Fraction,
    size: tuple[int, int],
    stamps: Sequence[int] | None,
    options: dict[str, str] | None,
    context: dict[str, Any],
) -> Iterator[Any]:
    stream = container.add_stream(codec, rate=fps, options=options or {})
    stream.width, stream.height = size
    stream.pix_fmt = PIX_FMTS.get(codec, "yuv420p")
    stream.codec_context.thread_count = 1
    if rotation := context.pop("rotation"):
        stream.set_display_rotation(rotation)
    for name, value in context.items():
        setattr(stream.codec_context, name, value)
    if stamps is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    for i in range(count):
        frame = av.VideoFrame.from_ndarray(picture(i % 256, size), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = (i, 1 / fps) if stamps is None else (stamps[i], Fraction(1, 1000))
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _sound(container: Any, codec: str, wave: np.ndarray, rate: int) -> Iterator[Any]:
    layout = LAYOUTS[len(wave)]
    stream = container.add_stream(codec, rate=rate, layout=layout)
    frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    with contextlib.suppress(av.error.EOFError):
        yield from stream.encode(frame)
        yield from stream.encode(None)
