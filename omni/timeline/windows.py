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
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..clip import (
    GAP,
    LEAVE_OUT,
    LOUDEST,
    RATE,
    SAMPLINGS,
    SKIPPING,
    Budget,
    Clip,
    Limits,
    SoundRun,
    Span,
    Track,
    Upright,
    best_tracks,
    breaks_off,
    clip_error,
    demuxer_of,
    display_name,
    head_and_hash,
    is_vfr,
    open_container,
    open_decoder,
    packets_of,
    read_image,
    regular_file,
    sound_kind,
    span_of,
    stamp_of,
)
from ..errors import ClipError, OmniError

WINDOW_S, HOP_S = 4.0, 2.0
SHORTEST = 0.1  # s of a window or a hop: three pictures
REST = 0.1  # s; codecs pad the sound by less, and a window of it would hold nothing
LOOK_S = 0.1  # s between the pictures that `watch` gets, as `omni cues` takes them
HOURS = 4.0
LIMITS = Limits(  # nothing but the times of the pictures is kept of the whole, so they bound work, not memory
    file_bytes=8 * 2**30,  # four hours of 1080p from a phone
    seconds=HOURS * 3600,
    frames=round(HOURS * 3600) * 60,
    packets=round(HOURS * 3600) * 1000,
    audio_bytes=2**36,
    wall_seconds=math.inf,  # a model runs between two windows
)
Watch = Callable[[float, np.ndarray], None]  # seconds, picture (H, W, 3)


class Window(NamedTuple):
    """Seconds t0 … t1 of a clip; in `clip` time 0 is t0."""

    number: int
    t0: float
    t1: float
    clip: Clip


def spans(duration: float, window: float, hop: float) -> list[tuple[float, float]]:
    """Where windows start and end, in seconds; together they cover the whole.

    >>> spans(9.5, 4, 2), spans(3, 4, 2), spans(8.05, 4, 4)
    ([(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 9.5)], [(0.0, 3.0)], [(0.0, 4.0), (4.0, 8.05)])
    """
    count = 1 + max(0, math.ceil((duration - REST - window) / hop - 1e-9))
    starts = [round(k * hop, 6) for k in range(count)]
    return [(t0, round(t0 + window, 6)) for t0 in starts[:-1]] + [(starts[-1], duration)]


@dataclass
class _Times(Track):
    """A stream of which only the times of the packets are kept."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    hidden: array[int] = field(default_factory=lambda: array("b"))
    has_all: bool = True  # every packet has the time of its picture
    latest: tuple[int, int] = (-(2**62), 0)  # stamp of the last picture, and how long it stays
    finish: int = -(2**62)

    def __post_init__(self) -> None:  # the stream is gone when its file is closed
        self.tick: Fraction = self.stream.time_base
        self.aspect = self.stream.sample_aspect_ratio if self.stream.type == "video" else None

    def add(self, packet: Any) -> None:
        stamp, length = stamp_of(packet), packet.duration or 0
        self.pts.append(stamp)
        self.dts.append(packet.dts if packet.dts is not None else stamp)
        self.hidden.append(packet.is_discard)
        self.has_all &= packet.pts is not None
        self.latest = max(self.latest, (stamp, length))
        self.finish = max(self.finish, stamp + max(length, 0))

    @property
    def has_times(self) -> bool:
        return self.demuxer != "avi" and self.has_all

    def stamps(self) -> Any:
        """int64 (F,), rising."""
        times = np.array(self.pts if self.has_times else self.dts, np.int64)
        shown = np.array(self.hidden) == 0
        return np.sort(times[shown] if shown.any() else times)

    def seconds(self, stamp: int) -> float:
        return float(int(stamp) * self.tick)

    @property
    def last(self) -> int:
        return self.latest[1]

    @property
    def end(self) -> int:
        return self.finish


class Windows:
    """The windows of a clip, an iterable; each iteration reads the file anew.

    Args:
        path: a local video, sound or image file. An image is one window of no length.
        window: seconds.
        hop: seconds from one window to the next, at most `window`.
        frames: pictures of a window.
        sampling: which, a key of `SAMPLINGS`.
        audio: False leaves the sound out.
        video: False leaves the picture out.
        limits: what the clip may cost.

    Attributes:
        duration: seconds, to the end of picture and sound.
        spans: seconds at which each window starts and ends.
        sha256: of the file.
        warnings: codes as in `Clip.warnings`, and `damaged`; complete when the iteration is.

    Raises:
        OmniError: window and hop do not go together.
        ClipError: as `read_clip`; while iterating, if nothing can be seen or heard in the whole clip.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        window: float = WINDOW_S,
        hop: float = HOP_S,
        frames: int = 8,
        sampling: str = "mid_bins",
        audio: bool = True,
        video: bool = True,
        limits: Limits = LIMITS,
    ) -> None:
        _check(window, hop)
        self.name, self.limits = display_name(path), limits
        if frames < 1 or not (audio or video):
            raise clip_error("bad_argument", self.name, frames=frames, audio=audio, video=video)
        self.audio, self.video, self.frames, self.sampling = audio, video, frames, SAMPLINGS[sampling]
        self.file = regular_file(path, self.name, limits)
        head, self.sha256 = head_and_hash(self.file, self.name)
        self.demuxer = demuxer_of(head, self.name)
        self.picture: _Times | None = None
        self.sound: _Times | None = None
        self.duration, self._found, self._on_the_way = 0.0, dict[str, bool](), dict[str, bool]()
        if self.demuxer == "image":
            if not video:
                raise clip_error("no_streams.audio", self.name)
            self.span = Span(0.0, 0.0, [], 0)
        else:
            self.span = self._survey()
        self.spans = spans(self.duration, window, hop)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(name for name, true in (self._found | self._on_the_way).items() if true)

    def __iter__(self) -> Iterator[Window]:
        return self.watched(None)

    def watched(self, watch: Watch | None) -> Iterator[Window]:
        """The windows, while `watch` gets a picture every `LOOK_S`, in order, before the window that ends after it."""
        self._on_the_way = {}
        if self.demuxer == "image":
            clip = read_image(self.file, self.name, self.limits)
            assert clip.frames is not None
            if watch:
                watch(0.0, clip.frames[0])
            self._on_the_way = {"no_audio": self.audio}
            yield Window(0, 0.0, 0.0, clip)
            return
        pictures = _Pictures(self, self.picture, watch) if self.picture else None
        sound = _Sound(self, self.sound) if self.sound else None
        loudest, is_anything = 0.0, False
        for index, (t0, t1) in enumerate(self.spans):
            frames, times = pictures.take(index) if pictures else (None, np.zeros(0))
            wave = sound.take(t0, t1) if sound else None
            clip = Clip(frames, times, wave, t1 - t0)
            loudest = max(loudest, float(np.abs(wave).max()) if wave is not None else 0.0)
            is_anything = is_anything or bool(clip.modalities)
            if index == len(self.spans) - 1:
                self._conclude(pictures, sound, loudest, is_anything)
            yield Window(index, t0, t1, clip)

    def _survey(self) -> Span:
        """Walk through the packets: what lies where."""
        with open_container(self.file, self.name, self.demuxer) as container:
            tracks = best_tracks(container, self.demuxer, self.name, self.limits)
            times = [_Times(track.stream, track.demuxer) if track else None for track in tracks]
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

    def _conclude(self, pictures: _Pictures | None, sound: _Sound | None, loudest: float, is_anything: bool) -> None:
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


def _decoded(windows: Windows, which: int, sense: str, budget: Budget, wanted: np.ndarray | None) -> Iterator[Any]:
    """The frames of one stream in order, the file open meanwhile; ends early where it is damaged beyond the limit.

    Args:
        which: 0 the picture, 1 the sound.
        wanted: stamps, rising: others that no picture refers to need not be decoded; None decodes all.
    """
    with open_container(windows.file, windows.name, windows.demuxer) as container:
        track = best_tracks(container, windows.demuxer, windows.name, windows.limits)[which]
        assert track is not None
        open_decoder(track, sense, windows.name, windows.limits)
        context, streams = track.stream.codec_context, {track.stream.index: track}
        skips = wanted is not None and context.name in SKIPPING
        for packet in packets_of(container, streams, windows.name, windows.limits):
            if skips and wanted is not None:
                place = int(np.searchsorted(wanted, stamp_of(packet)))
                is_wanted = place < len(wanted) and wanted[place] == stamp_of(packet)
                context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
            yield from budget.decode(track, packet)
        yield from budget.decode(track, None)


class _Pictures:
    """The picture stream, read as far as the present window wants."""

    def __init__(self, windows: Windows, times: _Times, watch: Watch | None) -> None:
        self.windows, self.times, self.watch = windows, times, watch
        self.stamps, self.end = np.asarray(windows.span.stamps), windows.span.end
        self.picks = [self._picks(*span) for span in windows.spans]
        self.looks = self._looks() if watch else self.stamps[:0]
        self.wanted = np.unique(np.concatenate([self.looks, *self.picks]).astype(np.int64))
        self.budget = Budget(windows.name, windows.limits, windows.duration)
        self.rgb = Upright(times.aspect)
        self.kept: dict[int, tuple[int, np.ndarray]] = {}  # wanted stamp -> true stamp, picture (H, W, 3)
        self.is_damaged = False
        self.shown = self._shown()
        self.done = 0  # how many of `wanted` have been looked for

    def take(self, index: int) -> tuple[np.ndarray | None, np.ndarray]:
        """Pictures (T, H, W, 3) and their seconds from the start of the window (T,); None if there are none."""
        t0, t1 = self.windows.spans[index]
        picks, start = self.picks[index].tolist(), self._tick(t0)
        self._read(int(np.searchsorted(self.wanted, self._tick(t1))))
        found = [(stamp, *self.kept[stamp]) for stamp in picks if stamp in self.kept]
        # a lost picture is replaced by the one before it, but only by one of this window
        found = [one for one in found if one[1] == one[0] or one[1] >= start]
        later = self.picks[index + 1].min(initial=self.end) if index + 1 < len(self.picks) else self.end
        self.kept = {stamp: one for stamp, one in self.kept.items() if stamp >= later}
        if not found:
            return None, np.zeros(0)
        seconds = [max(self._seconds(true) - t0, 0.0) for _, true, _ in found]  # 0: on screen already before
        return np.stack([pixels for _, _, pixels in found]), np.array(seconds)

    def _read(self, target: int) -> None:
        """Go on until the first `target` of the wanted pictures are there, or lost."""
        while self.done < target and (one := next(self.shown, None)) is not None:
            place, true, pixels = one
            self.done, stamp = place + 1, int(self.wanted[place])
            self.kept[stamp] = (true, pixels)
            if self.watch and true == stamp and self._is_look(stamp):
                self.watch(self._seconds(stamp), pixels)

    def _shown(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Index in `wanted`, true stamp and picture of all that are on screen at a wanted time."""
        place, before, order = 0, None, iter(self.stamps.tolist())
        frames = _decoded(self.windows, 0, "pictures", self.budget, self.wanted if self.times.has_times else None)
        while frame := self._next(frames):
            stamp = frame.pts if self.times.has_times else next(order, None)
            if stamp is None or (before is not None and stamp <= before[0]):
                continue
            if before is not None:
                place = yield from self._until(place, before, stamp)
            before = (stamp, frame)
        if before is not None:
            yield from self._until(place, before, 2**62)

    def _next(self, frames: Iterator[Any]) -> Any:
        """The next frame; None at the end, which is also where there is too much damage."""
        try:
            return next(frames, None)
        except ClipError as err:
            if err.code != "corrupt_media":
                raise
            self.is_damaged = True
            return None

    def _until(self, place: int, shown: tuple[int, Any], stop: int) -> Generator[Any, None, int]:
        """What is on screen until the stamp `stop`, for each wanted stamp from `place`; gives the next place."""
        stamp, frame = shown
        first = max(place, int(np.searchsorted(self.wanted, stamp)))  # those before were lost
        last = int(np.searchsorted(self.wanted, stop))
        pixels = self.budget.attempt(self.rgb, frame) if first < last else None
        if pixels is not None:
            yield from ((i, stamp, pixels) for i in range(first, last))
        return max(place, last)

    def _picks(self, t0: float, t1: float) -> np.ndarray:
        """The stamps of the pictures of a window (T,), or none."""
        start = self._tick(t0)
        stop = self._tick(t1) if t1 < self.windows.duration else self.end
        inside = self.stamps[np.searchsorted(self.stamps, start, "right") : np.searchsorted(self.stamps, stop)]
        before = int(np.searchsorted(self.stamps, start, "right")) - 1
        is_on = before >= 0 and start < self.end  # a picture that came before the window is still on screen
        stamps = [*([start] if is_on else []), *inside.tolist()]
        if not stamps:
            return self.stamps[:0]
        picks = self.windows.sampling(stamps, min(stop, self.end), self.windows.frames)
        return np.array([int(self.stamps[before]) if is_on and stamp == start else stamp for stamp in picks], np.int64)

    def _looks(self) -> np.ndarray:
        """The first stamp in each stretch of `LOOK_S`."""
        seconds = self.stamps * float(self.times.tick) - self.windows.span.zero
        return self.stamps[np.unique(np.floor(seconds / LOOK_S + 1e-6), return_index=True)[1]]

    def _is_look(self, stamp: int) -> bool:
        place = int(np.searchsorted(self.looks, stamp))
        return place < len(self.looks) and int(self.looks[place]) == stamp

    def _seconds(self, stamp: int) -> float:
        return self.times.seconds(stamp) - self.windows.span.zero

    def _tick(self, seconds: float) -> int:
        return round((seconds + self.windows.span.zero) / float(self.times.tick))


class _Sound:
    """The sound stream, read as far as the present window wants."""

    def __init__(self, windows: Windows, times: _Times) -> None:
        self.windows, self.times = windows, times
        self.budget = Budget(windows.name, windows.limits, windows.duration)
        self.wave, self.first, self.end = np.zeros(0, np.float32), 0, 0  # samples from `first`; heard up to `end`
        self.is_there, self.is_damaged = False, False
        self.pieces = self._pieces()
        is_fine = times.tick < Fraction(1, 8000)  # Matroska's milliseconds are not
        self.cut = (times.seconds(times.end) - windows.span.zero) * RATE if is_fine else math.inf  # padding is behind

    def take(self, t0: float, t1: float) -> np.ndarray | None:
        """(L,) from t0 to t1 or to where the sound ends; None if it has ended before."""
        first, last = round(t0 * RATE), round(min(t1 * RATE, self.cut))
        self.wave, self.first = self.wave[max(first - self.first, 0) :].copy(), first
        while self.end < last and (piece := next(self.pieces, None)) is not None:
            self._place(*piece)
        length = min(last, self.end) - first
        return self.wave[:length].copy() if length > 0 else None

    def _place(self, at: int, samples: np.ndarray) -> None:
        """Put in samples that start at sample `at` of the clip; what lies between is silence."""
        samples = samples[max(self.first - at, 0) :]
        at = max(at, self.first) - self.first
        missing = at + len(samples) - len(self.wave)
        if missing > 0:
            self.wave = np.concatenate([self.wave, np.zeros(missing, np.float32)])
        self.wave[at : at + len(samples)] = samples
        self.end, self.is_there = max(self.end, self.first + at + len(samples)), True

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Resampled sound, and the sample of the clip at which each piece starts."""
        try:
            yield from self._resampled()
        except ClipError as err:
            if err.code != "corrupt_media":
                raise
            self.is_damaged = True

    def _resampled(self) -> Iterator[tuple[int, np.ndarray]]:
        run, at = None, 0
        for frame in _decoded(self.windows, 1, "sound", self.budget, None):
            self.budget.hear(frame)
            expected = run.end if run else 0.0
            start = expected if frame.pts is None else self.times.seconds(frame.pts) - self.windows.span.zero
            if run is None or run.kind != sound_kind(frame) or start - expected > GAP:
                if run is not None:
                    yield at, self._rest(run)
                run, at = SoundRun(frame, start), round(start * RATE)
            if not self.budget.attempt(run.push, frame, start) and at == round(run.start * RATE):
                run = None  # a sample format from a broken header
                continue
            for piece in run.pieces:
                yield at, self._checked(piece)
                at += len(piece)
            run.pieces = []
        if run is not None:
            yield at, self._rest(run)

    def _rest(self, run: SoundRun) -> np.ndarray:
        """What is left in the resampler."""
        rest = self.budget.attempt(run.samples)
        return np.zeros(0, np.float32) if rest is None else self._checked(rest)

    def _checked(self, piece: np.ndarray) -> np.ndarray:
        if not (np.abs(piece) < LOUDEST).all():  # float PCM can hold anything, NaN too
            raise clip_error("corrupt_media", self.windows.name)
        return piece
