"""Clips in. With `clip_writer.py` the only file that knows the media libraries: PyAV (FFmpeg), and Pillow for stills.

    path ─► checks: a local file, its size, its first bytes (they choose the demuxer, never the name)
         ─► demux once: the packets of one picture and one sound stream, kept compressed in memory
         ─► the times of all pictures ─► T mid-bin times ─► decode what those T pictures need ─► frames, times
         ─► decode the sound, mono, 16 kHz, sample 0 at time 0 ─► wave

Time 0 is the start of the clip as a player shows it: the first packet of picture or sound. The length is decided
once: last picture + its duration, and only without pictures the end of the sound. The length in the header is not
believed (browsers write none, a cut file keeps the old one). With `start` and `end` of the pictures

    t_i = start + (i + 1/2) · (end - start) / T            i = 0 … T-1
    picture i = the one on screen at t_i = the last with pts <= t_i, reported with its own pts

compared in integers, so equal clips give equal picks. A clip of fewer pictures than T repeats some, with equal times.
As all packet times are known before anything is decoded, nothing is seeked: packets between a pick and the keyframe
of the next are left out, and so are pictures that no other refers to. Should a pick not come out this way (wrong
keyframe marks, damage), everything is decoded instead.

Errors are `ClipError`s with the codes of `REASONS`, which say what to do and never contain decoder text. Faults that
leave the clip usable are `Clip.warnings`: `no_audio, no_video, silent_audio, truncated, bad_packets:n,
hdr_not_tonemapped, rotated, vfr, no_duration_header, multiple_audio_streams`.

Silent audio keeps its wave, but counts as no modality: a muted microphone is no evidence of a calm voice.

Left out: a child process around the decoder, which `clip_reader.py` is (here a packet can hang the decoder, or crash
it and the process along), HDR tone mapping, deinterlacing, mirrored display matrices, animated WebP and PNG (their
first picture is read), raw codec streams without a container, and playlists, which name other files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from .errors import ClipError

if TYPE_CHECKING:
    import av

T = TypeVar("T")
Sampling: TypeAlias = Callable[[list[int], int, int], list[int]]  # stamps, end, count → the stamps taken
RATE = 16_000  # Hz of every wave: what Whisper-style audio towers take
LONG_SIDE = 640  # px; longer sides are shrunk while converting to RGB: ample for a face tower
SILENCE = 10 ** (-70 / 20)  # of full scale: a peak of 10 steps of 16 bits; no open microphone is so quiet
LOUDEST = 2.0**31  # 32-bit integers written as floats: beyond, a sample is damage, and models overflow
SMALL = 640 * 480  # px; decoding threads wait for each other longer than pictures up to this size take
GAP, RESTART = 0.1, 1.0  # s; sound off by more than GAP is put at its time again; far back, a joined file goes on

# First bytes -> FFmpeg demuxer, or "image" for Pillow; the first match wins. The demuxer is forced, so that
# no file is taken for a playlist, or for one of FFmpeg's 300 other formats.
SIGNATURES = {
    "heif": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "mov": rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)",
    "matroska": rb"\x1aE\xdf\xa3",
    "avi": rb"RIFF.{4}AVI ",
    "wav": rb"(RIFF|RF64).{4}WAVE",
    "image": rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM.{4}\x00{4}|RIFF.{4}WEBP",
    "gif": rb"GIF8[79]a",
    "ogg": rb"OggS",
    "flac": rb"fLaC",
    "mp3": rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa-\xfd]",
    "aac": rb"\xff[\xf0\xf1\xf8\xf9]",
    "mpeg": rb"\x00\x00\x01\xba",
    "mpegts": rb"G.{187}G|.{4}G.{191}G",
    "flv": rb"FLV\x01",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
}
UNREAD = {"heif"}  # HEIC photos are tiled; FFmpeg would read one tile
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,wav,mp3,flac,ogg,gif,mpeg,mpegts,flv,asf,aac"
EXACT_HEADERS = {"mov", "matroska", "avi", "wav", "flac"}  # the other demuxers guess the length

# Decoders that may touch a stranger's bytes. JPEG 2000 and the like stay out: rare in clips, not in CVEs.
PICTURE_CODECS = (
    "h264 hevc vp8 vp9 libvpx libvpx-vp9 av1 libdav1d mpeg4 mpeg2video mpeg1video mjpeg gif theora flv h263 "
    "msmpeg4v3 wmv2"
)
SOUND_CODECS = (
    "aac mp3 mp3float mp2 mp2float opus libopus vorbis flac ac3 alac amrnb amrwb wmav2 pcm_s16le pcm_s16be "
    "pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_u8 pcm_s8 pcm_mulaw pcm_alaw "
    "adpcm_ms adpcm_ima_wav"
)
CODECS = frozenset(f"{PICTURE_CODECS} {SOUND_CODECS}".split())
SKIPPING = {"h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"}  # can drop unreferenced pictures one by one
HDR = {16, 18}  # transfer curves PQ and HLG (ITU-T H.273)

# Why a clip is refused, and what to do. The code is the part before the dot; the file's name goes in front.
REASONS = {
    "bad_argument": "cannot be read with frames={frames}, audio={audio}, video={video}. Ask for audio, "
    "video or both, and for one or more frames.",
    "url_not_allowed": "is a web address or a protocol, not a file. Download it and give the path of the file.",
    "not_found": "does not exist. Check the spelling and the folder of the path.",
    "not_a_file": "is not a regular file. Give the path of one clip; a folder of clips goes to `omni label`.",
    "not_allowed_path": "may not be read by this user. Change its permissions, or copy it.",
    "empty_file": "is empty (less than {least} bytes). Record or copy it again.",
    "too_large_bytes": "has {size:.0f} MB, more than the limit of {limit:.0f} MB. Cut or re-encode it, or "
    "raise --max-bytes of omni label, in Python Limits(file_bytes=…).",
    "unsupported_format": "is not a clip that can be read. Give mp4, mov, mkv, webm, avi, mpg, gif, wav, "
    "mp3, flac, ogg, png, jpg or webp, or convert it (ffmpeg -i INPUT clip.mp4).",
    "unsupported_format.streams": "has {streams} streams, more than the limit of {limit}. Keep one picture "
    "and one sound track (ffmpeg -i INPUT -map 0:v:0 -map 0:a:0 clip.mp4), or raise Limits(streams=…).",
    "unsupported_codec": "has {sense} in a codec that is not read here. Convert it (ffmpeg -i INPUT -c:v "
    "libx264 -c:a aac clip.mp4), or leave it out with {flag}.",
    "corrupt_media": "is damaged and cannot be read. Copy or record it again, or try a repair (ffmpeg -i "
    "INPUT -c copy clip.mkv).",
    "corrupt_media.packets": "is damaged: more than {limit} of its packets cannot be decoded. Copy or "
    "record it again, or raise Limits(bad_packets=…).",
    "no_streams": "has neither picture nor sound. Record it again with the camera or the microphone on.",
    "no_streams.audio": "has no sound track. Use --no-audio (audio=False) to reason from the picture alone.",
    "no_streams.video": "has no picture. Use --no-video (video=False) to reason from the sound alone.",
    "no_streams.silent": "is silent from start to end, and there is no picture beside it. Unmute the "
    "microphone and record it again, or leave the picture in.",
    "no_frames": "has a track of {sense} of which nothing can be decoded. Record or convert it again "
    "(ffmpeg -i INPUT clip.mp4), or leave it out with {flag}.",
    "too_large_pixels": "has pictures of more than {limit:.1f} megapixels. Shrink it (ffmpeg -i INPUT -vf "
    "scale=1280:-2 clip.mp4), or raise --max-pixels of omni label, in Python Limits({field}=…).",
    "too_long": "is longer than {limit:.0f} s. Cut it (ffmpeg -i INPUT -t {limit:.0f} clip.mp4), or raise "
    "--max-seconds of omni label, in Python Limits(seconds=…).",
    "too_long.frames": "has more than {limit} pictures. Cut it or lower its rate (ffmpeg -i INPUT -r 25 "
    "clip.mp4), or raise Limits(frames=…).",
    "too_long.packets": "has more than {limit} packets. Convert it (ffmpeg -i INPUT clip.mp4), or raise "
    "Limits(packets=…).",
    "too_long.audio": "has more than {limit:.0f} MB of decoded sound. Cut it or mix it down (ffmpeg -i "
    "INPUT -ac 1 clip.mp4), or raise Limits(audio_bytes=…).",
    "decode_timeout": "took longer than {limit:.0f} s to decode. Cut or shrink it (ffmpeg -i INPUT -vf "
    "scale=640:-2 clip.mp4), or raise --clip-timeout of omni label, in Python Limits(wall_seconds=…).",
    "decoder_crashed": "made the decoder crash, as damaged files can. Copy or record it again, or convert it "
    "(ffmpeg -i INPUT clip.mp4).",
    "bad_clip": "cannot be written: {why}.",
    "not_writable": "cannot be written there. Check that the folder exists, that you may write in it, and "
    "that the disk has space.",
}
LEAVE_OUT = {"pictures": "--no-video (video=False)", "sound": "--no-audio (audio=False)"}


@dataclass(frozen=True)
class Limits:
    """What one clip may cost before it is refused. Every number has a reason.

    >>> Limits(seconds=30).seconds
    30
    """

    file_bytes: int = 256 * 2**20  # vLLM's limit for downloaded media; also bounds the packets kept in memory
    seconds: float = 600.0  # vLLM's VLLM_MAX_AUDIO_DECODE_DURATION_S
    pixels: int = 4096 * 2304  # of one picture of a video: cinema 4K
    image_pixels: int = 89_478_485  # of a still: where Pillow starts to warn of a decompression bomb
    frames: int = 36_000  # pictures in the file: 600 s at 60 per second
    streams: int = 16  # tracks in the file; phones write 2 to 6
    audio_bytes: int = 256 * 2**20  # decoded, before mixing down: 600 s of 48 kHz stereo float is 230 MB
    packets: int = 500_000  # 600 s of 2.5 ms Opus is 240,000; bounds the memory that absurd files take
    bad_packets: int = 200  # undecodable packets before the file counts as damaged
    wall_seconds: float = 30.0  # decoding time, + 0.1 s per second of clip


@dataclass(frozen=True, eq=False)
class Clip:
    """A decoded clip. `T` pictures of `H` x `W`, `L` samples.

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
    """Whether no sample of `wave` reaches -70 dB of full scale.

    >>> is_silent(np.full(100, 1e-4)), is_silent(np.full(100, 1e-2)), is_silent(np.zeros(0))
    (True, False, True)
    """
    return not wave.size or max(float(wave.max()), -float(wave.min())) < SILENCE


def read_clip(
    path: str | os.PathLike[str] | Clip,
    *,
    frames: int = 8,
    audio: bool = True,
    video: bool = True,
    limits: Limits | None = None,
    sampling: str = "mid_bins",
) -> Clip:
    """Reads the pictures and the sound of a local video, sound or image file.

    Args:
        path: A file. A `Clip` passes through, without the senses that are not wanted.
        frames: T, the number of mid-bin pictures; 8 as R1-Omni. A still gives one.
        audio: False leaves the sound out on purpose (no warning).
        video: False leaves the picture out on purpose (no warning).
        limits: What the clip may cost; `Limits()` if None.
        sampling: Which pictures are taken, a key of `SAMPLINGS`.

    Raises:
        ClipError: With a code and a sentence of `REASONS`.

    >>> read_clip("no/such.mp4")
    Traceback (most recent call last):
    omni.errors.ClipError: such.mp4 does not exist. Check the spelling and the folder of the path.
    """
    name = "The clip" if isinstance(path, Clip) else display_name(path)
    if frames < 1 or not (audio or video):
        raise clip_error("bad_argument", name, frames=frames, audio=audio, video=video)
    if isinstance(path, Clip):
        return _checked(path, name, audio, video)
    limits = limits or Limits()
    file = regular_file(path, name, limits)
    head, sha256 = head_and_hash(file, name)
    demuxer = demuxer_of(head, name)
    if demuxer == "image":
        clip = read_image(file, name, limits)
    else:
        clip = _read_media(file, name, demuxer, frames, audio, video, limits, SAMPLINGS[sampling])
    return _checked(replace(clip, sha256=sha256), name, audio, video)


def _checked(clip: Clip, name: str, audio: bool, video: bool) -> Clip:
    """Drops what was not asked for, adds the warnings about what is missing, refuses a clip of nothing."""
    if clip.frames is not None and not video:
        clip = replace(clip, frames=None, times=np.zeros(0))
    if clip.wave is not None and not audio:
        clip = replace(clip, wave=None)
    if not clip.modalities:
        raise clip_error(_why_nothing(clip, audio, video), name)
    missing = {
        "no_video": video and clip.frames is None,
        "no_audio": audio and clip.wave is None,
        "silent_audio": clip.wave is not None and is_silent(clip.wave),
    }
    new = tuple(w for w, true in missing.items() if true and w not in clip.warnings)
    return replace(clip, warnings=new + clip.warnings) if new else clip


def _why_nothing(clip: Clip, audio: bool, video: bool) -> str:
    if clip.wave is not None:
        return "no_streams.silent"
    return "no_streams" if audio and video else "no_streams.audio" if audio else "no_streams.video"


# ---- before anything is decoded ----


def display_name(path: str | os.PathLike[str]) -> str:
    """The file's name for a message: no folders, no control characters, no terminal escapes.

    >>> display_name("/home/ann/a\\x1b[2Jb\\n.mp4")
    'a?[2Jb?.mp4'
    """
    name = os.path.basename(os.fspath(path).rstrip("/")) or os.fspath(path) or "The path"
    return "".join(c if c.isprintable() else "?" for c in name)[:120]


def clip_error(reason: str, name: str, **facts: Any) -> ClipError:
    return ClipError(f"{name} {REASONS[reason].format(**facts)}", code=reason.partition(".")[0])


def regular_file(path: str | os.PathLike[str], name: str, limits: Limits) -> Path:
    """The absolute path (so that no name is read as a protocol) of a regular file of allowed size."""
    try:
        file = Path(path).resolve()
        status = file.stat()
    except PermissionError as err:
        raise clip_error("not_allowed_path", name) from err
    except (OSError, ValueError, RuntimeError) as err:  # missing; a NUL in the name; a loop of links
        remote = re.match(r"[a-zA-Z][a-zA-Z0-9+.,-]+:", os.fspath(path))  # two letters or more: C: is a drive
        raise clip_error("url_not_allowed" if remote else "not_found", name) from err
    if not stat.S_ISREG(status.st_mode):
        raise clip_error("not_a_file", name)
    if status.st_size < (least := 8):  # a record button clicked twice leaves a WebM of 1 byte
        raise clip_error("empty_file", name, least=least)
    if status.st_size > limits.file_bytes:
        raise clip_error("too_large_bytes", name, size=status.st_size / 2**20, limit=limits.file_bytes / 2**20)
    return file


def head_and_hash(file: Path, name: str) -> tuple[bytes, str]:
    """The first bytes and the SHA-256 of a file."""
    try:
        with file.open("rb") as handle:
            head = handle.read(512)
            handle.seek(0)
            return head, hashlib.file_digest(handle, "sha256").hexdigest()
    except PermissionError as err:
        raise clip_error("not_allowed_path", name) from err
    except OSError as err:
        raise clip_error("corrupt_media", name) from err


def demuxer_of(head: bytes, name: str) -> str:
    for demuxer, pattern in SIGNATURES.items():
        if re.match(pattern, head, re.DOTALL):
            if demuxer in UNREAD:
                break
            return demuxer
    raise clip_error("unsupported_format", name)


def read_image(file: Path, name: str, limits: Limits) -> Clip:
    from PIL import Image, ImageOps

    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP")) as image:
            if image.width * image.height > limits.image_pixels:
                raise Image.DecompressionBombError
            image.draft("RGB", (2 * LONG_SIDE, 2 * LONG_SIDE))  # JPEG decodes at 1/2, 1/4 or 1/8 for less
            image.thumbnail((LONG_SIDE, LONG_SIDE))
            shown = ImageOps.exif_transpose(image)
            if shown.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
                shown = Image.fromarray((np.asarray(shown) >> 8).astype(np.uint8))
            if shown.has_transparency_data:
                shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
            pixels = np.array(shown.convert("RGB"))  # (H, W, 3)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise clip_error("too_large_pixels", name, limit=limits.image_pixels / 1e6, field="image_pixels") from err
    except Exception as err:  # image decoders raise OSError, SyntaxError, struct.error, EOFError …
        raise clip_error("corrupt_media", name) from err
    return Clip(frames=pixels[None], times=np.zeros(1))


# ---- packets and their times ----


@dataclass
class Track:
    """One stream and its packets, in file order."""

    stream: Any
    demuxer: str
    packets: list[av.Packet] = field(default_factory=list)
    is_cut: bool = False

    def seconds(self, stamp: int) -> float:
        return float(stamp * self.stream.time_base)

    @property
    def has_times(self) -> bool:
        """Whether the time of each packet is that of its picture. AVI stores only the order of decoding."""
        return self.demuxer != "avi" and all(p.pts is not None for p in self.packets)

    def stamps(self) -> list[int]:
        """Display times in ticks of the stream, rising."""
        shown = [p for p in self.packets if not p.is_discard] or self.packets  # an edit list hides some
        if self.has_times:
            return sorted(stamp_of(p) for p in shown)
        return sorted(p.dts if p.dts is not None else stamp_of(p) for p in shown)

    @property
    def promised(self) -> float:
        """Seconds that the header speaks of. FFmpeg shortens that of a cut AVI, but not the count."""
        ticks = self.stream.frames if self.demuxer == "avi" else 0
        return self.seconds(max(self.stream.duration or 0, ticks))

    @property
    def last(self) -> int:
        """Ticks that the picture shown last is said to stay; 0 where that is not written."""
        return max(self.packets, key=stamp_of).duration or 0

    @property
    def end(self) -> int:
        return max(stamp_of(p) + max(p.duration or 0, 0) for p in self.packets)


def stamp_of(packet: av.Packet) -> int:
    stamp = packet.pts if packet.pts is not None else packet.dts
    assert stamp is not None  # `_demux` keeps no packet without a time
    return stamp


class Span(NamedTuple):
    """Where a clip lies on the clock of its container."""

    zero: float  # seconds at which the clip starts
    duration: float  # seconds
    stamps: list[int]  # of all pictures, in ticks
    end: int  # of the last picture, in ticks


class Budget:
    """What the decoding of one clip may still cost."""

    def __init__(self, name: str, limits: Limits, duration: float) -> None:
        self.name, self.limits, self.bad, self.audio_bytes = name, limits, 0, 0
        self.wall = limits.wall_seconds + duration / 10
        self.deadline = time.monotonic() + self.wall

    def attempt(self, step: Callable[..., T], *given: Any) -> T | None:
        """What one decoding step returns; None, and one more bad packet, where FFmpeg gives up."""
        import av

        if time.monotonic() > self.deadline:
            raise clip_error("decode_timeout", self.name, limit=self.wall)
        try:
            return step(*given)
        except (av.error.FFmpegError, ValueError) as err:
            self.bad += 1
            if self.bad > self.limits.bad_packets:
                raise clip_error("corrupt_media.packets", self.name, limit=self.limits.bad_packets) from err
            return None

    def decode(self, track: Track, packet: av.Packet | None) -> list[Any]:
        """The frames that come out for `packet`; for None the rest."""
        return self.attempt(track.stream.codec_context.decode, packet) or []

    def hear(self, frame: av.AudioFrame) -> None:
        self.audio_bytes += frame.samples * len(frame.layout.channels) * frame.format.bytes
        if self.audio_bytes > self.limits.audio_bytes:
            raise clip_error("too_long.audio", self.name, limit=self.limits.audio_bytes / 2**20)


def _read_media(
    file: Path, name: str, demuxer: str, frames: int, audio: bool, video: bool, limits: Limits, sampling: Sampling
) -> Clip:
    with open_container(file, name, demuxer) as container:
        picture, sound, is_cut = _demux(container, demuxer, name, limits)
        span = span_of(picture, sound, name, limits)
        budget = Budget(name, limits, span.duration)
        shown, wave = _Pictures(None, np.zeros(0), ()), None
        if video and picture:
            open_decoder(picture, "pictures", name, limits)
            shown = _decode_pictures(picture, span, frames, budget, sampling)
        if audio and sound:
            open_decoder(sound, "sound", name, limits)
            wave = _decode_sound(sound, span.zero, budget)
            if wave is None and shown.frames is None:
                raise clip_error("no_frames", name, sense="sound", flag=LEAVE_OUT["sound"])
        faults = {
            "truncated": is_cut or breaks_off(container, picture, sound),
            f"bad_packets:{budget.bad}": budget.bad > 0,
            "vfr": is_vfr(span.stamps),
            "no_duration_header": container.duration is None,
            "multiple_audio_streams": len(container.streams.audio) > 1,
        }
    warnings = shown.warnings + tuple(fault for fault, true in faults.items() if true)
    length = span.duration if picture or wave is None else len(wave) / RATE  # MP3 packets count padding too
    return Clip(shown.frames, shown.times, wave, length, warnings=warnings)


def open_container(file: Path, name: str, demuxer: str) -> av.container.InputContainer:
    import av

    options = {
        "protocol_whitelist": "file",
        "format_whitelist": DEMUXERS,
        "codec_whitelist": ",".join(sorted(CODECS)),  # for FFmpeg's own probing; ours is in `open_decoder`
    }
    try:
        return av.open(str(file), "r", format=demuxer, options=options, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as err:
        raise clip_error("corrupt_media", name) from err


def _demux(container: Any, demuxer: str, name: str, limits: Limits) -> tuple[Track | None, Track | None, bool]:
    """The packets of the best picture and sound stream, and whether the file breaks off."""
    picture, sound = best_tracks(container, demuxer, name, limits)
    tracks = {track.stream.index: track for track in (picture, sound) if track}
    for packet in packets_of(container, tracks, name, limits):
        tracks[packet.stream_index].packets.append(packet)
    is_cut = any(track.is_cut for track in tracks.values())
    if not any(track.packets for track in tracks.values()):
        raise clip_error("corrupt_media" if is_cut else "no_streams", name)
    if picture and len(picture.packets) > limits.frames:
        raise clip_error("too_long.frames", name, limit=limits.frames)
    picture, sound = (track if track and track.packets else None for track in (picture, sound))
    return picture, sound, is_cut


def best_tracks(container: Any, demuxer: str, name: str, limits: Limits) -> tuple[Track | None, Track | None]:
    """The best picture and sound stream, still without packets."""
    if len(container.streams) > limits.streams:
        raise clip_error("unsupported_format.streams", name, streams=len(container.streams), limit=limits.streams)
    chosen = map(best_stream, (container.streams.video, container.streams.audio))
    picture, sound = (stream and Track(stream, demuxer) for stream in chosen)
    if not (picture or sound):
        raise clip_error("no_streams", name)
    return picture, sound


def packets_of(container: Any, tracks: dict[int, Track], name: str, limits: Limits) -> Iterator[av.Packet]:
    """The packets of some tracks that have a time, in file order; a track of a file that breaks off is marked."""
    import av

    first = float("inf")
    try:
        for count, packet in enumerate(container.demux(*(track.stream for track in tracks.values()))):
            if not packet.size or (packet.pts is None and packet.dts is None):
                continue
            seconds = float(stamp_of(packet) * packet.time_base)
            first = min(first, seconds)
            if seconds - first > limits.seconds:
                raise clip_error("too_long", name, limit=limits.seconds)
            if count >= limits.packets:
                raise clip_error("too_long.packets", name, limit=limits.packets)
            tracks[packet.stream_index].is_cut |= packet.is_corrupt
            yield packet
    except IndexError:  # PyAV 18 trips, behind the last packet, over streams that appeared on the way
        pass
    except av.error.FFmpegError:
        for track in tracks.values():
            track.is_cut = True  # as the ffmpeg command does: what was read before the fault is the clip


def best_stream(streams: Sequence[Any]) -> Any:
    """The stream marked as default, else the first, else None; the cover art of a song is no picture."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [stream for stream in streams if not stream.disposition & still]
    return max(moving, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)


def span_of(picture: Track | None, sound: Track | None, name: str, limits: Limits) -> Span:
    stamps = picture.stamps() if picture else []
    starts = [picture.seconds(stamps[0])] if picture else []
    if sound:  # a negative start is the run-in of the encoder, which is cut off in decoding
        starts.append(max(sound.seconds(sound.stamps()[0]), 0.0))
    zero = min(starts)
    end = stamps[-1] + _last_duration(picture, stamps, sound) if picture else 0
    duration = (picture.seconds(end) if picture else sound.seconds(sound.end) if sound else 0.0) - zero
    if duration > 1.1 * limits.seconds:  # the start of the last packet is not, but a broken length of it is
        raise clip_error("too_long", name, limit=limits.seconds)
    return Span(zero, duration, stamps, end)


def _last_duration(picture: Track, stamps: list[int], sound: Track | None) -> int:
    """Ticks that the last picture stays; where not written (WebM), as most others, but not past the sound."""
    if picture.last > 0:
        return picture.last
    usual = int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0
    left = int(sound.seconds(sound.end) / picture.stream.time_base) - stamps[-1] if sound else 0
    return max(min(usual, left) if left > 0 else usual, 1)


def is_vfr(stamps: list[int]) -> bool:
    """Whether more than 5 % of the pictures stay 25 % longer or shorter than most.

    >>> is_vfr([0, 33, 67, 100, 133]), is_vfr([0, 53, 100, 149, 703])
    (False, True)
    """
    gaps = np.diff(stamps)
    usual = np.median(gaps) if len(gaps) else 0
    return len(gaps) > 1 and float(np.mean(np.abs(gaps - usual) > 0.25 * usual + 1)) > 0.05


def breaks_off(container: Any, picture: Track | None, sound: Track | None) -> bool:
    """Whether a header of a kind that is exact promises clearly more than there is."""
    tracks = [track for track in (picture, sound) if track and track.demuxer in EXACT_HEADERS]
    pairs = [(t.promised, t.seconds(t.end - t.stamps()[0])) for t in tracks if t.promised]
    if tracks and not pairs and container.duration and len(container.streams) == len(tracks):
        pairs = [(container.duration / 1e6, max(t.seconds(t.end) for t in tracks))]  # Matroska: one for all
    return any(promised - read > max(0.5, 0.05 * promised) for promised, read in pairs)


def open_decoder(track: Track, sense: str, name: str, limits: Limits) -> None:
    context = track.stream.codec_context
    if context is None or context.name not in CODECS:
        raise clip_error("unsupported_codec", name, sense=sense, flag=LEAVE_OUT[sense])
    if sense == "pictures":
        if context.width * context.height > limits.pixels:
            raise clip_error("too_large_pixels", name, limit=limits.pixels / 1e6, field="pixels")
        context.options = {"max_pixels": str(limits.pixels)}  # a stream can change its size on the way
        if context.width * context.height > SMALL:
            context.thread_type = "AUTO"
        else:
            context.thread_count = 1


# ---- pictures ----


class _Pictures(NamedTuple):
    frames: np.ndarray | None  # uint8 (T, H, W, 3)
    times: np.ndarray  # float64 (T,) seconds
    warnings: tuple[str, ...]


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
    middles = (start * 2 * count + (2 * i + 1) * (end - start) for i in range(count))  # in ticks / (2·count)
    return [stamps[max(bisect_right(stamps, middle // (2 * count)) - 1, 0)] for middle in middles]


def even_indices(stamps: list[int], end: int, count: int) -> list[int]:
    """The sampling of the released R1-Omni, by number and not by time: of F pictures number (i + ½)(F - 1) / count.

    >>> even_indices(list(range(75)), 75, 8)
    [5, 14, 23, 32, 42, 51, 60, 69]
    """
    step = (len(stamps) - 1) / count
    return [stamps[round(step * (i + 0.5) + 1e-6)] for i in range(count)]


SAMPLINGS: dict[str, Sampling] = {"mid_bins": mid_bins, "even_indices": even_indices}


def _decode_pictures(track: Track, span: Span, count: int, budget: Budget, sampling: Sampling) -> _Pictures:
    picks = sampling(span.stamps, span.end, count)
    if not track.has_times:
        picker = _decode_in_order(track, picks, span.stamps, budget)
    else:
        picker = _decode_needed(track, picks, _needed_runs(track.packets, sorted(set(picks))), budget)
        if not picker.is_complete:
            budget.bad = 0
            picker = _decode_needed(track, picks, [track.packets], budget, skip=False)
    if not picker.found:
        raise clip_error("no_frames", budget.name, sense="pictures", flag=LEAVE_OUT["pictures"])
    shown = picker.results()
    frames = np.stack([shown[stamp][1] for stamp in picks])  # (T, H, W, 3)
    times = np.array([track.seconds(shown[stamp][0]) - span.zero for stamp in picks])
    return _Pictures(frames, times, picker.rgb.warnings())


def _decode_needed(
    track: Track, picks: list[int], runs: list[list[av.Packet]], budget: Budget, *, skip: bool = True
) -> _Picker:
    """Decodes runs of packets, of which each starts at a keyframe."""
    context = track.stream.codec_context
    picker = _Picker(picks, track.stream.sample_aspect_ratio, budget)
    skip = skip and context.name in SKIPPING
    for run in runs:
        for packet in [*run, None]:
            drop = skip and packet is not None and packet.pts not in picker.picked
            context.skip_frame = "NONREF" if drop else "DEFAULT"
            for frame in budget.decode(track, packet):
                if frame.pts is not None:
                    picker.offer(frame.pts, frame)
        context.flush_buffers()
    picker.settle()
    return picker


def _decode_in_order(track: Track, picks: list[int], stamps: list[int], budget: Budget) -> _Picker:
    """Decodes everything; the n-th picture that comes out has the n-th time."""
    picker = _Picker(picks, track.stream.sample_aspect_ratio, budget)
    order = iter(stamps)
    for packet in [*track.packets, None]:
        for frame in budget.decode(track, packet):
            picker.offer(next(order, stamps[-1]), frame)
    picker.settle()
    return picker


def _needed_runs(packets: list[av.Packet], wanted: list[int]) -> list[list[av.Packet]]:
    """The packets that must be decoded to see the wanted pictures: from the keyframe before each, to it."""
    place = {packet.pts: i for i, packet in enumerate(packets)}
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    bounds: list[list[int]] = []
    for stamp in wanted:
        last = place[stamp]
        k = bisect_right(keys, last) - 1
        while k >= 0 and stamp_of(packets[keys[k]]) > stamp:  # a picture shown before its keyframe leans on the
            k -= 1  # group before
        first = keys[k] if k >= 0 else 0
        if bounds and first <= bounds[-1][1] + 1:
            bounds[-1][1] = max(bounds[-1][1], last)
        else:
            bounds.append([first, last])
    return [packets[first : last + 1] for first, last in bounds]


class _Picker:
    """Keeps, for each wanted stamp, the latest picture at or before it; converts only those to RGB."""

    def __init__(self, picks: list[int], pixel_aspect: Fraction | None, budget: Budget) -> None:
        self.budget, self.rgb = budget, Upright(pixel_aspect)
        self.wanted = sorted(set(picks))
        self.picked = frozenset(picks)
        self.found: dict[int, tuple[int, Any]] = {}  # index in `wanted` -> (stamp, frame, later (H, W, 3))
        self.slot = 0  # the index that was offered to last

    def offer(self, stamp: int, frame: av.VideoFrame) -> None:
        slot = min(bisect_left(self.wanted, stamp), len(self.wanted) - 1)
        held = self.found.get(slot)
        is_late = stamp > self.wanted[slot]  # behind the last that is wanted: only better than nothing
        if held and (is_late or held[0] > stamp):
            return
        if slot != self.slot:
            self.settle()
        self.slot = slot
        self.found[slot] = (stamp, frame)

    @property
    def is_complete(self) -> bool:
        return [stamp for _, (stamp, _) in sorted(self.found.items())] == self.wanted

    def results(self) -> dict[int, tuple[int, np.ndarray]]:
        """Wanted stamp -> (true stamp, picture). A picture that was lost is replaced by the one before it."""
        results, last = {}, self.found[min(self.found)]
        for slot, stamp in enumerate(self.wanted):
            results[stamp] = last = self.found.get(slot, last)
        return results

    def settle(self) -> None:
        """Converts the picture that was kept last, before another takes its turn, and at the end."""
        stamp, frame = self.found.pop(self.slot, (0, None))
        if frame is None:
            return
        pixels = frame if isinstance(frame, np.ndarray) else self.budget.attempt(self.rgb, frame)
        if pixels is not None:
            self.found[self.slot] = (stamp, pixels)


class Upright:
    """Turns decoded pictures into (H, W, 3) upright RGB in square pixels; the first decides H and W for all."""

    def __init__(self, pixel_aspect: Fraction | None) -> None:
        from av.video.reformatter import VideoReformatter

        self.pixel_aspect = float(pixel_aspect or 1)
        self.size: tuple[int, int] | None = None  # (width, height) before turning
        self.turns = 0  # quarter turns, counter-clockwise
        self.is_hdr = False
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self.size is None:
            self.size = _shrunk(frame.width, frame.height, self.pixel_aspect)
            self.turns = frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0
            self.is_hdr = frame.color_trc in HDR
        small = self.reformatter.reformat(frame, *self.size, "rgb24", threads=1)
        return np.rot90(small.to_ndarray(), self.turns)

    def warnings(self) -> tuple[str, ...]:
        return ("hdr_not_tonemapped",) * self.is_hdr + ("rotated",) * (self.turns != 0)


def _shrunk(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Width and height with square pixels and a longer side of at most 640.

    >>> _shrunk(1280, 720, 1.0), _shrunk(720, 576, 16 / 15), _shrunk(224, 224, 1.0)
    ((640, 360), (640, 480), (224, 224))
    """
    aspect = pixel_aspect if 1 / 4 <= pixel_aspect <= 4 else 1.0  # beyond: a broken header
    wide, high = width * min(aspect, 1.0), height / max(aspect, 1.0)  # only ever shrink
    scale = min(1.0, LONG_SIDE / max(wide, high))
    return max(round(wide * scale), 1), max(round(high * scale), 1)


# ---- sound ----


def _decode_sound(track: Track, zero: float, budget: Budget) -> np.ndarray | None:
    """(L,) mono 16 kHz, sample 0 at `zero`; None if nothing can be decoded."""
    frames = (frame for packet in [*track.packets, None] for frame in budget.decode(track, packet))
    pieces = list(resampled(frames, track, zero, budget))
    is_fine = track.stream.time_base < Fraction(1, 8000)  # Matroska's milliseconds are not
    return _placed(pieces, track.seconds(track.end) - zero if is_fine else None, budget)


def resampled(
    frames: Iterable[av.AudioFrame], track: Track, zero: float, budget: Budget
) -> Iterator[tuple[int, np.ndarray]]:
    """Sound as it is decoded: at which sample of the clip (0 at `zero`) a piece starts, and the piece (L,), 16 kHz."""
    run: _SoundRun | None = None
    for frame in frames:
        budget.hear(frame)
        expected = run.end if run else 0.0
        start = expected if frame.pts is None else track.seconds(frame.pts) - zero
        is_off = start - expected > GAP or GAP < expected - start < RESTART
        if run is None or run.kind != _sound_kind(frame) or is_off:
            if run is not None:
                yield from run.placed(budget.attempt(run.rest), budget.name)
            run = _SoundRun(frame, start)
        pieces = budget.attempt(run.push, frame)
        yield from run.placed(pieces, budget.name)
        if pieces is None and run.at == run.first:
            run = None  # a sample format from a broken header
    if run is not None:
        yield from run.placed(budget.attempt(run.rest), budget.name)


def _sound_kind(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


class _SoundRun:
    """Sound without holes and of one kind, resampled on the way."""

    def __init__(self, frame: av.AudioFrame, start: float) -> None:
        import av

        self.end, self.kind = start, _sound_kind(frame)  # seconds; where the sound pushed so far ends, by its samples
        self.first = self.at = round(start * RATE)  # samples; where the next piece starts
        mean = {"rematrix_maxval": "1"}  # mixes down to the mean; FFmpeg's default for float is 3 dB louder
        self.resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE, options=mean)

    def push(self, frame: av.AudioFrame) -> list[np.ndarray]:
        pieces = [piece.to_ndarray()[0] for piece in self.resampler.resample(frame)]
        self.end += frame.samples / frame.sample_rate
        return pieces

    def rest(self) -> list[np.ndarray]:
        """What is left in the resampler; closes the run."""
        return [piece.to_ndarray()[0] for piece in self.resampler.resample(None)]

    def placed(self, pieces: list[np.ndarray] | None, name: str) -> Iterator[tuple[int, np.ndarray]]:
        for piece in pieces or ():
            if not (np.abs(piece) < LOUDEST).all():  # float PCM can hold anything, NaN too
                raise clip_error("corrupt_media", name)
            yield self.at, piece
            self.at += len(piece)


def _placed(pieces: list[tuple[int, np.ndarray]], end: float | None, budget: Budget) -> np.ndarray | None:
    """The pieces on one time line, silence between them, cut at `end`, behind which the encoder padded."""
    length = max((first + len(samples) for first, samples in pieces), default=0)
    if end is not None and 0 <= length - round(end * RATE) < 4096:  # the longest frame of common codecs
        length = round(end * RATE)
    if length <= 0:
        return None
    if length > 1.1 * budget.limits.seconds * RATE:
        raise clip_error("too_long", budget.name, limit=budget.limits.seconds)
    wave = np.zeros(length, np.float32)
    for first, samples in pieces:
        samples = samples[max(-first, 0) :]
        first = max(first, 0)
        wave[first : first + len(samples)] = samples[: max(length - first, 0)]
    return wave
