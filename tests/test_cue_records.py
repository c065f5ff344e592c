"""`omni cues`: records of faces and voices in time, on made voices, made faces and the example clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.expressions import ActionUnit
from omni.clip import Clip
from omni.cues.face import FACS, Face, Person, followed, head_angles
from omni.cues.plot import WIDTH, cue_plot
from omni.cues.reader import reader
from omni.cues.record import CueRecord, events
from omni.cues.speech import voice_records
from omni.cues.timeline import APART, MOST, cue_timeline, read_closely

EXAMPLES = Path(__file__).parent.parent / "examples" / "clips"
UPRIGHT = np.array([[-0.5, -0.472], [0.5, -0.472], [0.1, 0.13], [-0.417, 0.583], [0.417, 0.583]])


def spoken(*parts: tuple[float, float]) -> np.ndarray:
    """Vowels of (hertz, seconds), or silence at 0 Hz."""
    pieces = []
    for hertz, seconds in parts:
        t = np.arange(int(16000 * seconds)) / 16000
        pieces.append(sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 8)) if hertz else 0 * t)
    return (0.1 * np.concatenate(pieces)).astype(np.float32)


def named(records: list[CueRecord], cue: str) -> list[CueRecord]:
    return [record for record in records if record.cue == cue]


# events


def test_an_event_is_a_run_that_reaches_the_limit_and_nothing_below_its_half() -> None:
    values = np.random.default_rng(0).normal(size=500).cumsum() / 5
    values[100:110] = np.nan
    found = list(events(values, 1.0))
    assert found
    for onset, apex, offset in found:
        run = values[onset : offset + 1]
        assert (run >= 0.5).all() and values[apex] == run.max() >= 1.0
        assert all(not values[i] >= 0.5 for i in (onset - 1, offset + 1) if 0 <= i < len(values))
    reached = {i for i in np.flatnonzero(values >= 1.0)}
    assert reached <= {i for onset, _, offset in found for i in range(onset, offset + 1)}


# people and heads


def face(x: float, width: float = 10.0) -> Face:
    return Face(np.array([x, 0, x + width, width]), np.zeros((5, 2)), np.zeros(1))


def numbers(people: list[Person]) -> list[list[int]]:
    return [person.frames for person in people]


def test_people_keep_their_numbers_whatever_the_order_in_which_the_detector_finds_them() -> None:
    frames = [[face(0 + t), face(100 - t)][:: 1 if t % 2 else -1] for t in range(5)]
    people = followed(frames)
    assert numbers(people) == [list(range(5))] * 2
    assert all(abs(np.diff([f.box[0] for f in person.faces])).max() == 1 for person in people)


def test_who_comes_back_to_the_same_place_is_the_same_and_who_stands_elsewhere_is_new() -> None:
    frames = [[face(0)], [], [face(2)], [face(2), face(80)], [face(200)]]
    assert numbers(followed(frames)) == [[0, 2, 3], [3], [4]]
    assert numbers(followed([[face(0)], [face(0, width=60)]])) == [[0], [1]]  # much nearer to the camera


def test_a_mirrored_head_turns_and_tilts_the_other_way_and_nods_the_same() -> None:
    turned = UPRIGHT @ np.array([[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]])
    mirrored = (turned * [-1, 1])[[1, 0, 2, 4, 3]]
    turn, nod, tilt = head_angles(turned)
    assert head_angles(mirrored) == pytest.approx((-turn, nod, -tilt))
    assert turn > 5 and tilt == pytest.approx(np.degrees(0.2))


def test_place_and_size_of_a_face_do_not_turn_its_head() -> None:
    assert head_angles(UPRIGHT * 40 + 100) == pytest.approx(head_angles(UPRIGHT))
    lower = UPRIGHT.copy()
    lower[2, 1] += 0.2
    assert head_angles(lower)[1] > head_angles(UPRIGHT)[1] + 10


def test_every_unit_of_the_reader_has_its_name() -> None:
    assert set(reader().units) == set(FACS)


# voices


def test_phrases_and_the_pause_between_them_are_where_they_were_spoken() -> None:
    records = voice_records(spoken((0, 0.5), (120, 1.0), (0, 0.6), (180, 0.8), (0, 0.4)))
    first, second = named(records, "pitch")
    assert (first.value, second.value) == (pytest.approx(120, rel=0.01), pytest.approx(180, rel=0.01))
    assert (first.t0, first.t1) == pytest.approx((0.5, 1.5), abs=0.06)
    (pause,) = named(records, "pause")
    assert (pause.t0, pause.t1, pause.value) == pytest.approx((1.5, 2.1, 0.6), abs=0.1)


def test_a_sound_too_short_for_a_phrase_stands_between_two_pauses_and_in_none() -> None:
    records = voice_records(spoken((150, 1.0), (0, 0.3), (150, 0.25), (0, 0.2), (150, 1.0)))
    assert len(named(records, "speech")) == 2
    pauses = [at for record in named(records, "pause") for at in (record.t0, record.t1)]
    assert pauses == pytest.approx([1.0, 1.3, 1.55, 1.75], abs=0.05)


def test_silence_before_and_after_all_phrases_is_no_pause() -> None:
    wave = spoken((150, 0.1), (0, 0.3), (150, 1.0), (0, 0.3), (150, 0.1))
    assert not named(voice_records(wave), "pause")


def test_a_voice_that_glides_has_the_slope_of_its_glide() -> None:
    t = np.arange(16000) / 16000
    phase = 2 * np.pi * 120 * (2 ** (0.5 * t) - 1) / (0.5 * np.log(2))  # six semitones in a second
    wave = sum(np.sin(k * phase) / k for k in range(1, 8))
    (slope,) = named(voice_records((0.1 * wave).astype(np.float32)), "pitch slope")
    assert slope.value == pytest.approx(6, abs=0.5) and slope.strength > 1


def test_in_a_long_clip_a_phrase_is_held_against_the_speaker_s_own_median() -> None:
    wave = spoken(*[part for hertz in (120, 118, 122, 170, 119) for part in ((hertz, 1.5), (0, 0.4))])
    records = voice_records(wave)
    (high,) = named(records, "pitch high")
    assert (high.t0, high.value) == (pytest.approx(5.7, abs=0.1), pytest.approx(6, abs=0.3))
    loudness = named(records, "loudness")
    assert len(loudness) == 5 and all(record.strength < 1 for record in loudness)
    short = voice_records(wave[: 2 * 16000])
    assert named(short, "loudness")[0].strength == 0  # it says nothing across recordings


@pytest.mark.parametrize("wave", [np.zeros(16000), np.random.default_rng(0).normal(0, 0.1, 16000), np.zeros(10)])
def test_a_sound_without_a_voice_is_one_record(wave: np.ndarray) -> None:
    (record,) = voice_records(wave.astype(np.float32))
    assert (record.cue, record.person, record.strength) == ("no voice", None, 0.0)


# the picture


def test_the_picture_has_a_row_for_each_cue_of_each_person() -> None:
    records = [
        CueRecord("face", person, 0.0, 2.0, cue, 0.8, "intensity", 2.0, 1.0)
        for person in (0, 1)
        for cue in ("face", "AU12 lip corner puller")
    ]
    clip = Clip(frames=np.zeros((2, 40, 60, 3), np.uint8), times=np.array([0.0, 1.0]), duration=2.0)
    small, large = cue_plot(clip, records[:2]), cue_plot(clip, records)
    assert small.width == large.width == WIDTH and large.height > small.height
    assert cue_plot(Clip(wave=np.ones(160, np.float32)), [CueRecord("voice", None, 0, 0, "no voice", 0, "", 0)])


# clips


def test_frames_are_close_enough_for_action_units_and_never_too_many() -> None:
    clip = read_closely(EXAMPLES / "happy.mp4")
    assert clip.frames is not None and len(clip.frames) == len(clip.times) <= MOST
    assert np.diff(clip.times).min() >= APART - 1e-3 and np.diff(clip.times).max() < 2 * APART


def test_two_people_are_told_apart_and_each_has_the_face_of_their_own_clip(tower) -> None:
    left, right = (read_closely(EXAMPLES / f"{name}.mp4") for name in ("angry", "happy"))
    count = min(len(left.frames), len(right.frames))
    both = Clip(np.concatenate([left.frames[:count], right.frames[:count]], 2), left.times[:count], duration=2.5)
    found = {(record.person, record.cue.split()[0]) for record in cue_timeline(both)}
    assert {(0, "AU4"), (1, "AU12"), (0, "face"), (1, "face")} <= found
    assert not {(1, "AU4"), (0, "AU12")} & found and {person for person, _ in found} == {0, 1}


def test_events_begin_and_end_when_the_muscles_do(tower) -> None:
    """Where the known intensity passes its half, within three frames; over all clips .07 s and .06 s, median."""
    late = []
    for clip in sorted(EXAMPLES.glob("*.mp4"))[::2]:
        truth = json.loads(clip.with_suffix(".json").read_text())
        units = {name: ActionUnit(**unit) for name, unit in truth["action_units"].items()}
        at = np.arange(0, truth["duration"], 0.02)
        for record in cue_timeline(replace(read_closely(clip), wave=None)):
            unit = units.get(record.cue.split()[0])
            if unit is not None:
                on = at[[unit.strength(t) >= unit.intensity / 2 for t in at]]
                late.append((abs(record.t0 - on[0]), abs(record.t1 - on[-1])))
    assert len(late) >= 10
    assert (np.median(late, 0) < 0.12).all() and (np.quantile(late, 0.9, 0) < 0.3).all()


def test_what_is_known_of_the_example_is_measured_when_it_happens(tower) -> None:
    records = cue_timeline(EXAMPLES / "angry.mp4")
    (frown,) = named(records, "AU4 brow lowerer")
    assert frown.apex is not None and 0.5 < frown.t0 < frown.apex <= frown.t1 <= 3.1 and frown.strength > 2
    assert named(records, "pitch high") and not named(records, "AU12 lip corner puller")
    assert [record.t0 for record in records] == sorted(record.t0 for record in records)


def test_a_dark_and_a_faceless_picture_are_records_and_no_error(tower) -> None:
    clip = replace(read_closely(EXAMPLES / "happy.mp4"), wave=None)
    dark = replace(clip, frames=(clip.frames * 0.03).astype(np.uint8))
    noise = replace(clip, frames=np.random.default_rng(0).integers(0, 255, clip.frames.shape, np.uint8))
    for faceless in (dark, noise):
        (record,) = cue_timeline(faceless)
        assert (record.cue, record.person, record.t1) == ("no face", None, clip.duration)
