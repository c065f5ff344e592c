"""Makes the files that a recorder, a download or somebody with bad intent leaves in a folder of clips.

    bad_media(folder, port) ─► name → what is known to come of it: a code of `omni.clip.REASONS`, or the warnings

`port` is where a listener waits: no file must make us call there. `secret.mp4` lies in a folder beside: no file must
make us open it.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.media import make_clip, picture, tone

Boxes = list[tuple[bytes, bytes]]
SECRET = "secret.mp4"
KINDS: dict[str, dict] = {  # clips whose bits are flipped
    "h264.mp4": {},
    "vp8.webm": {"codec": "libvpx", "sounds": ["libopus"]},
    "mpeg4.avi": {"codec": "mpeg4", "sounds": ["libmp3lame"]},
    "h264.ts": {},
    "mp3.mp3": {"codec": None, "sounds": ["libmp3lame"]},
    "opus.ogg": {"codec": None, "sounds": ["libopus"]},
    "wave.gif": {"codec": "gif", "sounds": []},
}
_GOOD: dict[str, bytes] = {}
OK: tuple[str, ...] = ()


def bad_media(folder: Path, port: int) -> dict[str, str | tuple[str, ...]]:
    """Fill a folder; gives for each name a code, or the warnings of a clip that can be read."""
    secret = folder.parent / "beside" / SECRET
    secret.parent.mkdir(parents=True)
    folder.mkdir()
    make_clip(secret, pictures=10)
    found: dict[str, str | tuple[str, ...]] = {}
    for part in (cut, plain_text, senses, pictures, sounds, headers, names, links):
        found |= part(folder)
    return found | tricks(folder, secret, f"http://127.0.0.1:{port}/secret.mp4")


def cut(folder: Path) -> dict:
    """Files that break off, and such of which a little was overwritten."""
    late = make_clip(folder / "late.mp4", pictures=60, sounds=["aac"]).read_bytes()
    early = index_first(late)
    wave = make_clip(folder / "whole.mkv", pictures=60, sounds=["libmp3lame"], options={"g": "10"}).read_bytes()
    (folder / "early.mp4").write_bytes(early)
    for percent in (10, 50, 90):
        for name, content in (("late.mp4", late), ("early.mp4", early), ("mkv", wave)):
            (folder / f"{percent}.{name}").write_bytes(content[: len(content) * percent // 100])
    holes = bytearray(wave)
    holes[3000:5000] = bytes(2000)
    (folder / "holes.mkv").write_bytes(holes)
    lost = {f"{percent}.late.mp4": "corrupt_media" for percent in (10, 50, 90)}  # the index is at the end
    partly = {
        "10.early.mp4": "corrupt_media",  # within the index
        "50.early.mp4": ("truncated", "bad_packets:1", "vfr"),
        "90.early.mp4": ("truncated", "bad_packets:1"),
        "10.mkv": ("truncated",),
        "50.mkv": ("truncated",),
        "90.mkv": OK,  # less than half a second is missing
    }
    return lost | partly | dict.fromkeys(("late.mp4", "early.mp4", "whole.mkv", "holes.mkv"), OK)


def plain_text(folder: Path) -> dict:
    """What is no media, or nearly nothing."""
    contents = {
        "zero.mp4": (b"", "empty_file"),
        "one_byte.webm": (b"\x1a", "empty_file"),
        "text.mp4": (b"I feel fine today, thank you.\n" * 9, "unsupported_format"),
        "page.mp4": (b"<!doctype html><title>404</title>" * 9, "unsupported_format"),
        "pointer.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "unsupported_format"),
        "random.mp4": (random.Random(1).randbytes(5000), "unsupported_format"),
        "zeros.mp4": (bytes(5000), "unsupported_format"),
        "header.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "corrupt_media"),
        "header.mkv": (b"\x1aE\xdf\xa3" + bytes(60), "corrupt_media"),
        "header.avi": (b"RIFF\xff\xff\xff\x7fAVI LIST" + bytes(60), "corrupt_media"),
        "header.gif": (b"GIF89a\xff\xff\xff\xff", "no_frames"),
        "tags_only.mp3": (b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014), "corrupt_media"),
        "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(100), "unsupported_format"),
        "archive.mp4": (b"PK\x03\x04" + bytes(100), "unsupported_format"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    return {name: outcome for name, (_, outcome) in contents.items()}


def senses(folder: Path) -> dict:
    """One sense alone, in every container that is usual for it."""
    make_clip(folder / "no_sound.mp4", sounds=[])
    make_clip(folder / "muted.mp4", peak=0.0)
    make_clip(folder / "silence.wav", codec=None, sounds=["pcm_s16le"], peak=0.0)
    make_clip(folder / "no_picture.mp4", codec=None)
    for name, codec in {"a.wav": "pcm_s16le", "a.mp3": "libmp3lame", "a.m4a": "aac", "a.ogg": "libopus"}.items():
        make_clip(folder / name, codec=None, sounds=[codec])
    heard = ("no_video",)
    names = ("no_picture.mp4", "a.wav", "a.mp3", "a.m4a", "a.ogg")
    return dict.fromkeys(names, heard) | {
        "no_sound.mp4": ("no_audio",),
        "muted.mp4": ("silent_audio",),
        "silence.wav": "no_streams",
    }


def pictures(folder: Path) -> dict:
    """Pictures of odd sizes, rates and kinds."""
    make_clip(folder / "moving.gif", codec="gif", sounds=[])
    make_clip(folder / "rotated.mp4", rotation=90)
    make_clip(folder / "vfr.mkv", pictures=10, stamps=[0, 100, 200, 300, 400, 450, 600, 700, 1000, 1900], sounds=[])
    make_clip(folder / "8k.mp4", pictures=1, size=(7680, 4320), sounds=[], options={"preset": "ultrafast"})
    grey_clip(folder / "1x1.mkv", (1, 1))
    grey_clip(folder / "1x640.mkv", (1, 640))
    make_clip(folder / "one_picture.mp4", pictures=1, sounds=[])
    make_clip(folder / "10bit.mp4", sounds=[], context={"pix_fmt": "yuv420p10le"})
    make_clip(folder / "hdr.mp4", sounds=[], context={"color_trc": 16})
    make_clip(folder / "cinema.mkv", codec="jpeg2000", sounds=[])
    make_clip(folder / "lossless.mkv", codec="ffv1", sounds=[])
    for name, size in (("still.png", (64, 48)), ("still.jpg", (64, 48)), ("still.webp", (64, 48)), ("1x1.png", (1, 1))):
        Image.fromarray(picture(3, (64, 48))[: size[1], : size[0]]).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "still.jpg").read_bytes()[:300])
    (folder / "bomb.png").write_bytes(bomb(30_000))
    seen = ("no_audio",)
    return dict.fromkeys(("moving.gif", "1x1.mkv", "1x640.mkv", "one_picture.mp4", "10bit.mp4"), seen) | {
        **dict.fromkeys(("still.png", "still.jpg", "still.webp", "1x1.png"), seen),
        "rotated.mp4": ("rotated",),
        "vfr.mkv": ("no_audio", "vfr"),
        "hdr.mp4": ("no_audio", "hdr_not_tonemapped"),
        "8k.mp4": "too_large_pixels",
        "bomb.png": "too_large_pixels",
        "cut.jpg": "corrupt_media",
        "cinema.mkv": "unsupported_codec",
        "lossless.mkv": "unsupported_codec",
    }


def sounds(folder: Path) -> dict:
    """Sound of odd shapes and values."""
    one = tone(0.5)
    odd = {"nan.wav": np.nan, "inf.wav": np.inf, "loud.wav": 1e30}
    for name, value in odd.items():
        samples = one.copy()
        samples[1000:1010] = value
        write_wav(folder / name, samples[None])
    write_wav(folder / "60_channels.wav", np.tile(one, (60, 1)))
    write_wav(folder / "8_hertz.wav", one[None, :16], rate=8)
    write_wav(folder / "768_kilohertz.wav", one[None], rate=768_000)
    write_wav(folder / "one_sample.wav", one[None, 100:101])
    write_wav(folder / "no_samples.wav", one[None, :0])
    heard = ("no_video",)
    return {
        "nan.wav": "corrupt_media",
        "inf.wav": "corrupt_media",
        "loud.wav": "corrupt_media",
        "60_channels.wav": "no_frames",
        "8_hertz.wav": "no_frames",
        "768_kilohertz.wav": heard,
        "one_sample.wav": heard,
        "no_samples.wav": "no_streams",
    }


def headers(folder: Path) -> dict:
    """Headers that promise what is not there."""
    talk = make_clip(folder / "talk.mp4").read_bytes()
    hours = 3 * 3600

    def longer(kind: bytes, at: int) -> Callable[[bytes], bytes]:
        return lambda body: (
            body[:at] + struct.pack(">I", struct.unpack_from(">I", body, at - 4)[0] * hours) + body[at + 4 :]
        )

    claim = within(talk, (b"moov", b"mvhd"), longer(b"mvhd", 16))
    claim = within(claim, (b"moov", b"trak", b"mdia", b"mdhd"), longer(b"mdhd", 16))
    (folder / "3_hours_claimed.mp4").write_bytes(claim)
    path = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")
    stretch = within(
        talk,
        path,
        lambda body: body[:12] + struct.pack(">I", struct.unpack_from(">I", body, 12)[0] * hours) + body[16:],
    )
    (folder / "3_hours.mp4").write_bytes(stretch)
    wav = bytearray((folder / "a.wav").read_bytes())
    at = wav.index(b"data") + 4
    wav[at : at + 4] = struct.pack("<I", 2**31)
    (folder / "2_gigabytes_claimed.wav").write_bytes(wav)
    make_clip(folder / "two_tongues.mkv", sounds=["aac", "flac"])
    make_clip(folder / "20_tracks.mkv", sounds=["flac"] * 20)
    (folder / "no_tracks.mp4").write_bytes(
        within(
            talk,
            (b"moov",),
            lambda body: b"".join(
                struct.pack(">I4s", len(content) + 8, kind) + content
                for kind, content in boxes(body)
                if kind != b"trak"
            ),
        )
    )
    return {
        "talk.mp4": OK,
        "3_hours_claimed.mp4": OK,
        "3_hours.mp4": "too_long",
        "2_gigabytes_claimed.wav": ("no_video", "truncated"),
        "two_tongues.mkv": ("multiple_audio_streams",),
        "20_tracks.mkv": "unsupported_format",
        "no_tracks.mp4": "no_streams",
    }


def names(folder: Path) -> dict:
    """Good clips with odd names."""
    talk = (folder / "talk.mp4").read_bytes()
    odd = [
        "new\nline.mp4",
        "😀 smile.mp4",
        "-i.mp4",
        "'; rm -rf x; '.mp4",
        "%2e%2e.mp4",
        "a:b.mp4",
        "RTL \u202e4pm.txt.mp4",
    ]
    odd += ["file:talk.mp4", "http:127.0.0.1.mp4", "concat:talk.mp4|talk.mp4", "x" * 251 + ".mp4"]
    if sys.platform == "linux":
        odd.append(os.fsdecode(b"caf\xe9.mp4"))  # Latin 1, from an old disk
    for name in odd:
        (folder / name).write_bytes(talk)
    return dict.fromkeys(odd, OK)


def links(folder: Path) -> dict:
    """What has the name of a clip and is no file."""
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "loop_a.mp4").symlink_to(folder / "loop_b.mp4")
    (folder / "loop_b.mp4").symlink_to(folder / "loop_a.mp4")
    (folder / "nowhere.mp4").symlink_to(folder / "no such file.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "linked.mp4").symlink_to(folder / "talk.mp4")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")  # whoever opens it waits forever
    missing = dict.fromkeys(("loop.mp4", "loop_a.mp4", "loop_b.mp4", "nowhere.mp4"), "not_found")
    return missing | dict.fromkeys(("device.mp4", "folder.mp4", "pipe.mp4"), "not_a_file") | {"linked.mp4": OK}


def tricks(folder: Path, secret: Path, url: str) -> dict:
    """Files that ask us to open another one, or to call somebody."""
    talk = (folder / "talk.mp4").read_bytes()
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\nfile '{url}'\n",
        "concat_beside": f"ffconcat version 1.0\nfile ../beside/{SECRET}\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {url.split(':')[2][:5]} RTP/AVP 96\n",
        "dash": f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL><BaseURL>file:{secret}</BaseURL></MPD>',
        "asx": f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
        "pls": f"[playlist]\nFile1={url}\nFile2={secret}\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/><image href="file:{secret}"/></svg>',
    }
    found: dict = {}
    for name, text in lists.items():
        for ending in (".mp4", ".webm", ".jpg", ".mp3"):
            (folder / f"{name}{ending}").write_text(text)
            found[f"{name}{ending}"] = "unsupported_format"
    for name, head in {
        "hls_in_mp4.mp4": b"\0\0\0\x18ftypisom",
        "hls_in_mp3.mp3": b"ID3\x03\0\0\0\0\0\0",
        "hls_in_ogg.ogg": b"OggS",
    }.items():
        (folder / name).write_bytes(head + b"\n" + lists["hls"].encode())
        found[name] = "corrupt_media"
    path = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    where = b"\0\0\0\0" + struct.pack(">I", 1)
    called = box(b"url ", b"\0\0\0\0" + url.encode() + b"\0")
    (folder / "elsewhere.mp4").write_bytes(within(talk, path, lambda _: where + called))
    (folder / "alias.mov").write_bytes(within(talk, path, lambda _: where + alias(secret)))
    movie = box(
        b"rmra", box(b"rmda", box(b"rdrf", b"\0\0\0\0url " + struct.pack(">I", len(url) + 1) + url.encode() + b"\0"))
    )
    (folder / "reference.mov").write_bytes(box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", movie))
    return found | {"elsewhere.mp4": OK, "alias.mov": ("no_video",), "reference.mov": "no_streams"}


# ---- bytes ----


def grey_clip(path: Path, size: tuple[int, int]) -> None:
    """Five grey pictures of any (width, height)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 99, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def boxes(data: bytes) -> Boxes:
    """The boxes of an mp4, or of one of its boxes."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + size]))
        at += size
    return found


def within(data: bytes, path: tuple[bytes, ...], change: Callable[[bytes], bytes]) -> bytes:
    """An mp4 with the content of its first box at a path changed; its index must be at the end."""
    parts, done = [], False
    for kind, content in boxes(data):
        if kind == path[0] and not done:
            content, done = within(content, path[1:], change) if path[1:] else change(content), True
        parts.append(box(kind, content))
    assert done, path
    return b"".join(parts)


def index_first(data: bytes) -> bytes:
    """An mp4 with `moov` before `mdat`, as it is sent over the network."""
    parts = dict(boxes(data))
    shift = len(parts[b"moov"]) + 8

    def moved(body: bytes) -> bytes:
        offsets = np.frombuffer(body[8:], ">u4") + shift
        return body[:8] + offsets.astype(">u4").tobytes()

    moov = b"".join(
        box(kind, within(content, (b"mdia", b"minf", b"stbl", b"stco"), moved) if kind == b"trak" else content)
        for kind, content in boxes(parts[b"moov"])
    )
    rest = b"".join(box(kind, content) for kind, content in boxes(data) if kind not in (b"ftyp", b"moov"))
    return box(b"ftyp", parts[b"ftyp"]) + box(b"moov", moov) + rest


def alias(path: Path) -> bytes:
    """A Macintosh alias to a file, as old QuickTime writes it for media that lie elsewhere."""
    name = path.name.encode()
    head = bytes(10) + b"\4disk" + bytes(23) + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    levels = struct.pack(">HH", 1, 1) + bytes(16)
    text = str(path).encode()
    paths = struct.pack(">HH", 2, len(text)) + text + bytes(len(text) % 2)
    return box(b"alis", b"\0\0\0\0" + head + levels + paths + struct.pack(">HH", 0xFFFF, 0))


def bomb(side: int) -> bytes:
    """A small PNG that claims side × side pixels."""
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    """32-bit float samples (channels, L) as WAV."""
    channels, data = len(samples), samples.T.astype("<f4").tobytes()
    head = struct.pack("<HHIIHH", 3, channels, rate, 4 * channels * rate, 4 * channels, 32)
    path.write_bytes(
        b"RIFF"
        + struct.pack("<I", 36 + len(data))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )


def bit_flipped(folder: Path, seed: int) -> Path:
    """A good clip of one of seven kinds in which 1 to 300 bits are flipped, half of them in the first 2,000 bytes."""
    rng = random.Random(seed)
    kind = sorted(KINDS)[seed % len(KINDS)]
    if kind not in _GOOD:
        _GOOD[kind] = make_clip(folder / kind, pictures=12, **KINDS[kind]).read_bytes()
        (folder / kind).unlink()
    data = bytearray(_GOOD[kind])
    for _ in range(rng.choice((1, 10, 300))):
        data[rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 2000))] ^= 1 << rng.randrange(8)
    path = folder / f"{seed}.{kind}"
    path.write_bytes(data)
    return path
