"""A clip of any length as a row of windows, each a `Clip` of its own, decoded once and in bounded memory.

    seconds  0     2     4     6     8    9.5
             ├── window 0 ─┤                       window k = [k · hop, k · hop + window), the last as long as is left
                   ├── window 1 ─┤
                         ├── window 2 ─┤
                               ├─ window 3 ┤

    path ─► the packets once, undecoded ─► the times of all pictures, 8 bytes each ─► windows, and which pictures each
            of them wants, by `SAMPLINGS` as in `read_clip`
         ─► picture stream ─► decode ─► a wanted picture is kept until its last window is gone  ┐
         ─► sound stream   ─► decode ─► mono 16 kHz, kept from the start of the present window  ┴► Window

The two streams are read by two readers of the file, each as far as the present window needs: how the file interleaves
them does not matter. Both lie on one clock, whose zero is that of `read_clip`. Windows reach to the end of whichever
lasts longer, so nothing is cut off; a rest below `REST` joins the window before it.

In a damaged stretch pictures and sound are missing, and the windows go on. With more bad packets than `Limits` allow, a
stream counts as ending there (`damaged`). A window in which there is nothing has no modality.

Left out: a child process around the decoder, as `clip_reader.py` is, so a packet that hangs it is not interrupted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..clip import (
    LEAVE_OUT,
    SAMPLINGS,
    Clip,
    Limits,
    Span,
    Track,
    best_tracks,
    breaks_off,
    clip_error,
    demuxer_of,
    display_name,
    head_and_hash,
    is_vfr,
    open_container,
    packets_of,
    read_image,
    regular_file,
    span_of,
)
from ..errors import OmniError
from .streams import Pictures, Sound, Times, Watch

WINDOW_S, HOP_S = 4.0, 2.0
SHORTEST = 0.1  # s of a window or a hop: three pictures
REST = 0.1  # s; codecs pad the sound by less, and a window of it would hold nothing
HOURS = 4.0
LIMITS = Limits(  # nothing but the times of the pictures is kept of the whole, so they bound work, not memory
    file_bytes=8 * 2**30,  # four hours of 1080p from a phone
    seconds=HOURS * 3600,
    frames=round(HOURS * 3600) * 60,
    packets=round(HOURS * 3600) * 1000,
    audio_bytes=2**36,
    wall_seconds=math.inf,  # a model runs between two windows
)


def limits_of(seconds: float, file_bytes: int) -> Limits:
    """`LIMITS` with others for length and size."""
    grown = max(seconds / LIMITS.seconds, 1.0)
    frames, packets = round(LIMITS.frames * grown), round(LIMITS.packets * grown)
    return replace(LIMITS, seconds=seconds, file_bytes=file_bytes, frames=frames, packets=packets)


class Window(NamedTuple):
    """Seconds t0 … t1 of a clip; in `clip` time 0 is t0."""

    number: int
    t0: float
    t1: float
    clip: Clip


def spans(duration: float, window: float, hop: float) -> list[tuple[float, float]]:
    """Where windows start and end, in seconds; together they cover the whole.

    >>> spans(9.5, 4.0, 2.0), spans(3.0, 4.0, 2.0), spans(8.05, 4.0, 4.0)
    ([(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 9.5)], [(0.0, 3.0)], [(0.0, 4.0), (4.0, 8.05)])
    """
    count = 1 + max(0, math.ceil((duration - REST - window) / hop - 1e-9))
    starts = [round(k * hop, 6) for k in range(count)]
    return [(t0, round(t0 + window, 6)) for t0 in starts[:-1]] + [(starts[-1], duration)]


class Windows:
    """The windows of a clip; each `read` goes through the file anew.

    Args:
        path: a local video, sound or image file. An image is one window of no length.
        window: seconds.
        hop: seconds from one window to the next, at most `window`.
        audio: False leaves the sound out.
        video: False leaves the picture out.
        limits: what the clip may cost.

    Attributes:
        duration: seconds, to the end of picture and sound.
        spans: seconds at which each window starts and ends.
        sha256: of the file.
        warnings: codes as in `Clip.warnings`, and `damaged`; complete after the last window.

    Raises:
        OmniError: window and hop do not go together.
        ClipError: as `read_clip`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        window: float = WINDOW_S,
        hop: float = HOP_S,
        audio: bool = True,
        video: bool = True,
        limits: Limits = LIMITS,
    ) -> None:
        _check(window, hop)
        self.window, self.hop = float(window), float(hop)
        self.name, self.limits = display_name(path), limits
        if not (audio or video):
            raise clip_error("bad_argument", self.name, frames=1, audio=audio, video=video)
        self.audio, self.video = audio, video
        self.file = regular_file(path, self.name, limits)
        head, self.sha256 = head_and_hash(self.file, self.name)
        self.demuxer = demuxer_of(head, self.name)
        self.picture: Times | None = None
        self.sound: Times | None = None
        self.duration, self._found, self._on_the_way = 0.0, dict[str, bool](), dict[str, bool]()
        if self.demuxer == "image":
            if not video:
                raise clip_error("no_streams.audio", self.name)
            self.span = Span(0.0, 0.0, [], 0)
        else:
            self.span = self._survey()
        self.spans = spans(self.duration, self.window, self.hop)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(name for name, true in (self._found | self._on_the_way).items() if true)

    def read(self, frames: int = 8, sampling: str = "mid_bins", watch: Watch | None = None) -> Iterator[Window]:
        """The windows in order.

        Args:
            frames: T, pictures of a window.
            sampling: which, a key of `SAMPLINGS`.
            watch: gets a picture every `LOOK_S`, in order, before the first window that it lies in.

        Raises:
            ClipError: nothing can be seen or heard in the whole clip; or as `read_clip`.
        """
        self._on_the_way = {}
        if self.demuxer == "image":
            clip = read_image(self.file, self.name, self.limits)
            assert clip.frames is not None
            if watch:
                watch(0.0, clip.frames[0])
            self._on_the_way = {"no_audio": self.audio}
            yield Window(0, 0.0, 0.0, clip)
            return
        pictures = Pictures(self, self.picture, frames, SAMPLINGS[sampling], watch) if self.picture else None
        sound = Sound(self, self.sound) if self.sound else None
        loudest, is_anything = 0.0, False
        for index, (t0, t1) in enumerate(self.spans):
            shown, times = pictures.take(index) if pictures else (None, np.zeros(0))
            wave = sound.take(t0, t1) if sound else None
            clip = Clip(shown, times, wave, t1 - t0)
            loudest = max(loudest, float(np.abs(wave).max()) if wave is not None else 0.0)
            is_anything = is_anything or bool(clip.modalities)
            if index == len(self.spans) - 1:
                self._conclude(pictures, sound, loudest, is_anything)
            yield Window(index, t0, t1, clip)

    def _survey(self) -> Span:
        """Walk through the packets: what lies where."""
        with open_container(self.file, self.name, self.demuxer) as container:
            tracks = best_tracks(container, self.demuxer, self.name, self.limits)
            times = [Times(track.stream, track.demuxer) if track else None for track in tracks]
            streams = {track.stream.index: track for track in times if track}
            for packet in packets_of(container, dict[int, Track](streams), self.name, self.limits):
                streams[packet.stream_index].add(packet)
            is_cut = any(track.is_cut for track in streams.values())
            picture, sound = (track if track and track.pts else None for track in times)
            if not (picture or sound):
                raise clip_error("corrupt_media" if is_cut else "no_streams", self.name)
            if picture and len(picture.pts) > self.limits.frames:
                raise clip_error("too_long.frames", self.name, limit=self.limits.frames)
            span = span_of(picture, sound, self.name, self.limits)
            self._found = {
                "no_video": self.video and picture is None,
                "no_audio": self.audio and sound is None,
                "truncated": is_cut or breaks_off(container, picture, sound),
                "vfr": is_vfr(span.stamps),
                "no_duration_header": container.duration is None,
                "multiple_audio_streams": len(container.streams.audio) > 1,
            }
        self.picture, self.sound = picture if self.video else None, sound if self.audio else None
        if not (self.picture or self.sound):
            raise clip_error("no_streams.audio" if self.audio else "no_streams.video", self.name)
        ends = [span.zero + span.duration] if self.picture else []
        ends += [self.sound.seconds(self.sound.end)] if self.sound else []
        self.duration = round(max(ends) - span.zero, 6)
        return span

    def _conclude(self, pictures: Pictures | None, sound: Sound | None, loudest: float, is_anything: bool) -> None:
        """Warnings that are known in the end; a clip of nothing is an error.

        Raises:
            ClipError: there was nothing to see or hear.
        """
        found = [stream for stream in (pictures, sound) if stream]
        is_silent = sound is not None and not Clip(wave=np.array([loudest], np.float32)).modalities
        if not is_anything:
            if any(stream.is_damaged for stream in found):
                raise clip_error("corrupt_media", self.name)
            if sound is not None and sound.is_there:
                raise clip_error("no_streams.silent", self.name)
            sense = "pictures" if pictures else "sound"
            raise clip_error("no_frames", self.name, sense=sense, flag=LEAVE_OUT[sense])
        bad = sum(stream.budget.bad for stream in found)
        self._on_the_way = {
            "silent_audio": is_silent,
            **({warning: True for warning in pictures.rgb.warnings()} if pictures else {}),
            f"bad_packets:{bad}": bad > 0,
            "damaged": any(stream.is_damaged for stream in found),
        }


def _check(window: float, hop: float) -> None:
    """
    Raises:
        OmniError: with the code `bad_argument`.
    """
    if not (SHORTEST <= window < math.inf and SHORTEST <= hop < math.inf):
        why = f"A window of {window:g} s and a hop of {hop:g} s cannot be. Both must be {SHORTEST:g} s or more."
        raise OmniError(why, code="bad_argument")
    if hop > window:
        why = f"A hop of {hop:g} s would leave out what lies between windows of {window:g} s."
        raise OmniError(f"{why} Make it {window:g} or less.", code="bad_argument")
