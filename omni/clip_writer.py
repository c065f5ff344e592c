"""Clips out: small ones for examples, rendered actors and tests, in H.264 and AAC; the inverse of `clip.py`.

Every reader agrees on the times: there are no B-frames, and a picture is one tick. One thread gives the same bytes
everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .clip import RATE, clip_error, display_name

if TYPE_CHECKING:
    import av

BT601 = 6  # the matrix of RGB -> YUV that we write (SMPTE 170M in ITU-T H.273)


def write_clip(
    path: str | os.PathLike[str],
    *,
    frames: np.ndarray | None = None,
    fps: float | Fraction = 25.0,
    wave: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Writes a small clip: H.264 and AAC in .mp4; without frames .wav (16-bit PCM) or .m4a (AAC).

    The file appears whole or not at all. Reading it back gives frame i at exactly i / fps.

    Args:
        path: Ends in .mp4 if there are frames, else in .wav or .m4a.
        frames: uint8 (T, H, W, 3) RGB. Odd sides lose a row or column: H.264 stores colour at half size.
        fps: Pictures per second, taken as the nearest fraction with a denominator up to 1001.
        wave: float (L,) mono at 16 kHz in [-1, 1]; louder is clipped.
        size: (width, height) to scale to; the frames' own if None.

    Raises:
        ClipError: `bad_clip` for what cannot be written, `not_writable` for where.
    """
    import av

    target, name = Path(path), display_name(path)
    muxer = {".mp4": "mp4", ".m4a": "ipod", ".wav": "wav"}.get(target.suffix.lower(), "")
    for why, is_so in _write_faults(muxer, frames, fps, wave, size).items():
        if is_so:
            raise clip_error("bad_clip", name, why=why)
    part = target.absolute().with_name(f".{target.name[-100:]}.{os.getpid()}.part")
    try:
        with av.open(str(part), "w", format=muxer) as container:
            packets: list[Any] = []  # av.Packet
            if frames is not None:
                packets += _encode_pictures(container, frames, Fraction(fps).limit_denominator(1001), size)
            if wave is not None:
                packets += _encode_sound(container, wave, "pcm_s16le" if muxer == "wav" else "aac")
            container.mux(sorted(packets, key=_seconds))
        part.replace(target)
    except (OSError, av.error.FFmpegError) as err:
        raise clip_error("not_writable", name) from err
    finally:
        part.unlink(missing_ok=True)


def _seconds(packet: Any) -> Fraction:
    return packet.dts * packet.time_base


def _write_faults(
    muxer: str, frames: np.ndarray | None, fps: float | Fraction, wave: np.ndarray | None, size: Any
) -> dict[str, bool]:
    has_frames, has_wave = frames is not None, wave is not None
    ends = ".mp4, as there are frames" if has_frames else ".wav or .m4a, as there are no frames"
    kinds = {"mp4"} if has_frames else {"ipod", "wav"}
    return {
        "there are neither frames nor a wave. Give one of them": not (has_frames or has_wave),
        f"its name must end in {ends}": muxer not in kinds,
        "frames must be uint8 of shape (T, H, W, 3), with T >= 1 and H, W >= 2": not _is_rgb(frames),
        "fps must lie between 0.01 and 1000": not 0.01 <= fps <= 1000,
        "size must be (width, height), both at least 2": size is not None and min(size) < 2,
        "wave must be finite floats of shape (L,), with L >= 1": not _is_wave(wave),
    }


def _is_rgb(frames: np.ndarray | None) -> bool:
    if frames is None:
        return True
    shaped = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3
    return shaped and len(frames) > 0 and min(frames.shape[1:3]) >= 2


def _is_wave(wave: np.ndarray | None) -> bool:
    if wave is None:
        return True
    return wave.ndim == 1 and wave.dtype.kind == "f" and wave.size > 0 and bool(np.isfinite(wave).all())


def _encode_pictures(container: Any, frames: np.ndarray, rate: Fraction, size: Any) -> Iterator[av.Packet]:
    import av
    from av.video.reformatter import Colorspace, VideoReformatter

    width, height = (side // 2 * 2 for side in size or (frames.shape[2], frames.shape[1]))
    options = {"crf": "23", "preset": "veryfast", "bf": "0"}  # no B-frames: every reader agrees on the times
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = 1 / rate  # one tick per picture: exact for any rate
    stream.codec_context.thread_count = 1  # the same bytes on every machine
    stream.codec_context.colorspace = BT601  # said, so that players need not guess
    reformatter, matrix = VideoReformatter(), Colorspace.ITU601
    for i, pixels in enumerate(frames if size else frames[:, :height, :width]):
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = reformatter.reformat(rgb, width, height, "yuv420p", dst_colorspace=matrix, threads=1)
        frame.pts, frame.duration, frame.time_base = i, 1, 1 / rate
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _encode_sound(container: Any, wave: np.ndarray, codec: str) -> Iterator[av.Packet]:
    import av

    samples = np.clip(wave, -1.0, 1.0)[None].astype(np.float32)  # (1, L)
    fast = {"aac_coder": "fast"}  # on speech at 64 kbit/s 6 dB nearer to the truth than FFmpeg's default
    stream = container.add_stream(codec, rate=RATE, layout="mono", options=fast if codec == "aac" else {})
    if codec == "aac":
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    else:
        whole = np.round(samples * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    yield from stream.encode(frame)
    yield from stream.encode(None)
