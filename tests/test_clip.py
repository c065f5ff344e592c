"""Reading and writing clips: what comes out of every kind of file, and what bad files are told."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omni import clip as clip_module
from omni.clip import RATE, REASONS, Clip, Limits, is_silent, read_clip
from omni.clip_writer import write_clip
from omni.errors import ClipError
from tests.media import make_clip, numbers, picture, tone

BROWSER = Path(__file__).parent / "assets" / "browser_nodur.webm"  # recorded by a browser: no duration anywhere
MID_BINS = [1, 4, 7, 10, 14, 17, 20, 23]  # of 8 in 25 pictures: (i + 1/2) · 25 / 8

KINDS: dict[str, dict] = {
    "h264.mp4": {},
    "h264.mov": {"sounds": ["pcm_s16le"]},
    "h264.mkv": {},
    "h264.avi": {"sounds": ["libmp3lame"]},
    "h264.ts": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1:frame-threads=1"}},
    "vp8.webm": {"codec": "libvpx", "sounds": ["libopus"]},
    "vp9.webm": {"codec": "libvpx-vp9", "sounds": ["libopus"]},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "sounds": ["libmp3lame"]},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}, "sounds": ["mp2"]},
    "mjpeg.mov": {"codec": "mjpeg", "sounds": ["pcm_s16le"]},
    "flash.flv": {"codec": "flv", "sounds": ["libmp3lame"], "rate": 44_100},
    "surround.mkv": {"sounds": ["ac3"], "channels": 6},
}
SOUNDS = {
    "pcm.wav": "pcm_s16le",
    "mp3.mp3": "libmp3lame",
    "flac.flac": "flac",
    "opus.ogg": "libopus",
    "aac.m4a": "aac",
}


def code_of(path: object, **arguments: object) -> str:
    with pytest.raises(ClipError) as caught:
        read_clip(path, **arguments)  # type: ignore[arg-type]
    return caught.value.code


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second, 25 pictures, a tone, as mp4 with B-frames."""
    return make_clip(tmp_path_factory.mktemp("clip") / "talk.mp4")


# ---- what comes out ----


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_and_codec_gives_the_same_mid_bin_pictures_and_sound(kind: str, tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / kind, **KINDS[kind]))
    assert clip.frames is not None and clip.wave is not None
    assert numbers(clip.frames) == MID_BINS
    assert clip.frames.shape == (8, 48, 64, 3) and clip.frames.dtype == np.uint8
    late = clip.times[0] - 1 / 25  # mpg, ts and flv start with sound, a little before the picture
    assert 0 <= late < 0.03
    np.testing.assert_allclose(clip.times - late, np.array(MID_BINS) / 25, atol=0.0015)
    assert clip.duration == pytest.approx(1 + late, abs=0.002)
    assert clip.wave.dtype == np.float32 and len(clip.wave) == pytest.approx(RATE, abs=0.05 * RATE)
    assert dominant_hertz(clip.wave) == pytest.approx(440, abs=3)
    assert clip.modalities == ("video", "audio") and clip.warnings == ()


def dominant_hertz(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(spectrum.argmax() * RATE / len(wave))


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_file_has_no_picture_and_says_so(kind: str, tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / kind, codec=None, sounds=[SOUNDS[kind]]))
    assert clip.frames is None and clip.times.shape == (0,)
    assert clip.wave is not None and clip.duration == len(clip.wave) / RATE
    assert clip.duration == pytest.approx(1, abs=0.03)
    assert clip.modalities == ("audio",) and clip.warnings == ("no_video",)


def test_a_gif_is_a_video_without_sound(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "wave.gif", codec="gif", sounds=[]))
    assert clip.frames is not None and numbers(clip.frames) == MID_BINS
    assert clip.modalities == ("video",) and clip.warnings == ("no_audio",)


@pytest.mark.parametrize("kind", ["face.png", "face.jpg", "face.webp", "face.bmp"])
def test_an_image_is_one_frame_at_time_zero(kind: str, tmp_path: Path) -> None:
    Image.fromarray(picture(37, (800, 400))).save(tmp_path / kind)
    clip = read_clip(tmp_path / kind)
    assert clip.frames is not None and clip.frames.shape == (1, 320, 640, 3)
    assert numbers(clip.frames) == [37]
    assert clip.times.tolist() == [0.0] and clip.duration == 0.0 and clip.warnings == ("no_audio",)


def test_an_image_taken_upright_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    Image.fromarray(np.rot90(picture(37, (800, 400)))).save(tmp_path / "phone.jpg", exif=exif)
    frames = read_clip(tmp_path / "phone.jpg").frames
    assert frames is not None and frames.shape == (1, 320, 640, 3) and numbers(frames) == [37]


def test_an_image_with_transparency_or_a_palette_becomes_rgb(tmp_path: Path) -> None:
    for mode in ("RGBA", "P", "L", "CMYK"):
        Image.fromarray(picture(37)).convert(mode).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
        frames = read_clip(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")).frames
        assert frames is not None and numbers(frames) == [37]


def test_an_image_of_16_bits_keeps_its_greys(tmp_path: Path) -> None:
    shades = picture(37, (800, 400))[..., 0]
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    frames = read_clip(tmp_path / "grey.png").frames
    assert frames is not None and frames.shape == (1, 320, 640, 3) and numbers(frames) == [37]
    assert np.abs(np.unique(frames)[[0, -1]].astype(int) - np.unique(shades)[[0, -1]]).max() <= 30  # rings of shrinking
    assert abs(frames.mean() - shades.mean()) < 1


def test_a_transparent_image_is_shown_on_white(tmp_path: Path) -> None:
    for mode, see_through in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0))):
        Image.new(mode, (8, 8), see_through).save(tmp_path / "clear.png")
        frames = read_clip(tmp_path / "clear.png").frames
        assert frames is not None and frames.shape == (1, 8, 8, 3) and (frames == 255).all()


def test_a_browser_recording_without_a_duration_is_read_to_its_end() -> None:
    clip = read_clip(BROWSER)
    assert clip.frames is not None and clip.frames.shape == (8, 480, 640, 3)
    assert clip.duration == pytest.approx(3.0, abs=0.01)
    assert clip.wave is not None and len(clip.wave) / RATE == pytest.approx(3.0, abs=0.01)
    assert (np.diff(clip.times) >= 0).all() and clip.times[-1] <= clip.duration
    assert clip.warnings == ("vfr", "no_duration_header")


def test_a_variable_rate_is_sampled_by_time_not_by_index(tmp_path: Path) -> None:
    stamps = [0, 100, 200, 300, 400, 450, 600, 700, 2000, 3900]
    clip = read_clip(make_clip(tmp_path / "vfr.mkv", pictures=10, stamps=stamps, sounds=[]), frames=4)
    assert clip.frames is not None
    assert numbers(clip.frames) == [5, 7, 8, 8]  # about 0.5, 1.5, 2.5 and 3.5 s
    np.testing.assert_allclose(clip.times, [0.45, 0.7, 2.0, 2.0])
    assert "vfr" in clip.warnings


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_rotated_recording_comes_out_upright(rotation: int, tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "phone.mp4", sounds=[], rotation=rotation))
    assert clip.frames is not None and "rotated" in clip.warnings
    assert clip.frames.shape[1:3] == ((48, 64) if rotation == 180 else (64, 48))
    assert numbers(np.rot90(clip.frames, -rotation // 90, axes=(1, 2))) == MID_BINS


def test_large_pictures_are_shrunk_and_keep_their_shape(tmp_path: Path) -> None:
    wide = read_clip(make_clip(tmp_path / "hd.mp4", pictures=3, size=(1280, 720), sounds=[]), frames=3)
    tall = read_clip(make_clip(tmp_path / "tall.mp4", pictures=3, size=(360, 720), sounds=[]), frames=1)
    assert wide.frames is not None and wide.frames.shape == (3, 360, 640, 3) and numbers(wide.frames) == [0, 1, 2]
    assert tall.frames is not None and tall.frames.shape == (1, 640, 320, 3)


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    context = {"sample_aspect_ratio": 2}
    clip = read_clip(make_clip(tmp_path / "sar.mp4", sounds=[], context=context))
    assert clip.frames is not None and clip.frames.shape == (8, 24, 64, 3)


def test_hdr_is_read_and_flagged(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "hdr.mp4", sounds=[], context={"color_trc": 16}))
    assert "hdr_not_tonemapped" in clip.warnings


def test_bt709_colours_come_out_right(tmp_path: Path) -> None:
    """Pure red in BT.709 limited range is Y 63, Cb 102, Cr 240; read as BT.601 it would be (255, 24, 0)."""
    import av

    with av.open(str(tmp_path / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.codec_context.colorspace = "yuv420p", 1
        planes = np.full((96, 64), 63, np.uint8)
        planes[64:80], planes[80:] = 102, 240
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    frames = read_clip(tmp_path / "red.mp4", frames=1).frames
    assert frames is not None
    np.testing.assert_allclose(frames[0].mean((0, 1)), [255, 0, 0], atol=4)


def test_a_clip_with_fewer_pictures_than_asked_for_repeats_them_with_their_times(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "short.mp4", pictures=3, fps=10, sounds=[]), frames=6)
    assert clip.frames is not None and numbers(clip.frames) == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(clip.times, [0, 0, 0.1, 0.1, 0.2, 0.2])


@pytest.mark.parametrize("kind", ["h264.mp4", "hevc.mp4", "vp9.webm", "mpeg4.mp4", "mpeg2.mpg", "refresh.mkv"])
def test_leaving_out_pictures_that_nobody_needs_changes_no_pixel(kind: str, tmp_path: Path) -> None:
    """Equivalence: 5 of 60 pictures over several groups = the same rows of all 60."""
    more: dict[str, dict] = {
        "h264.mp4": {"options": {"g": "12", "x264-params": "open-gop=1:b-pyramid=normal"}},
        "hevc.mp4": {
            "codec": "libx265",
            "options": {"g": "12", "x265-params": "log-level=none:pools=1:frame-threads=1"},
        },
        "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12"}},
        "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
        "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
        "refresh.mkv": {"options": {"g": "12", "x264-params": "intra-refresh=1"}},  # wrong keyframe marks
    }
    path = make_clip(tmp_path / kind, pictures=60, sounds=[], **more[kind])
    few, every = read_clip(path, frames=5), read_clip(path, frames=60)
    assert few.frames is not None and every.frames is not None
    assert numbers(few.frames) == [6, 18, 30, 42, 54] and numbers(every.frames) == list(range(60))
    np.testing.assert_array_equal(few.frames, every.frames[[6, 18, 30, 42, 54]])
    np.testing.assert_array_equal(few.times, every.times[[6, 18, 30, 42, 54]])


def test_a_long_recording_decodes_only_the_groups_of_its_picks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "long.mp4", pictures=240, fps=1, sounds=[], options={"g": "10"})
    decoded = []
    decode = clip_module.Budget.decode
    monkeypatch.setattr(
        clip_module.Budget, "decode", lambda self, *given: decoded.append(given[1]) or decode(self, *given)
    )
    clip = read_clip(path, frames=4)
    assert clip.frames is not None and numbers(clip.frames) == [30, 90, 150, 210]
    assert sum(packet is not None for packet in decoded) <= 4 * 10


# ---- sound ----


def test_sound_is_mixed_down_to_its_mean_not_louder(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "stereo.wav", codec=None, sounds=["pcm_s16le"], channels=2))
    assert clip.wave is not None and np.abs(clip.wave).max() == pytest.approx(0.5, abs=0.01)


def test_sound_that_starts_late_keeps_its_place_on_the_clock(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "late.mkv"), "w") as container:
        pictures = container.add_stream("libx264", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for i in range(20):
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(pictures.encode(None))
        for start in (0.5, 1.5):  # and a hole from 1.0 to 1.5
            samples = (tone(0.5) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, round(start * RATE)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    wave = read_clip(tmp_path / "late.mkv").wave
    assert wave is not None and len(wave) == pytest.approx(2 * RATE, abs=32)
    loud = [not is_silent(wave[int(a * RATE) : int(b * RATE)]) for a, b in ((0, 0.48), (0.52, 0.98), (1.02, 1.48))]
    assert loud == [False, True, False] and not is_silent(wave[int(1.52 * RATE) :])


@pytest.mark.parametrize(("step", "hole"), [(0.0211, 0), (0.02, 10), (0.0189, 0)])
def test_sound_that_loses_packets_or_drifts_stays_at_its_time(step: float, hole: int, tmp_path: Path) -> None:
    """Packets of 20 ms; every `hole`-th is lost, or their times run 5 % slow or fast; a beep marks 8 s."""
    import av

    with av.open(str(tmp_path / "call.mkv"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for i in range(round(9 / step)):
            peak = 20_000 if i * step >= 8 else 200
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE // 50), peak, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, round(i * step * RATE)
            if not hole or i % hole != 5:
                container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    wave = read_clip(tmp_path / "call.mkv").wave
    assert wave is not None and len(wave) / RATE == pytest.approx(9, abs=0.13)
    assert np.argmax(np.abs(wave) > 0.2) / RATE == pytest.approx(8, abs=0.13)  # GAP, and a packet


def test_milliseconds_of_matroska_tear_no_sound_apart(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "long.mkv", codec=None, sounds=["pcm_s16le"], seconds=20, rate=44_100)
    wave = read_clip(path).wave
    assert wave is not None and len(wave) == pytest.approx(20 * RATE, abs=32)
    assert np.abs(np.diff(wave)).max() < 0.1  # a tone of 440 Hz moves by 0.09 from sample to sample


def test_a_joined_recording_whose_clock_starts_anew_goes_on(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.ogg", codec=None, sounds=["libopus"], seconds=3)
    path.write_bytes(2 * path.read_bytes())
    wave = read_clip(path).wave
    assert wave is not None and len(wave) / RATE == pytest.approx(6, abs=0.1)


def test_silent_sound_is_kept_but_is_no_modality(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "muted.mp4", peak=0.0))
    assert clip.wave is not None and len(clip.wave) == RATE
    assert clip.modalities == ("video",) and clip.warnings == ("silent_audio",)


def test_a_silent_recording_without_a_picture_is_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "muted.wav", codec=None, sounds=["pcm_s16le"], peak=0.0)
    with pytest.raises(ClipError, match=r"is silent from start to end.*Unmute") as caught:
        read_clip(path)
    assert caught.value.code == "no_streams"


def test_a_second_sound_track_is_reported(tmp_path: Path) -> None:
    clip = read_clip(make_clip(tmp_path / "dub.mkv", sounds=["aac", "flac"]))
    assert clip.warnings == ("multiple_audio_streams",)


def test_the_cover_of_a_song_is_no_picture_of_a_person(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "song.mp3", codec=None, sounds=["libmp3lame"])
    Image.fromarray(picture(37)).save(tmp_path / "cover.jpg")
    image = b"\0image/jpeg\0\x03\0" + (tmp_path / "cover.jpg").read_bytes()
    frame = b"APIC" + struct.pack(">IH", len(image), 0) + image
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))  # ID3: 7 bits per byte
    sound = path.read_bytes()
    path.write_bytes(b"ID3\x03\0\0" + size + frame + sound[sound.index(b"\xff\xfb") :])
    clip = read_clip(path)
    assert clip.frames is None and clip.warnings == ("no_video",)


# ---- leaving a sense out ----


def test_leaving_a_sense_out_on_purpose_is_no_warning(talk: Path) -> None:
    blind, deaf = read_clip(talk, video=False), read_clip(talk, audio=False)
    assert blind.frames is None and blind.modalities == ("audio",) and blind.warnings == ()
    assert deaf.wave is None and deaf.modalities == ("video",) and deaf.warnings == ()
    assert blind.duration == deaf.duration == 1.0


def test_each_sense_is_the_same_with_and_without_the_other(talk: Path) -> None:
    both, blind, deaf = read_clip(talk), read_clip(talk, video=False), read_clip(talk, audio=False)
    np.testing.assert_array_equal(both.wave, blind.wave)  # type: ignore[arg-type]
    np.testing.assert_array_equal(both.frames, deaf.frames)  # type: ignore[arg-type]


def test_asking_for_nothing_is_an_error_with_advice(talk: Path) -> None:
    with pytest.raises(ClipError, match="Ask for audio, video or both"):
        read_clip(talk, audio=False, video=False)
    assert code_of(talk, frames=0) == "bad_argument"


def test_asking_only_for_what_the_file_lacks_is_an_error_with_advice(tmp_path: Path) -> None:
    mute = make_clip(tmp_path / "mute.mp4", sounds=[])
    voice = make_clip(tmp_path / "voice.wav", codec=None, sounds=["pcm_s16le"])
    with pytest.raises(ClipError, match=r"mute\.mp4 has no sound track\. Use --no-audio"):
        read_clip(mute, video=False)
    with pytest.raises(ClipError, match=r"voice\.wav has no picture\. Use --no-video"):
        read_clip(voice, audio=False)


def test_a_clip_passes_through_without_the_senses_that_are_not_wanted(talk: Path) -> None:
    clip = read_clip(talk)
    assert read_clip(clip) is clip
    assert read_clip(clip, audio=False).modalities == ("video",)
    assert read_clip(replace(clip, wave=None)).warnings == ("no_audio",)
    assert code_of(replace(clip, wave=None), video=False) == "no_streams"


def test_the_content_names_the_clip_not_its_path(talk: Path, tmp_path: Path) -> None:
    import hashlib

    copy = tmp_path / "concat:a|b.bin"  # the name says nothing, or something else
    copy.write_bytes(talk.read_bytes())
    clip = read_clip(str(copy))
    assert clip.sha256 == read_clip(talk).sha256 == hashlib.sha256(talk.read_bytes()).hexdigest()
    assert clip.frames is not None and numbers(clip.frames) == MID_BINS


# ---- writing ----


@pytest.mark.parametrize("fps", [2.7, 25, 29.97, 30000 / 1001])
@pytest.mark.parametrize("extra", [-0.03, 0.0, 0.03])
def test_a_written_clip_is_read_back_frame_by_frame(fps: float, extra: float, tmp_path: Path) -> None:
    frames = np.stack([picture(i) for i in range(8)])
    wave = tone(8 / fps + extra)
    write_clip(tmp_path / "out.mp4", frames=frames, fps=fps, wave=wave)
    clip = read_clip(tmp_path / "out.mp4")
    assert clip.frames is not None and clip.wave is not None
    assert numbers(clip.frames) == list(range(8))
    np.testing.assert_allclose(clip.times, np.arange(8) / fps, atol=1e-6)
    assert clip.duration == pytest.approx(8 / fps, abs=1e-6)
    assert len(clip.wave) == len(wave) and clip.warnings == ()
    lag = np.argmax(np.correlate(clip.wave[:2000], wave[:2000], "full")) - 1999
    assert lag == 0


def test_written_pixels_stay_close_and_odd_sides_lose_one_line(tmp_path: Path) -> None:
    ramp = np.linspace(30, 220, 65, dtype=np.uint8)[None, None, :, None]
    frames = np.broadcast_to(ramp, (4, 51, 65, 3)).copy()
    frames[..., 2] //= 2
    write_clip(tmp_path / "ramp.mp4", frames=frames)
    back = read_clip(tmp_path / "ramp.mp4", frames=4).frames
    assert back is not None and back.shape == (4, 50, 64, 3)
    assert np.abs(back.astype(int) - frames[:, :50, :64]).mean() < 3


def test_a_written_clip_can_be_scaled(tmp_path: Path) -> None:
    write_clip(tmp_path / "small.mp4", frames=np.stack([picture(7, (128, 96))] * 2), size=(64, 48))
    frames = read_clip(tmp_path / "small.mp4", frames=1).frames
    assert frames is not None and frames.shape == (1, 48, 64, 3) and numbers(frames) == [7]


@pytest.mark.parametrize(("ending", "error"), [(".wav", 1e-4), (".m4a", 0.1)])
def test_a_written_wave_keeps_its_length_and_place(ending: str, error: float, tmp_path: Path) -> None:
    wave = tone(1.2345)
    write_clip(tmp_path / f"voice{ending}", wave=wave)
    clip = read_clip(tmp_path / f"voice{ending}")
    assert clip.wave is not None and len(clip.wave) == len(wave)
    assert np.abs(clip.wave - wave).max() < error and np.abs(clip.wave - wave).mean() < 0.01


def test_written_clips_are_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    frames = np.stack([np.roll(smooth, i, 1) for i in range(50)])
    write_clip(tmp_path / "two_seconds.mp4", frames=frames, wave=0.1 * rng.standard_normal(32_000))
    assert (tmp_path / "two_seconds.mp4").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("name", "arguments", "advice"),
    [
        ("a.mp4", {}, "neither frames nor a wave"),
        ("a.wav", {"frames": np.zeros((1, 8, 8, 3), np.uint8)}, r"must end in \.mp4"),
        ("a.mp4", {"wave": np.zeros(9)}, r"must end in \.wav or \.m4a"),
        ("a.mp4", {"frames": np.zeros((1, 8, 8, 3))}, "must be uint8 of shape"),
        ("a.mp4", {"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "T >= 1"),
        ("a.mp4", {"frames": np.zeros((1, 8, 8, 3), np.uint8), "fps": 0}, "fps must lie between"),
        ("a.mp4", {"frames": np.zeros((1, 8, 8, 3), np.uint8), "size": (1, 8)}, "size must be"),
        ("a.wav", {"wave": np.full(9, np.nan)}, "finite floats"),
        ("a.wav", {"wave": np.zeros(9, np.int16)}, "finite floats"),
        ("no/a.wav", {"wave": np.zeros(9)}, "Check that the folder exists"),
    ],
)
def test_what_cannot_be_written_says_why_and_leaves_nothing(
    name: str, arguments: dict, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(ClipError, match=advice) as caught:
        write_clip(tmp_path / name, **arguments)
    assert caught.value.code in ("bad_clip", "not_writable")
    assert list(tmp_path.iterdir()) == []


# ---- bad files: a code and advice, never a decoder's words ----


def corrupt_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (path, expected code)."""
    talk = make_clip(folder / "whole.mp4").read_bytes()
    png = folder / "whole.png"
    Image.fromarray(picture(3)).save(png)
    contents = {
        "empty.mp4": (b"", "empty_file"),
        "clicked_twice.webm": (b"\x1a", "empty_file"),
        "notes.txt": (b"I feel fine today, thank you.\n", "unsupported_format"),
        "notes.mp4": (b"I feel fine today, thank you.\n", "unsupported_format"),
        "utf16.txt": ("I feel fine today".encode("utf-16"), "unsupported_format"),
        "random.mp4": (random.Random(1).randbytes(5000), "unsupported_format"),
        "archive.zip": (b"PK\x03\x04" + bytes(100), "unsupported_format"),
        "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(100), "unsupported_format"),
        "list.m3u8": (b"#EXTM3U\n#EXTINF:1,\nwhole.mp4\n", "unsupported_format"),
        "list.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", "unsupported_format"),
        "list.sdp": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n", "unsupported_format"),
        "no_index.mp4": (talk[: talk.index(b"moov") - 4], "corrupt_media"),
        "header_only.mp4": (talk[:40], "corrupt_media"),
        "header_only.mkv": (b"\x1aE\xdf\xa3" + bytes(60), "corrupt_media"),
        "cut.png": (png.read_bytes()[:60], "corrupt_media"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    made = {name: (folder / name, code) for name, (_, code) in contents.items()}
    lossless = make_clip(folder / "lossless.mkv", codec="ffv1", sounds=[])
    jpeg2000 = make_clip(folder / "cinema.mkv", codec="jpeg2000")
    return made | {
        "lossless.mkv": (lossless, "unsupported_codec"),
        "cinema.mkv": (jpeg2000, "unsupported_codec"),
        "missing.mp4": (folder / "missing.mp4", "not_found"),
        "nul": (Path("a\0b.mp4"), "not_found"),
        "folder.mp4": (folder / "folder.mp4", "not_a_file"),
        "device": (Path("/dev/zero"), "not_a_file"),
        "loop.mp4": (folder / "loop.mp4", "not_found"),
        "too_long_name": (folder / ("x" * 5000), "not_found"),
    }


def test_every_bad_file_gets_its_code_and_a_message_with_advice(tmp_path: Path) -> None:
    for name, (path, code) in corrupt_files(tmp_path).items():
        with pytest.raises(ClipError) as caught:
            read_clip(path)
        assert (name, caught.value.code) == (name, code)
        assert_is_advice(str(caught.value), code)


def assert_is_advice(message: str, code: str) -> None:
    """The message is one of our sentences, filled in: no words of a decoder, no path, no address."""
    ours = [reason for key, reason in REASONS.items() if key.partition(".")[0] == code]
    patterns = [re.sub(r"\\\{[^}]*\\\}", ".{1,60}", re.escape(reason)) for reason in ours]
    assert any(re.fullmatch(r"\S.{0,120} " + pattern, message) for pattern in patterns), message
    assert not re.search(r"0x|\[Errno|Invalid data|/tmp|libav|avcodec|Traceback|\n", message), message


def test_every_reason_says_what_to_do() -> None:
    verbs = r"\b(Give|Ask|Download|Check|Change|Record|Copy|Cut|Keep|Convert|Use|Unmute|Shrink|raise|must|why)\b"
    for reason, text in REASONS.items():
        assert re.search(verbs, text), reason


@pytest.mark.parametrize(
    "name",
    [
        "http://127.0.0.1:9/clip.mp4",
        "https://user:secret@example.org/clip.mp4",
        "rtsp://127.0.0.1/live",
        "concat:a.mp4|b.mp4",
        "subfile,,start,0,end,9,,:a.mp4",
        "data:video/mp4;base64,AAAA",
        "tcp://127.0.0.1:9",
        "pipe:0",
        "file:clip.mp4",
    ],
)
def test_an_address_or_a_protocol_is_no_path(name: str) -> None:
    assert code_of(name) == "url_not_allowed"


def test_a_hostile_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J\x1b]0;owned\x07\u202e.mp4"
    path.write_bytes(b"nothing that is a clip")
    with pytest.raises(ClipError) as caught:
        read_clip(path)
    assert str(caught.value).isprintable() and "?" in str(caught.value)


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server on the loopback that notes whoever comes by: (port, hits)."""
    hits: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    hits.append(connection.recv(200))

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], hits
        done.set()
        thread.join()


def test_no_playlist_makes_us_fetch_or_open_anything_else(
    listener: tuple[int, list[bytes]], talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, hits = listener
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.mp4").write_bytes(talk.read_bytes())
    url = f"http://127.0.0.1:{port}/secret.ts"
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{url}'\nfile secret.mp4\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
        f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>',
        f"[playlist]\nFile1={url}\n",
    ]
    names = ["up.m3u8", "up.mp4", "up.ffconcat", "up.sdp", "up.mpd", "http:127.0.0.1", "up.webm", "up.jpg"]
    for text in playlists:
        for name in names:
            (tmp_path / name).write_text(text)
            assert code_of(name) == "unsupported_format"
    assert code_of(url) == "url_not_allowed"
    time.sleep(0.1)
    assert hits == []


def test_a_playlist_inside_the_signature_of_a_clip_opens_nothing(
    listener: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    """The first bytes choose the demuxer, so a list that only begins like a clip is a damaged clip."""
    port, hits = listener
    text = f"\n#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{port}/secret.ts\n".encode()
    for head in (
        b"\0\0\0\x18ftypisom",
        b"ID3\x03\0\0\0\0\0\0",
        b"GIF89a",
        b"OggS",
        b"fLaC",
        b"\x1aE\xdf\xa3",
    ):
        (tmp_path / "up.m3u8").write_bytes(head + text)
        assert code_of(tmp_path / "up.m3u8") in ("corrupt_media", "too_large_pixels")  # GIF: text as a size
    time.sleep(0.1)
    assert hits == []


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    options = {"movflags": "faststart", "g": "10"}
    for kind in ("cut.mkv", "cut.avi", "cut.ts"):
        path = make_clip(tmp_path / kind, pictures=100, sounds=["libmp3lame"], options=options)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        clip = read_clip(path)
        assert clip.frames is not None and 1.0 < clip.duration < 3.5
        assert len(set(numbers(clip.frames))) == 8
        assert kind == "cut.ts" or "truncated" in clip.warnings  # a transport stream has no length to miss


def test_an_mp4_with_its_index_in_front_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", pictures=100).read_bytes()
    fast = index_first(whole)
    (tmp_path / "fast.mp4").write_bytes(fast)
    assert read_clip(tmp_path / "fast.mp4").warnings == ()
    (tmp_path / "cut.mp4").write_bytes(fast[: len(fast) * 2 // 3])
    clip = read_clip(tmp_path / "cut.mp4")
    assert clip.frames is not None and "truncated" in clip.warnings and 0.5 < clip.duration < 3.8


def index_first(data: bytes) -> bytes:
    """An mp4 with `moov` moved before `mdat`, as browsers and phones send it."""
    boxes, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        boxes[kind] = data[at : at + size]
        at += size
    moov = bytearray(boxes[b"moov"])
    for match in re.finditer(b"stco", boxes[b"moov"]):
        count = struct.unpack_from(">I", moov, match.end() + 4)[0]
        for i in range(count):
            where = match.end() + 8 + 4 * i
            offset = struct.unpack_from(">I", moov, where)[0]
            struct.pack_into(">I", moov, where, offset + len(moov))
    return boxes[b"ftyp"] + bytes(moov) + boxes.get(b"free", b"") + boxes[b"mdat"]


def test_damaged_packets_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "damaged.mkv", codec="mjpeg", pictures=50, sounds=["libmp3lame"])
    rng, data = random.Random(0), bytearray(path.read_bytes())
    for _ in range(200):
        data[rng.randrange(1000, len(data))] = rng.randrange(256)
    path.write_bytes(data)
    clip = read_clip(path)
    count = next(int(w.partition(":")[2]) for w in clip.warnings if w.startswith("bad_packets:"))
    assert count > 0 and clip.frames is not None
    assert code_of(path, limits=Limits(bad_packets=count - 1)) == "corrupt_media"


# ---- limits ----


@pytest.mark.parametrize(
    ("limits", "code", "advice"),
    [
        (Limits(file_bytes=1000), "too_large_bytes", "Limits(file_bytes=…)"),
        (Limits(seconds=0.5), "too_long", "ffmpeg -i INPUT -t 0"),
        (Limits(frames=10), "too_long", "Limits(frames=…)"),
        (Limits(packets=10), "too_long", "Limits(packets=…)"),
        (Limits(audio_bytes=1000), "too_long", "Limits(audio_bytes=…)"),
        (Limits(pixels=1000), "too_large_pixels", "Limits(pixels=…)"),
        (Limits(streams=1), "unsupported_format", "Limits(streams=…)"),
        (Limits(wall_seconds=-1), "decode_timeout", "Limits(wall_seconds=…)"),
    ],
)
def test_each_limit_refuses_with_its_code_and_names_itself(limits: Limits, code: str, advice: str, talk: Path) -> None:
    with pytest.raises(ClipError) as caught:
        read_clip(talk, limits=limits)
    assert caught.value.code == code and advice in str(caught.value)
    assert_is_advice(str(caught.value), code)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        import zlib

        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for side in (10_000, 30_000):  # where Pillow warns, and where it raises
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        (tmp_path / "bomb.png").write_bytes(bomb)
        start = time.process_time()
        assert code_of(tmp_path / "bomb.png") == "too_large_pixels"
        assert time.process_time() - start < 1


def test_a_track_that_cannot_be_decoded_can_be_left_out(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "cinema.mkv", codec="jpeg2000")
    with pytest.raises(ClipError, match=r"pictures in a codec that is not read here.*--no-video") as caught:
        read_clip(path)
    assert caught.value.code == "unsupported_codec"
    assert read_clip(path, video=False).modalities == ("audio",)


# ---- whatever the bytes ----


def test_mutated_files_give_a_clip_or_a_clip_error_and_nothing_else(tmp_path: Path) -> None:
    """150 seeded mutations. Found by longer runs of it: broken metadata, streams that appear on the way."""
    rng = random.Random(2026)
    kinds = ["h264.mp4", "h264.ts", "vp8.webm", "mpeg4.avi", "mpeg2.mpg", "flash.flv"]
    originals = {kind: make_clip(tmp_path / kind, pictures=12, **KINDS[kind]).read_bytes() for kind in kinds}
    originals["browser.webm"] = BROWSER.read_bytes()
    originals["voice.ogg"] = make_clip(tmp_path / "v.ogg", codec=None, sounds=["libopus"]).read_bytes()
    outcomes: set[str] = set()
    for case in range(150):
        name = rng.choice(sorted(originals))
        path = tmp_path / f"mutated{Path(name).suffix}"
        path.write_bytes(mutate(originals[name], rng))
        try:
            clip = read_clip(path, frames=4)
        except ClipError as err:
            assert_is_advice(str(err), err.code)
            outcomes.add(err.code)
        else:
            assert_is_sound(clip, case)
            outcomes.add("read")
    assert {"read", "corrupt_media"} <= outcomes


def mutate(data: bytes, rng: random.Random) -> bytes:
    mutated, at = bytearray(data), rng.randrange(len(data))
    match rng.randrange(4):
        case 0:
            for _ in range(rng.choice((1, 10, 200))):
                mutated[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            for _ in range(8):
                mutated[rng.randrange(min(len(data), 1500))] = rng.randrange(256)
        case 2:
            del mutated[at : at + rng.choice((1, 100, len(data)))]
        case _:
            mutated[at:at] = data[rng.randrange(len(data)) :][:1000]
    return bytes(mutated)


def assert_is_sound(clip: Clip, case: int) -> None:
    assert clip.modalities, case
    assert 0 <= clip.duration < 700, case
    if clip.frames is not None:
        assert clip.frames.shape[0] == len(clip.times) == 4 and clip.frames.dtype == np.uint8, case
        assert ((clip.times >= -1e-6) & (clip.times <= clip.duration + 1e-6)).all(), case
    if clip.wave is not None:
        assert clip.wave.dtype == np.float32 and np.isfinite(clip.wave).all(), case
