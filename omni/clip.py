"""Clips in, clips out. The only file that knows the media libraries (PyAV, that is FFmpeg; Pillow for stills).

    path ─► checks: a local file, its size, its first bytes (they choose the demuxer, never the name)
         ─► demux once: the packets of one video and one audio stream, kept compressed in memory
         ─► the times of all pictures ─► T mid-bin times ─► decode what those T pictures need ─► frames, times
         ─► decode the sound, mono, 16 kHz, sample 0 at time 0 ─► wave

Time 0 is the start of the clip as a player shows it: the first packet of picture or sound. The length of a clip
is decided once: last picture + its duration, and only without pictures the end of the sound. The length in the
header is not believed (browsers write none, a cut file keeps the old one). With `start` and `end` of the pictures

    t_i = start + (i + 1/2) · (end − start) / T            i = 0 … T−1
    picture i = the one on screen at t_i = the last with pts <= t_i,  reported with its own pts

compared in integers, so equal clips give equal picks. A clip of fewer pictures than T repeats some, with equal
times. As all packet times are known before anything is decoded, packets between a picked picture and the next
needed keyframe are dropped, and so are unpicked pictures that no other refers to: nothing is ever seeked.

Errors are `ClipError`s with the codes of `REASONS`, which say what to do and never contain decoder text.
Faults that leave the clip usable are `warnings` of the `Clip`: `no_audio, no_video, silent_audio, truncated,
bad_packets:n, hdr_not_tonemapped, rotated, vfr, no_duration_header, multiple_audio_streams`.

Silent audio keeps its wave, but counts as no modality: a muted microphone is no evidence of a calm voice.

Left out: a child process around the decoder (all is in-process: a decoder that hangs inside one packet is not
interrupted, one that crashes takes the process with it; a server should give each clip to a worker process),
HDR tone mapping, deinterlacing, mirrored display matrices, animated WebP and PNG (their first picture is read),
raw codec streams without a container, and playlists, which name other files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .errors import ClipError

if TYPE_CHECKING:
    import av

RATE = 16_000  # Hz of every wave: what Whisper-style audio towers take
LONG_SIDE = 640  # px; longer sides are shrunk while converting to RGB: ample for a face tower
SILENCE = 10 ** (-70 / 20)  # peak below -70 dBFS (10 steps of 16 bits): below any microphone's own noise
GAP = 0.1  # s; a longer hole between sound packets is filled with silence, a shorter one is jitter

# First bytes -> FFmpeg demuxer, or "image" for Pillow. The demuxer is forced, so a file can neither be probed as
# a playlist nor as one of FFmpeg's other 300 formats. First match wins.
SIGNATURES = {
    "heif": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "mov": rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)",
    "matroska": rb"\x1aE\xdf\xa3",
    "avi": rb"RIFF.{4}AVI ",
    "wav": rb"(RIFF|RF64).{4}WAVE",
    "image": rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM.{4}\0\0\0\0|RIFF.{4}WEBP",
    "gif": rb"GIF8[79]a",
    "ogg": rb"OggS",
    "flac": rb"fLaC",
    "mp3": rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa-\xfd]",
    "aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    "mpeg": rb"\0\0\1\xba",
    "mpegts": rb"G.{187}G|.{4}G.{191}G",
    "flv": rb"FLV\x01",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
}
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,wav,mp3,flac,ogg,gif,mpeg,mpegts,flv,asf,aac"
DECODERS = frozenset(
    "h264 hevc vp8 vp9 libvpx libvpx-vp9 av1 libdav1d mpeg4 mpeg2video mpeg1video mjpeg gif theora flv h263 "
    "msmpeg4v3 wmv2 aac mp3 mp3float mp2 mp2float opus libopus vorbis flac ac3 alac amrnb amrwb wmav2 "
    "pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_u8 pcm_s8 "
    "pcm_mulaw pcm_alaw adpcm_ms adpcm_ima_wav".split()
)

# Why a clip was refused, and what to do. The code is the part before the first dot; `{name}` is put in front.
REASONS = {
    "bad_argument": "cannot be read with frames={frames}, audio={audio}, video={video}: ask for at least one of "
    "audio and video, and for one or more frames.",
    "url_not_allowed": "is a web address or a protocol, not a file. Download it and give the path of the file.",
    "not_found": "does not exist. Check the spelling and the folder of the path.",
    "not_a_file": "is not a regular file. Give the path of one clip; a folder of clips goes to `omni label`.",
    "not_allowed_path": "may not be read by this user. Change its permissions, or copy it.",
    "empty_file": "is empty (less than {least} bytes). Record or copy it again.",
    "too_large_bytes": "has {size:.0f} MB, more than the limit of {limit:.0f} MB. Cut or re-encode it, or raise "
    "Limits(file_bytes=…).",
    "unsupported_format": "is not a clip that can be read. Give mp4, mov, mkv, webm, avi, mpg, gif, wav, mp3, "
    "flac, ogg, png, jpg or webp, or convert it: ffmpeg -i INPUT clip.mp4",
    "unsupported_format.streams": "has {streams} streams, more than the limit of {limit}. Keep one picture and one "
    "sound track (ffmpeg -i INPUT -map 0:v:0 -map 0:a:0 clip.mp4), or raise Limits(streams=…).",
    "unsupported_codec": "has {sense} in a codec that is not read here. Convert it: ffmpeg -i INPUT -c:v libx264 "
    "-c:a aac clip.mp4",
    "corrupt_media": "is damaged and cannot be read. Copy or record it again, or try a repair: ffmpeg -i INPUT "
    "-c copy clip.mkv",
    "corrupt_media.packets": "is damaged: more than {limit} of its packets cannot be decoded. Copy or record it "
    "again, or raise Limits(bad_packets=…).",
    "no_streams": "has neither picture nor sound. Record it again with the camera or the microphone on.",
    "no_streams.audio": "has no sound track. Use --no-audio (audio=False) with the picture on, to reason from the "
    "picture alone.",
    "no_streams.video": "has no picture. Use --no-video (video=False) with the sound on, to reason from the sound "
    "alone.",
    "no_streams.silent": "is silent from start to end, and there is no picture beside it. Unmute the microphone "
    "and record it again, or leave the picture in.",
    "no_frames": "has a {sense} track of which nothing can be decoded. Record or convert it again (ffmpeg -i INPUT "
    "clip.mp4), or leave it out with {flag}.",
    "too_large_pixels": "has pictures of more than {limit:.1f} megapixels. Shrink it (ffmpeg -i INPUT -vf "
    "scale=1280:-2 clip.mp4), or raise Limits({field}=…).",
    "too_long": "is longer than {limit:.0f} s. Cut it (ffmpeg -i INPUT -t {limit:.0f} clip.mp4), or raise "
    "Limits(seconds=…).",
    "too_long.frames": "has more than {limit} pictures. Cut it or lower its rate (ffmpeg -i INPUT -r 25 clip.mp4), "
    "or raise Limits(frames=…).",
    "too_long.audio": "has more than {limit:.0f} MB of decoded sound. Cut it or mix it down (ffmpeg -i INPUT -ac 1 "
    "clip.mp4), or raise Limits(audio_bytes=…).",
    "decode_timeout": "took longer than {limit:.0f} s to decode. Shorten or shrink it (ffmpeg -i INPUT -vf "
    "scale=640:-2 clip.mp4), or raise Limits(wall_seconds=…).",
    "not_writable": "cannot be written. Check that its folder exists and has space.",
    "bad_clip": "cannot be written: {why}.",
}


@dataclass(frozen=True)
class Limits:
    """What one clip may cost before it is refused. Every number has a reason.

    >>> Limits(seconds=30).seconds
    30
    """

    file_bytes: int = 256 * 2**20  # vLLM's limit for downloaded media; also bounds the packets kept in memory
    seconds: float = 600.0  # vLLM's VLLM_MAX_AUDIO_DECODE_DURATION_S
    pixels: int = 4096 * 2304  # of one video picture: cinema 4K
    image_pixels: int = 89_478_485  # of a still: where Pillow starts to warn of a decompression bomb
    frames: int = 36_000  # pictures in a file: 600 s at 60 fps
    streams: int = 16  # tracks in a file; phones write 2 to 6
    audio_bytes: int = 256 * 2**20  # decoded, before mixing down: 600 s of 48 kHz stereo float is 230 MB
    bad_packets: int = 200  # undecodable packets before the file counts as damaged
    packets: int = 500_000  # 600 s of 2.5 ms Opus is 240,000; bounds the memory of absurd files
    wall_seconds: float = 30.0  # decoding time, + 0.1 s per second of clip


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip. `T` pictures, `L` samples.

    Attributes:
        frames: uint8 (T, H, W, 3) RGB, upright, longer side <= 640; None without a picture.
        times: float64 (T,) seconds from the start of the clip at which each frame came on screen.
        wave: float32 (L,) mono at 16 kHz, sample 0 at time 0; None without sound.
        duration: Seconds. 0 for a still.
        sha256: Of the file's bytes, hex. "" for a clip that came from no file.
        warnings: What is not as it should be but can be lived with; see the head of this file.

    >>> Clip(wave=np.zeros(16000, np.float32), duration=1.0).modalities
    ()
    >>> Clip(frames=np.zeros((1, 8, 8, 3), np.uint8), times=np.zeros(1)).modalities
    ('video',)
    """

    frames: np.ndarray | None = None
    times: np.ndarray = field(default_factory=lambda: np.zeros(0))
    wave: np.ndarray | None = None
    duration: float = 0.0
    sha256: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The senses that carry something, a subset of ("video", "audio"). A silent wave is no modality."""
        heard = self.wave is not None and not is_silent(self.wave)
        return ("video",) * (self.frames is not None) + ("audio",) * heard


def is_silent(wave: np.ndarray) -> bool:
    """Whether no sample of `wave` reaches -70 dBFS."""
    return not wave.size or float(np.abs(wave).max()) < SILENCE


def read_clip(
    path: str | os.PathLike[str] | Clip,
    *,
    frames: int = 8,
    audio: bool = True,
    video: bool = True,
    limits: Limits | None = None,
) -> Clip:
    """Reads the pictures and the sound of a local video, sound or image file.

    Args:
        path: A file. A `Clip` passes through, without the senses that are not wanted.
        frames: T, the number of mid-bin pictures; 8 as R1-Omni. A still gives one.
        audio: False leaves the sound out on purpose (no warning).
        video: False leaves the picture out on purpose (no warning).
        limits: What the clip may cost; `Limits()` if None.

    Raises:
        ClipError: With a code and a sentence of `REASONS`.

    >>> read_clip("no/such.mp4")
    Traceback (most recent call last):
    omni.errors.ClipError: such.mp4 does not exist. Check the spelling and the folder of the path.
    """
    name = _printable(path)
    if frames < 1 or not (audio or video):
        raise _error("bad_argument", name, frames=frames, audio=audio, video=video)
    if isinstance(path, Clip):
        return _without(path, audio, video)
    limits = limits or Limits()
    file = _regular_file(path, name, limits)
    head, sha256 = _fingerprint(file, name)
    demuxer = _demuxer(head, name)
    if demuxer == "image":
        clip = _read_image(file, name, limits)
    else:
        clip = _read_media(file, name, demuxer, frames, (audio, video), limits)
    return _checked(replace(clip, sha256=sha256), name, audio, video)


def _without(clip: Clip, audio: bool, video: bool) -> Clip:
    clip = clip if audio else replace(clip, wave=None)
    clip = clip if video else replace(clip, frames=None, times=np.zeros(0))
    return _checked(clip, "The clip", audio, video)


def _checked(clip: Clip, name: str, audio: bool, video: bool) -> Clip:
    """Drops what was not asked for, adds the warnings about what is missing, refuses a clip of nothing."""
    clip = clip if video else replace(clip, frames=None, times=np.zeros(0))
    clip = clip if audio else replace(clip, wave=None)
    if clip.modalities:
        missing = {
            "no_video": video and clip.frames is None,
            "no_audio": audio and clip.wave is None,
            "silent_audio": clip.wave is not None and is_silent(clip.wave),
        }
        new = tuple(w for w, true in missing.items() if true and w not in clip.warnings)
        return replace(clip, warnings=new + clip.warnings)
    if clip.wave is not None:
        raise _error("no_streams.silent", name)
    raise _error("no_streams" if audio and video else "no_streams.audio" if audio else "no_streams.video", name)


# ---- before anything is decoded ----


def _printable(path: object) -> str:
    """The file's name for a message: no folders, no control characters, no terminal escapes.

    >>> _printable("/home/ann/a\\x1b[2Jb\\n.mp4")
    'a?[2Jb?.mp4'
    """
    if isinstance(path, Clip):
        return "The clip"
    name = os.path.basename(os.fspath(path).rstrip("/")) or os.fspath(path)  # type: ignore[call-overload]
    return "".join(c if c.isprintable() else "?" for c in name)[:120] or "The path"


def _error(reason: str, name: str, **facts: Any) -> ClipError:
    return ClipError(f"{name} {REASONS[reason].format(**facts)}", code=reason.partition(".")[0])


def _regular_file(path: str | os.PathLike[str], name: str, limits: Limits) -> Path:
    """The absolute path of a regular file of allowed size. Absolute: then no name is read as a protocol."""
    text = os.fspath(path)
    try:
        file = Path(text).resolve()
        status = file.stat()
    except PermissionError as err:
        raise _error("not_allowed_path", name) from err
    except (OSError, ValueError, RuntimeError) as err:  # missing; NUL in the name; a loop of links
        remote = re.match(r"[a-zA-Z][a-zA-Z0-9+.,-]+:", text)  # two letters or more: C: is a drive
        raise _error("url_not_allowed" if remote else "not_found", name) from err
    if not stat.S_ISREG(status.st_mode):
        raise _error("not_a_file", name)
    if status.st_size < (least := 8):  # a record button clicked twice leaves a 1-byte webm
        raise _error("empty_file", name, least=least)
    if status.st_size > limits.file_bytes:
        raise _error("too_large_bytes", name, size=status.st_size / 2**20, limit=limits.file_bytes / 2**20)
    return file


def _fingerprint(file: Path, name: str) -> tuple[bytes, str]:
    """The first bytes and the SHA-256 of a file."""
    try:
        with file.open("rb") as handle:
            head = handle.read(512)
            handle.seek(0)
            return head, hashlib.file_digest(handle, "sha256").hexdigest()
    except PermissionError as err:
        raise _error("not_allowed_path", name) from err
    except OSError as err:
        raise _error("corrupt_media", name) from err


def _demuxer(head: bytes, name: str) -> str:
    for demuxer, pattern in SIGNATURES.items():
        if re.match(pattern, head, re.DOTALL) and demuxer != "heif":
            return demuxer
        if re.match(pattern, head, re.DOTALL):
            break
    raise _error("unsupported_format", name)


def _read_image(file: Path, name: str, limits: Limits) -> Clip:
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            if image.width * image.height > limits.image_pixels:
                raise _too_large(name, limits.image_pixels, "image_pixels")
            image.draft("RGB", (2 * LONG_SIDE, 2 * LONG_SIDE))  # JPEG only: decodes at 1/2, 1/4 or 1/8 size
            image.thumbnail((LONG_SIDE, LONG_SIDE))
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # (H, W, 3)
    except ClipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise _too_large(name, limits.image_pixels, "image_pixels") from err
    except Exception as err:  # image decoders raise OSError, SyntaxError, struct.error, EOFError …
        raise _error("corrupt_media", name) from err
    return Clip(frames=pixels[None].copy(), times=np.zeros(1))


def _too_large(name: str, limit: int, which: str) -> ClipError:
    return _error("too_large_pixels", name, limit=limit / 1e6, field=which)


# ---- packets and times ----


@dataclass
class _Track:
    """One stream and its packets, in file order, those without a time left out."""

    stream: Any
    packets: list[av.Packet] = field(default_factory=list)

    def seconds(self, stamp: int) -> float:
        return float(stamp * self.stream.time_base)

    def stamps(self) -> list[int]:
        """Display times in ticks of the stream, rising. AVI stores none, only the order: there, decoding times."""
        by_order = self.stream.container.format.name == "avi"
        shown = [p for p in self.packets if not p.is_discard] or self.packets  # an edit list hides some
        return sorted(p.dts if by_order and p.dts is not None else _stamp(p) for p in shown)

    @property
    def is_exact(self) -> bool:
        """Whether the time of each packet is the time of its picture."""
        return self.stream.container.format.name != "avi" and all(p.pts is not None for p in self.packets)

    @property
    def end(self) -> int:
        return max(_stamp(p) + max(p.duration or 0, 0) for p in self.packets)


def _stamp(packet: av.Packet) -> int:
    return packet.pts if packet.pts is not None else packet.dts


class _Span(NamedTuple):
    """The pictures of a clip on its own clock, and the clock."""

    zero: float  # seconds of the container's clock at which the clip starts
    duration: float  # seconds
    stamps: list[int]  # of all pictures, ticks
    end: int  # of the last picture, ticks


class _Budget:
    """What the decoding of one clip may still cost."""

    def __init__(self, name: str, limits: Limits, duration: float) -> None:
        self.name, self.limits, self.bad, self.audio_bytes = name, limits, 0, 0
        self.wall = limits.wall_seconds + duration / 10
        self.deadline = time.monotonic() + self.wall

    def decode(self, context: Any, packet: av.Packet | None) -> list[Any]:
        """The frames that come out for `packet` (None: the rest). A packet that cannot be decoded is counted."""
        import av

        if time.monotonic() > self.deadline:
            raise _error("decode_timeout", self.name, limit=self.wall)
        try:
            return context.decode(packet)
        except av.error.FFmpegError as err:
            self.bad += 1
            if self.bad > self.limits.bad_packets:
                raise _error("corrupt_media.packets", self.name, limit=self.limits.bad_packets) from err
            return []

    def hear(self, frame: av.AudioFrame) -> None:
        self.audio_bytes += frame.samples * len(frame.layout.channels) * frame.format.bytes
        if self.audio_bytes > self.limits.audio_bytes:
            raise _error("too_long.audio", self.name, limit=self.limits.audio_bytes / 2**20)


def _read_media(
    file: Path, name: str, demuxer: str, frames: int, audio: bool, video: bool, limits: Limits
) -> Clip:
    with _open(file, name, demuxer) as container:
        picture, sound, cut = _demux(container, name, limits)
        span = _span(picture, sound)
        budget = _Budget(name, limits, span.duration)
        shown, wave = _Pictures.none(), None
        if video and picture:
            _open_decoder(picture, "pictures", name, limits)
            shown = _decode_pictures(picture, span, frames, budget)
        if audio and sound:
            _open_decoder(sound, "sound", name, limits)
            wave = _decode_sound(sound, span.zero, budget)
        faults = {
            "truncated": cut or _is_cut(container, picture, sound),
            f"bad_packets:{budget.bad}": budget.bad,
            "vfr": picture and _is_vfr(span.stamps),
            "no_duration_header": container.duration is None,
            "multiple_audio_streams": len(container.streams.audio) > 1,
        }
    warnings = shown.warnings + tuple(fault for fault, true in faults.items() if true)
    return Clip(shown.frames, shown.times, wave, span.duration, warnings=warnings)


def _open(file: Path, name: str, demuxer: str) -> av.container.InputContainer:
    import av

    options = {
        "protocol_whitelist": "file",
        "format_whitelist": DEMUXERS,
        "codec_whitelist": ",".join(sorted(DECODERS)),  # for FFmpeg's own probing; ours is in `_open_decoder`
    }
    try:
        return av.open(str(file), format=demuxer, options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as err:
        raise _error("corrupt_media", name) from err


def _demux(container: Any, name: str, limits: Limits) -> tuple[_Track | None, _Track | None, bool]:
    """All packets of the best picture and sound stream, and whether the file breaks off."""
    import av

    if len(container.streams) > limits.streams:
        raise _error("unsupported_format.streams", name, streams=len(container.streams), limit=limits.streams)
    chosen = [_best(container.streams.video), _best(container.streams.audio)]
    tracks = {stream.index: _Track(stream) for stream in chosen if stream}
    if not tracks:
        raise _error("no_streams", name)
    first, count, cut = None, 0, False
    try:
        for packet in container.demux(*(track.stream for track in tracks.values())):
            if not packet.size or _stamp(packet) is None:
                continue
            seconds = float(_stamp(packet) * packet.time_base)
            first = seconds if first is None else min(first, seconds)
            count += 1
            if seconds - first > limits.seconds or count > limits.packets:
                raise _error("too_long", name, limit=limits.seconds)
            cut = cut or packet.is_corrupt
            tracks[packet.stream_index].packets.append(packet)
    except av.error.FFmpegError:
        cut = True  # as the ffmpeg command does: what was read before the fault is the clip
    picture, sound = (s and tracks[s.index] if s and tracks[s.index].packets else None for s in chosen)
    if not (picture or sound):
        raise _error("corrupt_media" if cut else "no_streams", name)
    if picture and len(picture.packets) > limits.frames:
        raise _error("too_long.frames", name, limit=limits.frames)
    return picture, sound, cut


def _best(streams: Any) -> Any:
    """The stream marked as default, else the first; the cover art of a song is no picture of a person."""
    from av.stream import Disposition

    shown = [s for s in streams if not s.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)]
    return max(shown, key=lambda s: bool(s.disposition & Disposition.default), default=None)


def _span(picture: _Track | None, sound: _Track | None) -> _Span:
    stamps = picture.stamps() if picture else []
    starts = [picture.seconds(stamps[0])] if picture else []
    if sound:  # a negative start is the encoder's run-in, which is cut off in decoding
        starts.append(max(sound.seconds(sound.stamps()[0]), 0.0))
    zero = min(starts)
    if not picture:
        return _Span(zero, sound.seconds(sound.end) - zero, [], 0)
    end = stamps[-1] + _last_duration(picture, stamps, sound)
    return _Span(zero, picture.seconds(end) - zero, stamps, end)


def _last_duration(picture: _Track, stamps: list[int], sound: _Track | None) -> int:
    """Ticks for which the last picture stays. Where not written (WebM): as most others, but not beyond the sound."""
    written = max(picture.packets, key=_stamp).duration or 0
    if written > 0:
        return written
    usual = int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0
    left = int(sound.seconds(sound.end) / picture.stream.time_base) - stamps[-1] if sound else 0
    return max(min(usual, left) if left > 0 else usual, 1)


def _is_vfr(stamps: list[int]) -> bool:
    """Whether more than 5 % of the pictures stay 25 % longer or shorter than most."""
    gaps = np.diff(stamps)
    return len(gaps) > 1 and float(np.mean(np.abs(gaps - np.median(gaps)) > 0.25 * np.median(gaps) + 1)) > 0.05


def _is_cut(container: Any, picture: _Track | None, sound: _Track | None) -> bool:
    """Whether a header that is known to be exact promises clearly more than there is."""
    exact = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "wav", "flac"}
    if container.format.name not in exact:
        return False
    for track in filter(None, (picture, sound)):
        read = track.seconds(track.end - track.stamps()[0])
        if track.stream.duration:
            promised = track.seconds(track.stream.duration)
        else:  # Matroska has one length for all streams
            read, promised = max(track.seconds(track.end), read), (container.duration or 0) / 1e6
            read = max(t.seconds(t.end) for t in (picture, sound) if t)
        if promised - read > max(0.5, 0.05 * promised):
            return True
    return False


def _open_decoder(track: _Track, sense: str, name: str, limits: Limits) -> None:
    context = track.stream.codec_context
    if context is None or context.name not in DECODERS:
        raise _error("unsupported_codec", name, sense=sense)
    if sense == "pictures":
        if context.width * context.height > limits.pixels:
            raise _too_large(name, limits.pixels, "pixels")
        context.options = {"max_pixels": str(limits.pixels)}  # a stream can change its size on the way
        context.thread_type = "AUTO"


# ---- pictures ----


class _Pictures(NamedTuple):
    frames: np.ndarray | None  # uint8 (T, H, W, 3)
    times: np.ndarray  # float64 (T,) seconds
    warnings: tuple[str, ...]

    @classmethod
    def none(cls) -> _Pictures:
        return cls(None, np.zeros(0), ())


def mid_bins(stamps: list[int], end: int, count: int) -> list[int]:
    """For each of `count` equal bins, the stamp of the picture on screen in its middle.

    Args:
        stamps: Times of all pictures, rising, in ticks.
        end: When the last picture leaves, in ticks.
        count: T.

    >>> mid_bins([0, 10, 20, 30], 40, 2), mid_bins([0, 10], 20, 4)
    ([10, 30], [0, 0, 10, 10])
    """
    start = stamps[0]
    middles = (start * 2 * count + (2 * i + 1) * (end - start) for i in range(count))  # in 1/(2·count) ticks
    return [stamps[max(bisect_right(stamps, middle // (2 * count)) - 1, 0)] for middle in middles]


def _decode_pictures(track: _Track, span: _Span, count: int, budget: _Budget) -> _Pictures:
    picks = mid_bins(span.stamps, span.end, count)
    picker = _Picker(sorted(set(picks)))
    context = track.stream.codec_context
    if track.is_exact:
        for run in _needed_runs(track.packets, picker.wanted):
            for packet in run:
                context.skip_frame = "DEFAULT" if packet.pts in picker.picked else "NONREF"
                _offer(picker, budget.decode(context, packet))
            _offer(picker, budget.decode(context, None))
            context.flush_buffers()
    else:  # the n-th picture that comes out has the n-th time
        order = iter(span.stamps)
        for packet in [*track.packets, None]:
            for frame in budget.decode(context, packet):
                picker.offer(next(order, span.stamps[-1]), frame)
    if not picker.found:
        raise _error("no_frames", budget.name, sense="picture", flag="--no-video (video=False)")
    shown = picker.results()
    frames = np.stack([shown[stamp][1] for stamp in picks])  # (T, H, W, 3)
    times = np.array([track.seconds(shown[stamp][0]) - span.zero for stamp in picks])
    return _Pictures(frames, times, picker.warnings())


def _offer(picker: _Picker, frames: list[av.VideoFrame]) -> None:
    for frame in frames:
        if frame.pts is not None:
            picker.offer(frame.pts, frame)


def _needed_runs(packets: list[av.Packet], wanted: list[int]) -> list[list[av.Packet]]:
    """The packets that must be decoded to see the wanted pictures: from the keyframe before each, up to it."""
    place = {packet.pts: i for i, packet in enumerate(packets)}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    bounds: list[list[int]] = []
    for stamp in wanted:
        last = place[stamp]
        k = bisect_right(keys, last) - 1
        while k >= 0 and packets[keys[k]].pts > stamp:  # a leading picture leans on the group before
            k -= 1
        first = keys[k] if k >= 0 else 0
        if bounds and first <= bounds[-1][1] + 1:
            bounds[-1][1] = max(bounds[-1][1], last)
        else:
            bounds.append([first, last])
    return [packets[first : last + 1] for first, last in bounds]


class _Picker:
    """Keeps, for each wanted stamp, the latest picture at or before it; converts only those to RGB."""

    def __init__(self, wanted: list[int]) -> None:
        from av.video.reformatter import VideoReformatter

        self.wanted, self.picked = wanted, frozenset(wanted)
        self.found: dict[int, tuple[int, Any]] = {}  # slot -> (stamp, frame or (H, W, 3))
        self.slot = 0
        self.size: tuple[int, int] | None = None
        self.marks: dict[str, bool] = {}
        self.reformatter = VideoReformatter()

    def offer(self, stamp: int, frame: av.VideoFrame) -> None:
        slot = min(bisect_left(self.wanted, stamp), len(self.wanted) - 1)
        held = self.found.get(slot)
        late = stamp > self.wanted[slot]  # behind the last wanted: only better than nothing
        if held and (late or held[0] > stamp):
            return
        if slot != self.slot:
            self._settle()
        self.slot = slot
        self.found[slot] = (stamp, frame)

    def results(self) -> dict[int, tuple[int, np.ndarray]]:
        """Wanted stamp -> (true stamp, picture). A picture that was lost is replaced by the one before it."""
        self._settle()
        results, last = {}, self.found[min(self.found)]
        for slot, stamp in enumerate(self.wanted):
            last = self.found.get(slot, last)
            results[stamp] = last
        return results

    def warnings(self) -> tuple[str, ...]:
        return tuple(mark for mark, true in self.marks.items() if true)

    def _settle(self) -> None:
        stamp, frame = self.found.get(self.slot, (0, None))
        if frame is not None and not isinstance(frame, np.ndarray):
            self.found[self.slot] = (stamp, self._rgb(frame))

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) upright RGB in square pixels; the first picture decides H and W for all."""
        if self.size is None:
            self.size = _shrunk(frame)
            self.turns = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
            self.marks = {"hdr_not_tonemapped": frame.color_trc in HDR, "rotated": bool(self.turns % 4)}
        small = self.reformatter.reformat(frame, *self.size, "rgb24", threads=1)
        return np.rot90(small.to_ndarray(), self.turns)


HDR = (16, 18)  # transfer curves PQ and HLG (ITU-T H.273)


def _shrunk(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height with square pixels and a longer side of at most 640."""
    width, height = float(frame.width), float(frame.height)
    scale = min(1.0, LONG_SIDE / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


# ---- sound ----


def _decode_sound(track: _Track, zero: float, budget: _Budget) -> np.ndarray | None:
    """(L,) mono 16 kHz, sample 0 at `zero`; None if nothing can be decoded."""
    runs: list[_Run] = []
    context = track.stream.codec_context
    for packet in [*track.packets, None]:
        for frame in budget.decode(context, packet):
            budget.hear(frame)
            start = None if frame.pts is None else track.seconds(frame.pts) - zero
            if not runs or not runs[-1].takes(frame, start):
                runs.append(_Run(frame, start if start is not None else runs[-1].end if runs else 0.0))
            runs[-1].push(frame, start)
    last = track.seconds(track.end) - zero if track.stream.time_base < Fraction(1, 8000) else None
    return _placed(runs, last, budget)


class _Run:
    """Sound packets without a hole between them, and of one sample format."""

    def __init__(self, frame: av.AudioFrame, start: float) -> None:
        import av

        self.start = self.end = start
        self.kind = _kind(frame)
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        self.pieces: list[np.ndarray] = []

    def takes(self, frame: av.AudioFrame, start: float | None) -> bool:
        return _kind(frame) == self.kind and (start is None or start - self.end <= GAP)

    def push(self, frame: av.AudioFrame, start: float | None) -> None:
        self.end = (self.end if start is None else max(start, self.start)) + frame.samples / frame.sample_rate
        self._keep(frame)

    def samples(self) -> np.ndarray:
        self._keep(None)
        return np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.float32)

    def _keep(self, frame: av.AudioFrame | None) -> None:
        self.pieces += [piece.to_ndarray()[0] for piece in self.resampler.resample(frame)]


def _kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _placed(runs: list[_Run], end: float | None, budget: _Budget) -> np.ndarray | None:
    """The runs on one time line; silence between them; without the encoder's padding behind `end`."""
    if not runs:
        return None
    placed = [(round(run.start * RATE), run.samples()) for run in runs]
    length = max(first + len(samples) for first, samples in placed)
    if end is not None and 0 <= length - round(end * RATE) < 4096:
        length = round(end * RATE)
    if length > (budget.limits.seconds + 60) * RATE:
        raise _error("too_long", budget.name, limit=budget.limits.seconds)
    wave = np.zeros(max(length, 0), np.float32)
    for first, samples in placed:
        samples = samples[max(-first, 0) :]
        first = max(first, 0)
        wave[first : first + len(samples)] = samples[: max(length - first, 0)]
    if not np.isfinite(wave).all():
        raise _error("corrupt_media", budget.name)
    return wave if len(wave) else None


# ---- writing ----


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
        frames: uint8 (T, H, W, 3) RGB. Odd sides lose their last row or column: H.264 halves the colours.
        fps: Pictures per second, taken as the nearest fraction with a denominator up to 1001.
        wave: float (L,) mono at 16 kHz in [-1, 1]; louder is clipped.
        size: (width, height) to scale to; the frames' own if None.

    Raises:
        ClipError: `bad_clip` for what cannot be written, `not_writable` for where.
    """
    import av

    target = Path(path)
    name = _printable(path)
    _check_writable(target.suffix.lower(), frames, fps, wave, size, name)
    part = target.with_name(f".{target.name[-100:]}.{os.getpid()}.part")
    muxer = {".mp4": "mp4", ".m4a": "ipod", ".wav": "wav"}[target.suffix.lower()]
    try:
        with av.open(str(part.absolute()), "w", format=muxer) as container:
            _write_streams(container, frames, fps, wave, size, "pcm_s16le" if muxer == "wav" else "aac")
        part.replace(target)
    except (OSError, av.error.FFmpegError) as err:
        raise _error("not_writable", name) from err
    finally:
        part.unlink(missing_ok=True)


def _check_writable(
    suffix: str, frames: np.ndarray | None, fps: float | Fraction, wave: np.ndarray | None, size: Any, name: str
) -> None:
    allowed = (".wav", ".m4a") if frames is None else (".mp4",)
    faults = {
        "there are neither frames nor a wave": frames is None and wave is None,
        f"its name must end in {' or '.join(allowed)}": suffix not in allowed,
        "fps must be between 0.01 and 1000": frames is not None and not 0.01 <= fps <= 1000,
        "frames must be uint8 of shape (T, H, W, 3), T at least 1, H and W at least 2": frames is not None
        and (frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or min(frames.shape[:3]) < 1)
        or (frames is not None and min(frames.shape[1:3]) < 2),
        "size must be (width, height), 2 pixels or more": size is not None and min(size) < 2,
        "wave must be float of shape (L,), finite, L at least 1": wave is not None
        and (wave.ndim != 1 or wave.dtype.kind != "f" or not len(wave) or not np.isfinite(wave).all()),
    }
    for why, true in faults.items():
        if true:
            raise _error("bad_clip", name, why=why)


def _write_streams(
    container: Any, frames: np.ndarray | None, fps: float | Fraction, wave: np.ndarray | None, size: Any, codec: str
) -> None:
    picture = _picture_stream(container, frames, fps, size) if frames is not None else None
    sound = _sound_stream(container, codec) if wave is not None else None
    if picture is not None:
        for i, frame in enumerate(_even_frames(frames, picture)):
            frame.pts, frame.duration, frame.time_base = i, 1, picture.codec_context.time_base
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
    if sound is not None:
        container.mux(sound.encode(_audio_frame(wave, codec)))
        container.mux(sound.encode(None))
