"""The reader of cues: what it finds in held-out actors, and that it does not decide what it cannot see."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from omni.cues.lexicon import CUES
from omni.cues.reader import READ, CueReader, Linear, facts_of, from_tensors, reader, score, smoothed, to_tensors
from omni.cues.truth import cue_truth

ASSET = Path(__file__).parent / "assets" / "held_out_cues.safetensors"  # made by benchmarks/fit_cues.py --assets


@cache
def held_out() -> list[tuple[dict[str, bool | None], dict[str, float], dict[str, float]]]:
    """Truth, action units at their highest, and shifts of the voice of forty clips that nothing was fitted on."""
    content = ASSET.read_bytes()
    size = int.from_bytes(content[:8], "little")
    facts = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["clips"])
    tensors, found = load(content), []
    for number, known in enumerate(facts):
        detail, times, prosody = (tensors[f"{number}.{name}"] for name in ("detail", "times", "prosody"))
        highest = np.nanmax(reader().intensities(detail, times), 0)
        units = dict(zip(reader().units, highest.tolist(), strict=True))
        found.append((cue_truth(**known), units, reader().voice_shifts(prosody)))
    return found


def verdicts(modality: str) -> list[tuple[bool, bool | None]]:
    """Truth and verdict wherever the truth is known."""
    return [
        (truth[cue.name], reader().verdict(cue, units if modality == "face" else shifts))
        for truth, units, shifts in held_out()
        for cue in READ
        if cue.modality == modality and truth[cue.name] is not None
    ]


# Two or three clips below what was measured: face .915, .663, .990; voice .943, .311, .963.
@pytest.mark.parametrize(
    ("modality", "precision", "recall", "absent_precision"), [("face", 0.88, 0.62, 0.97), ("voice", 0.88, 0.27, 0.93)]
)
def test_on_held_out_actors_the_reader_stays_above_its_floor(modality, precision, recall, absent_precision) -> None:
    found = verdicts(modality)
    there = [truth for truth, verdict in found if verdict is True]
    away = [truth for truth, verdict in found if verdict is False]
    assert sum(there) >= precision * len(there)
    assert sum(there) >= recall * sum(truth for truth, _ in found)
    assert away.count(False) >= absent_precision * len(away)


@pytest.mark.parametrize("name", ["brow_inner_up", "brow_down", "smile", "nose_wrinkle"])
def test_the_clearest_cues_of_a_face_are_nearly_always_right(name: str) -> None:
    found = [(truth[name], reader().verdict(CUES[name], units)) for truth, units, _ in held_out()]
    known = [(truth, verdict) for truth, verdict in found if truth is not None and verdict is not None]
    assert len(known) >= 30 and sum(truth == verdict for truth, verdict in known) >= 0.95 * len(known)


def test_the_wrong_clip_is_read_wrong() -> None:
    """What the floor would be worth if the features did not matter."""
    shifted = held_out()[1:] + held_out()[:1]
    faces = [cue for cue in READ if cue.modality == "face" and cue.direction]
    found = [
        truth[cue.name]
        for (truth, _, _), (_, units, _) in zip(held_out(), shifted, strict=True)
        for cue in faces
        if truth[cue.name] is not None and reader().verdict(cue, units)
    ]
    assert sum(found) < 0.5 * len(found)


def test_between_the_limits_a_cue_is_unknown_and_a_missing_measure_decides_nothing() -> None:
    cue, limits = CUES["eye_wide"], reader().limits["eye_wide"]
    at = lambda multiple: reader().verdict(cue, {"AU5": 0.35 * multiple})  # noqa: E731
    assert (at(limits.present + 0.01), at(limits.absent - 0.01)) == (True, False)
    assert at((limits.present + limits.absent) / 2) is None and reader().verdict(cue, {}) is None


def test_parted_lips_are_never_called_closed() -> None:
    assert reader().verdict(CUES["lips_part"], {"AU25": 0.0, "AU26": 0.0}) is None


def test_a_face_is_still_only_below_the_limit_of_every_unit() -> None:
    calm = {name: 0.0 for name in reader().units}
    assert score(CUES["face_still"], calm) == 0 > score(CUES["face_still"], calm | {"AU9": -0.2})
    assert reader().verdict(CUES["face_still"], calm) is True
    assert reader().verdict(CUES["face_still"], calm | {"AU4": 0.9}) is False


def test_a_blink_is_smoothed_away_and_a_frame_without_a_face_stays_unknown() -> None:
    times = np.arange(20) / 10
    blink, held = np.zeros((20, 1)), np.zeros((20, 1))
    blink[10], held[6:16] = 1.0, 1.0
    assert smoothed(blink, times).max() < 0.3 and smoothed(held, times).max() > 0.95
    times[4] = np.nan
    assert np.isnan(smoothed(held, times)).ravel().nonzero()[0].tolist() == [4]


def test_a_reader_is_read_back_as_it_was_kept(tmp_path: Path) -> None:
    from safetensors.numpy import save

    tensors, facts = to_tensors(reader())
    content = save(tensors, metadata={"reader": json.dumps(facts)})
    again = from_tensors(load(content), facts_of(content))
    assert again.limits == reader().limits and again.units == reader().units
    assert math.isinf(again.limits["chin_up"].present)  # a limit that is never reached
    for a, b in zip((*again.face, *again.voice), (*reader().face, *reader().voice), strict=True):
        np.testing.assert_array_equal(a, b)


def test_outliers_move_a_reading_no_further_than_six_deviations() -> None:
    linear = Linear(np.zeros(1), np.ones(1), np.ones((1, 1)), np.zeros(1))
    assert linear(np.array([[3.0], [1e9]])).ravel().tolist() == [3.0, 6.0]
    assert isinstance(reader(), CueReader)
