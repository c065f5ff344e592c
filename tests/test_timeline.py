"""The timeline: windows that cover a clip, what is said of them, and that a long clip needs no more memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from long_clip import looped
from media import make_clip, numbers, picture, tone
from PIL import Image

from omni import cli
from omni.answer import Answer
from omni.clip import RATE, read_clip
from omni.clip_writer import write_clip
from omni.errors import ClipError, OmniError
from omni.generate import reason
from omni.timeline.changes import segments
from omni.timeline.people import People
from omni.timeline.plot import WIDTH, timeline_plot
from omni.timeline.record import Passage, Reading
from omni.timeline.summary import changes, passages, sentences
from omni.timeline.timeline import read_timeline
from omni.timeline.windows import LIMITS, Window, Windows, spans
from omni.tiny import tiny

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples/clips"
HOUR = 1.15  # times the memory of a minute


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9.4 s of numbered pictures, 5 a second, and a tone."""
    return make_clip(tmp_path_factory.mktemp("talk") / "talk.mp4", pictures=47, fps=5, rate=16_000)


# ---- windows ----


@pytest.mark.parametrize(("duration", "window", "hop"), [(9.4, 4, 2), (3, 4, 2), (8, 4, 4), (7.3, 2, 0.5), (60, 7, 3)])
def test_windows_leave_nothing_out(duration: float, window: float, hop: float) -> None:
    found = spans(duration, window, hop)
    assert found[0][0] == 0 and found[-1][1] == duration
    assert all(after[0] <= before[1] and after[0] > before[0] for before, after in pairwise(found))
    assert all(0 < t1 - t0 <= window + 0.1 for t0, t1 in found) and (len(found) == 1 or found[-2][1] < duration)


def test_windows_hold_the_sound_and_pictures_of_the_whole_clip(talk: Path) -> None:
    clip, windows = read_clip(talk), Windows(talk, window=2, hop=2)
    parts = list(windows.read())
    assert [(one.t0, one.t1) for one in parts] == windows.spans and windows.spans[-1] == (8.0, windows.duration)
    waves = np.concatenate([one.clip.wave for one in parts if one.clip.wave is not None])
    assert np.array_equal(waves, clip.wave)
    for one in parts:
        assert numbers(one.clip.frames) == [round((one.t0 + time) * 5) for time in one.clip.times]
        assert (one.clip.times >= 0).all() and (one.clip.times < one.t1 - one.t0).all()
    (whole,) = Windows(talk, window=100, hop=100).read()
    assert np.array_equal(whole.clip.frames, clip.frames) and np.allclose(whole.clip.times, clip.times)


def test_overlapping_windows_are_those_of_the_same_clip_cut_out(talk: Path) -> None:
    wave = read_clip(talk).wave
    for one in Windows(talk, window=4, hop=1.5).read():
        assert np.array_equal(one.clip.wave, wave[round(one.t0 * RATE) : round(one.t1 * RATE)])


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_a_flash_and_a_beep_are_in_the_same_window(tmp_path: Path, container: str) -> None:
    frames, wave = np.zeros((60, 32, 32, 3), np.uint8), np.zeros(6 * RATE, np.float32)
    frames[35:38], wave[round(3.5 * RATE) : round(3.8 * RATE)] = 255, tone(0.3)
    write_clip(tmp_path / "a.mp4", frames=frames, fps=10, wave=wave)
    path = tmp_path / f"a.{container}"
    if container != "mp4":
        import av

        with av.open(str(tmp_path / "a.mp4")) as given, av.open(str(path), "w") as out:
            copies = [out.add_stream_from_template(stream) for stream in given.streams]
            for packet in given.demux():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream_index]
                    out.mux(packet)
    for one in Windows(path, window=1, hop=0.5).read(frames=10):
        bright = one.t0 + one.clip.times[one.clip.frames.mean((1, 2, 3)) > 128]
        loud = one.t0 + np.flatnonzero(np.abs(one.clip.wave) > 0.2) / RATE
        assert bool(len(bright)) == bool(len(loud)) == (one.t1 > 3.5 and one.t0 < 3.8)
        if len(loud):
            assert abs(bright[0] - max(loud[0], one.t0)) < 0.11


def test_lost_packets_shift_no_sound_into_an_earlier_window(tmp_path: Path) -> None:
    import av

    beep = np.where(np.arange(9 * RATE) >= 8.2 * RATE, tone(9), 0.01 * tone(9)).astype(np.float32)
    write_clip(tmp_path / "whole.mp4", frames=np.zeros((90, 32, 32, 3), np.uint8), fps=10, wave=beep)
    with av.open(str(tmp_path / "whole.mp4")) as given, av.open(str(tmp_path / "lossy.mkv"), "w") as out:
        copies = [out.add_stream_from_template(stream) for stream in given.streams]
        for packet in given.demux():
            is_lost = packet.stream_index == 1 and packet.pts is not None and packet.pts // 1024 % 10 == 5
            if packet.dts is not None and not is_lost:
                packet.stream = copies[packet.stream_index]
                out.mux(packet)
    whole = read_clip(tmp_path / "lossy.mkv").wave
    parts = list(Windows(tmp_path / "lossy.mkv", window=1, hop=1).read(frames=1))
    assert np.array_equal(np.concatenate([one.clip.wave for one in parts]), whole)
    assert [np.abs(one.clip.wave).max() > 0.2 for one in parts[:8]] == [False] * 8
    assert np.abs(parts[8].clip.wave).max() > 0.2


def test_the_watcher_sees_every_tenth_of_a_second_once_and_in_order(talk: Path) -> None:
    seen: list[float] = []
    for one in Windows(talk, window=4, hop=2).read(watch=lambda time, _: seen.append(time)):
        assert seen[-1] == pytest.approx(one.t1 - 0.2, abs=0.01)  # all of this window, and nothing beyond
    assert np.allclose(seen, np.arange(47) / 5)


def test_sound_alone_a_mute_clip_and_a_still_have_windows(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.wav", wave=tone(5))
    heard = Windows(tmp_path / "a.wav")
    assert [one.clip.modalities for one in heard.read()] == [("audio",)] * 2 and heard.warnings == ("no_video",)
    mute = Windows(make_clip(tmp_path / "mute.mp4", pictures=25, fps=5, sounds=()))
    assert [one.clip.modalities for one in mute.read()] == [("video",)] * 2 and mute.warnings == ("no_audio",)
    Image.fromarray(picture(5)).save(tmp_path / "a.png")
    (still,) = Windows(tmp_path / "a.png").read()
    assert (still.t0, still.t1, numbers(still.clip.frames)) == (0.0, 0.0, [5])


def test_sound_that_outlasts_the_picture_has_windows_of_its_own(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "late.mp4", pictures=10, fps=5, seconds=7)
    parts = list(Windows(path, window=2, hop=2).read())
    assert [one.clip.modalities for one in parts] == [("video", "audio"), ("audio",), ("audio",), ("audio",)]
    assert sum(len(one.clip.wave) for one in parts) == pytest.approx(7 * RATE, abs=RATE / 10)


def test_a_silent_clip_without_a_picture_is_refused_and_a_silent_window_is_not(tmp_path: Path) -> None:
    write_clip(tmp_path / "silent.wav", wave=np.zeros(5 * RATE, np.float32))
    with pytest.raises(ClipError) as caught:
        list(Windows(tmp_path / "silent.wav").read())
    assert caught.value.code == "no_streams"
    write_clip(tmp_path / "half.wav", wave=np.concatenate([np.zeros(4 * RATE, np.float32), tone(4)]))
    assert [one.clip.modalities for one in Windows(tmp_path / "half.wav", hop=4).read()] == [(), ("audio",)]


def test_a_file_that_breaks_off_has_windows_until_there_and_says_so(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "whole.mkv", pictures=100, fps=10)
    (tmp_path / "cut.mkv").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    windows = Windows(tmp_path / "cut.mkv", window=2, hop=2)
    parts = list(windows.read())
    assert 2 < windows.duration < 8 and parts[-1].t1 == windows.duration and "truncated" in windows.warnings
    assert all(one.clip.modalities == ("video", "audio") for one in parts[:-1])


def test_a_damaged_tail_has_windows_without_its_senses_and_a_warning(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "bad.mp4", pictures=100, fps=10, sounds=(), options={"g": "10"})
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat"), content.index(b"moov")
    middle = (start + end) // 2
    content[middle:end] = b"\xff" * (end - middle)
    path.write_bytes(content)
    windows = Windows(path, window=2, hop=2, limits=replace(LIMITS, bad_packets=3))
    parts = list(windows.read())
    assert parts[-1].t1 == pytest.approx(10) and parts[0].clip.modalities == ("video",)
    assert parts[-1].clip.modalities == () and any("damaged" in one or "bad_packets" in one for one in windows.warnings)


@pytest.mark.parametrize(("window", "hop"), [(0, 1), (-1, -1), (4, 0), (2, 3), (float("nan"), 1), (1, float("inf"))])
def test_windows_that_would_leave_something_out_are_refused(talk: Path, window: float, hop: float) -> None:
    with pytest.raises(OmniError) as caught:
        Windows(talk, window=window, hop=hop)
    assert caught.value.code == "bad_argument"


def test_a_clip_beyond_the_limit_is_refused_before_anything_is_decoded(talk: Path) -> None:
    with pytest.raises(ClipError, match="longer than 5 s"):
        Windows(talk, limits=replace(LIMITS, seconds=5))


# ---- changes ----


def _noisy(rng: np.random.Generator, logits: np.ndarray, spread: float) -> np.ndarray:
    """Softmax of (n, K) with noise that windows share, two at a time."""
    noise = rng.normal(0, spread * np.sqrt(2), (len(logits) + 1, logits.shape[1]))
    powers = np.exp(logits + (noise[1:] + noise[:-1]) / 2)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("count", [5, 30, 300])
@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0, 2.0])
def test_noise_has_no_changes(count: int, spread: float) -> None:
    rng, calm = np.random.default_rng(count), np.log([0.7, 0.1, 0.05, 0.05, 0.04, 0.03, 0.03])
    runs = [segments(_noisy(rng, np.tile(calm, (count, 1)), spread)) for _ in range(60)]
    assert sum(len(found) > 1 for found in runs) <= 3


def test_planted_changes_are_found_where_they_are() -> None:
    rng = np.random.default_rng(0)
    calm, glad = np.log([0.7, 0.1, 0.05, 0.05, 0.1]), np.log([0.1, 0.7, 0.05, 0.05, 0.1])
    for _ in range(30):
        rows = _noisy(rng, np.concatenate([np.tile(calm, (10, 1)), np.tile(glad, (12, 1)), np.tile(calm, (9, 1))]), 0.4)
        assert [one.first for one in segments(rows)] == pytest.approx([0, 10, 22], abs=1)


def test_one_odd_window_is_no_change() -> None:
    rows = np.tile([0.9, 0.1], (20, 1))
    rows[7] = [0.1, 0.9]
    assert len(segments(rows)) == 1


# ---- summary ----


def _readings(labels: str, person: int | None = None) -> list[Reading]:
    """Windows of 4 s, 2 s apart: s sad, h happy, - nothing."""
    found = []
    for i, letter in enumerate(labels):
        p = {"s": 0.9, "h": 0.1}.get(letter)
        row = None if p is None else {"sad": p, "happy": 1 - p}
        label = row and max(row, key=row.__getitem__)
        found.append(Reading(i, 2.0 * i, 2.0 * i + 4, label, row and row[label], row, ("audio",) * bool(row), person))
    return found


def test_sentences_point_at_the_windows_they_speak_of() -> None:
    readings = _readings("sssss-hhhhh")
    found = passages(readings, overlap=2)
    assert [(one.label, one.windows) for one in found] == [("sad", tuple(range(5))), ("happy", tuple(range(6, 11)))]
    (change,) = changes(found, readings)
    assert (change.t, change.before, change.after, change.windows) == (12.0, "sad", "happy", (4, 6))
    told = list(sentences(readings, found))
    assert [one.text for one in told] == [
        "10 windows: sad in 5, happy in 5; 1 change.",
        "0:00–0:12 sad (0.90).",
        "0:12–0:24 happy (0.90).",
        "Nothing to go by, no face and no voice, in 1 window.",
    ]
    assert told[1].windows == (0, 1, 2, 3, 4) and told[3].windows == (5,) and (told[3].t0, told[3].t1) == (10.0, 14.0)


@pytest.mark.parametrize("person", [None, 1])
def test_a_passage_ends_where_time_passes_of_which_nothing_tells(person: int | None) -> None:
    readings = [one for one in _readings("hhhh-----hhhh", person) if person is None or one.labels]
    found = passages(readings, overlap=2)
    assert [(one.label, one.t0, one.t1) for one in found] == [("happy", 0.0, 10.0), ("happy", 18.0, 28.0)]
    assert changes(found, readings) == []
    whole, *_ = sentences(readings, found)
    assert whole.text.endswith("8 windows: happy in 8; no change.")


def test_neighbouring_passages_share_their_border() -> None:
    a, b = passages(_readings("ssssshhhhh"), overlap=2)
    assert a.t1 == b.t0 == 11.0 and (a.t0, b.t1) == (0.0, 22.0)


# ---- the whole ----


def test_a_window_is_answered_as_the_clip_alone(model, talk: Path) -> None:
    found = read_timeline(*model, talk, window=100, hop=100)
    answer = reason(*model, talk, think=False)
    (row,) = found.windows
    assert row.labels == pytest.approx(answer.labels, abs=1e-5) and row.modalities == answer.modalities
    assert (found.sha256, found.duration_s) == (read_clip(talk).sha256, Windows(talk).duration)


def test_rows_segments_and_summary_fit_together(model, talk: Path) -> None:
    walked: list[float] = []
    read = read_timeline(*model, talk, window=2, hop=1, think=True, progress=walked.append)
    assert walked == sorted(walked) and walked[-1] == pytest.approx(2 * read.duration_s)  # walked through twice
    found = json.loads(json.dumps(read.to_dict()))
    assert list(found) == [
        "clip", "sha256", "duration_s", "window_s", "hop_s", "labels", "modalities", "people", "windows", "changes",
        "segments", "summary", "warnings",
    ]  # fmt: skip
    assert [row["index"] for row in found["windows"]] == list(range(len(Windows(talk, window=2, hop=1).spans)))
    for row in found["windows"]:
        assert sum(row["labels"].values()) == pytest.approx(1, abs=1e-3) and row["label"] in row["labels"]
        assert row["confidence"] == row["labels"][row["label"]] and row["person"] is row["speaker"] is None
    assert sorted(i for one in found["segments"] for i in one["windows"]) == [row["index"] for row in found["windows"]]
    assert len(found["changes"]) == len(found["segments"]) - 1
    known = {row["index"] for row in found["windows"]}
    assert found["summary"] and all(one["windows"] and set(one["windows"]) <= known for one in found["summary"])
    assert all(one["surest"] in one["windows"] for one in found["segments"])


def test_batches_of_windows_do_not_change_what_is_said(model, talk: Path, monkeypatch) -> None:
    together = read_timeline(*model, talk, window=2, hop=1)
    monkeypatch.setattr("omni.timeline.timeline.TOGETHER", 1)
    for a, b in zip(together.windows, read_timeline(*model, talk, window=2, hop=1).windows, strict=True):
        assert a.labels == pytest.approx(b.labels, abs=1e-5)


def test_a_window_of_nothing_has_no_label(model, tmp_path: Path) -> None:
    write_clip(tmp_path / "half.wav", wave=np.concatenate([np.zeros(4 * RATE, np.float32), tone(4)]))
    empty, heard = read_timeline(*model, tmp_path / "half.wav", hop=4).windows
    assert (empty.label, empty.labels, empty.modalities) == (None, None, ()) and heard.label is not None


def test_the_picture_has_a_band_for_each_person_and_every_colour_that_is_probable(model, talk: Path) -> None:
    found = read_timeline(*model, talk, window=2, hop=1)
    one = timeline_plot(found)
    twice = [replace(row, person=p) for row in found.windows for p in (0, 1)]
    two = timeline_plot(replace(found, windows=tuple(twice)))
    assert one.width == two.width == WIDTH and two.height > one.height
    assert len(found.strip.pictures) <= 24 and found.strip.wave.shape[1] <= 2000
    assert np.abs(found.strip.wave).max() == pytest.approx(0.5, abs=0.05)
    colours = {colour for _, colour in one.getcolors(1 << 24)}
    assert {(214, 69, 65), (66, 120, 190)} <= colours


# ---- several people ----


def _frames(name: str) -> tuple[np.ndarray, np.ndarray]:
    clip = read_clip(EXAMPLES / f"{name}.mp4", frames=100)
    kept = np.unique(clip.times, return_index=True)[1][:62]
    return clip.frames[kept], clip.wave[: round(62 / 25 * RATE)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First the left one speaks and the right one is still, then the other way round; last, nobody moves."""
    (left, anger), (right, joy) = _frames("angry"), _frames("happy")
    still = [np.repeat(frames[:1], 62, 0) for frames in (left, right)]
    parts = [(left, still[1]), (still[0], right), (still[0], still[1])]
    frames = np.concatenate([np.concatenate(pair, 2) for pair in parts])
    path = tmp_path_factory.mktemp("two") / "two.mp4"
    write_clip(path, frames=frames, fps=25, wave=np.concatenate([anger, joy, joy]))
    return path


def test_each_person_has_a_row_and_whoever_moves_with_the_sound_speaks(model, tower, two: Path) -> None:
    found = read_timeline(*model, two, window=2.48, hop=2.48)
    assert [(row.index, row.person) for row in found.windows] == [(i, p) for i in range(3) for p in (0, 1)]
    assert [row.speaker for row in found.windows] == [0, 0, 1, 1, "unknown", "unknown"]
    assert [row.modalities for row in found.windows[:4]] == [
        ("video", "audio"),
        ("video",),
        ("video",),
        ("video", "audio"),
    ]
    assert [(one.person, one.speaks, one.windows) for one in found.people] == [(0, (0,), 3), (1, (1,), 3)]
    told = {one.text: one.windows for one in found.summary}
    assert told["Person 1 speaks in 1 window."] == (1,) and told["Who speaks cannot be told in 1 window."] == (2,)


def test_a_person_is_cut_out_with_their_own_face(tower, two: Path) -> None:
    crowd = People(tower, 0.5)
    window = next(Windows(two, window=2, hop=2).read(watch=crowd.watch))
    assert isinstance(window, Window) and crowd.between(window.t0, window.t1) == [0, 1]
    frames = window.clip.frames
    middle = frames.shape[2] / 2
    for person in (0, 1):
        boxes = [sight.box for sight in crowd.sights if sight.person == person]
        assert all((box[0] + box[2] < 2 * middle) == (person == 0) for box in boxes)
        cut = crowd.around(person, 0.0, window.clip).frames
        half = cut.shape[1] // 2
        patch = cut[0, half - 8 : half + 8, half - 8 : half + 8]  # is in that half of the picture as it was
        views = np.lib.stride_tricks.sliding_window_view(frames[0], (16, 16, 3))[:, :, 0]
        places = np.argwhere((views == patch).all((2, 3, 4)))
        assert len(places) == 1 and (places[0][1] < middle) == (person == 0)


def test_one_person_is_no_crowd(model, tower) -> None:
    found = read_timeline(*model, EXAMPLES / "happy.mp4", window=1, hop=1)
    assert not found.people and {row.person for row in found.windows} == {None}


# ---- memory ----


def _growth(source: Path, folder: Path, seconds: int, *how: object) -> float:
    """Peak memory after a clip of so many seconds against that after one of a minute before it, in one process."""
    clips = [looped(source, folder / f"{length}.mp4", length) for length in (60, seconds)]
    command = [sys.executable, str(ROOT / "tests/long_clip.py"), *map(str, how), *map(str, clips)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    (short, *_), (long, _, length, *_) = (map(float, line.split()) for line in done.stdout.splitlines())
    assert length == pytest.approx(seconds, abs=2)
    return long / short


def test_ten_minutes_need_no_more_memory_than_one(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "s.mp4", pictures=20, fps=2, size=(32, 32), rate=16_000)
    assert _growth(source, tmp_path, 600, "tiny", 20, 20) < HOUR


@pytest.mark.slow
def test_an_hour_needs_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    assert _growth(EXAMPLES / "angry.mp4", tmp_path, 3600, "default", 8, 8) < HOUR


# ---- the command ----


@pytest.fixture
def run(model, monkeypatch, capsys):
    """The command line with the tiny model; gives exit code, stdout, stderr."""
    loads: list[str] = []
    monkeypatch.setattr(cli, "_load", lambda name, *_: loads.append(name) or model)

    def ran(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["timeline", *map(str, arguments)])
        return code, *capsys.readouterr()

    ran.loads = loads
    return ran


def test_the_command_prints_rows_and_sentences_or_one_object(run, talk: Path, tmp_path: Path) -> None:
    code, out, err = run(talk, "--plot", tmp_path / "t.png")
    assert (code, err) == (0, "") and (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    lines = out.splitlines()
    assert lines[0].startswith("   0  0:00–0:04") and lines[4] == "" and lines[5].endswith("[windows 0–3]")
    code, out, err = run(talk, "--json", "--labels", "calm,angry")
    row = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1) and row["clip"] == str(talk) and row["model"] == "default"
    assert set(row["windows"][0]["labels"]) == {"calm", "angry"} and len(row["windows"]) == 4


def test_faults_are_one_line_and_found_before_the_model_is_loaded(run, talk: Path, tmp_path: Path) -> None:
    for arguments in (
        (talk, "--window", "0"),
        (talk, "--hop", "-1"),
        (talk, "--window", "1", "--hop", "2"),
        (talk, "--max-seconds", "3"),
        (talk, "--max-bytes", "10"),
        (talk, "--no-audio", "--no-video"),
        (talk, "--labels", "x"),
        (talk, "--plot", tmp_path / "no/such/t.png"),
        (tmp_path / "none.mp4",),
        (tmp_path,),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and err.startswith("omni: ") and err.count("\n") == 1, arguments
    assert run.loads == []


def test_an_interrupt_ends_it_cleanly(run, talk: Path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("omni.timeline.timeline._read", interrupted)
    code, out, err = run(talk)
    assert (code, out) == (130, "") and err.startswith("omni: interrupted")


def test_reasons_are_those_of_the_surest_window_and_their_times_are_of_the_clip() -> None:
    from omni.evidence import Evidence
    from omni.timeline.timeline import _with_reasons

    claim = Evidence("A smile.", "face", "smile", 1, "supported", 0.5, 1.5)
    answer = Answer("happy", 0.9, {"happy": 0.9}, "A smile.", "", True, ("video",), evidence=(claim,))
    passage = Passage(4.0, 8.0, None, (2,), "happy", 0.9, {"happy": 0.9}, 2)
    moved = _with_reasons(passage, 4.0, answer)
    assert moved.thought == "A smile." and (moved.evidence[0].t0, moved.evidence[0].t1) == (4.5, 5.5)
