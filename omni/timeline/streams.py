"""The two streams of a clip, each decoded once and read as far as the present window wants; for `windows.py`.

Times      when each picture is shown, 8 bytes a picture
Pictures   a wanted picture is converted as it goes by and kept until its last window is gone
Sound      mono 16 kHz, kept from the start of the present window
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clip import (
    RATE,
    SKIPPING,
    Budget,
    Sampling,
    Track,
    Upright,
    best_tracks,
    open_container,
    open_decoder,
    packets_of,
    resampled,
    stamp_of,
)
from ..errors import ClipError

if TYPE_CHECKING:
    from .windows import Windows

LOOK_S = 0.1  # s between the pictures that `watch` gets, as `omni cues` takes them
Watch = Callable[[float, np.ndarray], None]  # seconds, picture (H, W, 3)


@dataclass
class Times(Track):
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


def decoded(windows: Windows, which: int, sense: str, budget: Budget, wanted: np.ndarray | None) -> Iterator[Any]:
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


class Pictures:
    """The picture stream, read as far as the present window wants."""

    def __init__(self, windows: Windows, times: Times, count: int, sampling: Sampling, watch: Watch | None) -> None:
        self.windows, self.times, self.count, self.sampling, self.watch = windows, times, count, sampling, watch
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
        frames = decoded(self.windows, 0, "pictures", self.budget, self.wanted if self.times.has_times else None)
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
        picks = self.sampling(stamps, min(stop, self.end), self.count)
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


class Sound:
    """The sound stream, read as far as the present window wants."""

    def __init__(self, windows: Windows, times: Times) -> None:
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
        """The sound, each piece after the sample that it starts at; ends early where there is too much damage."""
        frames = decoded(self.windows, 1, "sound", self.budget, None)
        try:
            yield from resampled(frames, self.times, self.windows.span.zero, self.budget)
        except ClipError as err:
            if err.code != "corrupt_media":
                raise
            self.is_damaged = True
