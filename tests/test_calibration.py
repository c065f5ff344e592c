"""Confidence: temperatures that calibrate, thresholds that abstain, and where they are kept."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from omni.calibration import (
    UNCERTAIN,
    Calibration,
    Point,
    abstained,
    aurc,
    calibrate,
    fit_temperature,
    folder_of,
    read_calibration,
    risk_coverage,
    tempered,
    write_calibration,
)
from omni.emotions import label_space
from omni.errors import OmniError
from omni.features import encode_clip
from omni.generate import ask_text, build_inputs, reason, score_labels
from omni.tiny import tiny
from tests.clips import CLIPS

CURVE = {"think": [Point(0.9, 0.25, 0.0), Point(0.6, 0.5, 0.1), Point(0.4, 1.0, 0.3)]}


@pytest.fixture(scope="module")
def parts():
    return tiny()


def test_the_fitted_temperature_is_the_one_that_made_the_model_too_sure() -> None:
    rng = np.random.default_rng(0)
    true = rng.dirichlet([1.0] * 3, 20_000)
    truth = ["abc"[rng.choice(3, p=p)] for p in true]
    sure = [tempered(dict(zip("abc", p, strict=True)), 1 / 3) for p in true]
    assert fit_temperature(truth, sure) == pytest.approx(3.0, rel=0.05)


def test_a_temperature_changes_how_sure_but_not_which() -> None:
    labels = {"sad": 0.7, "happy": 0.2, "fear": 0.1}
    warm = tempered(labels, 4.0)
    assert sum(warm.values()) == pytest.approx(1.0) and warm["sad"] < 0.7
    assert sorted(warm, key=warm.__getitem__) == sorted(labels, key=labels.__getitem__)


def test_each_mode_of_an_answer_has_its_own_temperature(parts) -> None:
    model, processor = parts
    clip, space = encode_clip(*parts, CLIPS[0]), label_space("angry,happy,sad")
    for think in (True, False):
        inputs = build_inputs(*parts, [clip], [ask_text(processor, clip, None, space, think)])
        plain = score_labels(*parts, inputs, ["<answer>"], space)[0]
        model.calibration = Calibration({"think": 5.0, "no-think": 2.0})
        found = reason(*parts, clip, labels=space, think=think, max_new_tokens=3)
        del model.calibration
        assert found.labels == pytest.approx(tempered(plain, 5.0 if think else 2.0), abs=1e-5)


def test_the_surest_clips_come_first_and_ties_share_a_risk() -> None:
    right, confidence = [True, False, True, False], [0.5, 0.9, 0.9, 0.1]
    assert [(p.coverage, round(p.risk, 3)) for p in risk_coverage(right, confidence)] == [
        (0.5, 0.5),
        (0.75, 0.333),
        (1.0, 0.5),
    ]
    assert aurc(right, confidence) == pytest.approx(0.5 * 0.5 + 0.25 / 3 + 0.25 * 0.5)


def test_the_threshold_of_a_risk_keeps_as_many_clips_as_it_can() -> None:
    found = Calibration({}, CURVE)
    assert [found.threshold("think", risk) for risk in (0.0, 0.2, 0.5)] == [0.9, 0.6, 0.4]
    with pytest.raises(OmniError, match="omni calibrate"):
        found.threshold("no-think", 0.1)
    with pytest.raises(OmniError, match=r"--max-risk 0\.10 or more"):
        Calibration({}, {"think": CURVE["think"][1:]}).threshold("think", 0.05)


def test_what_is_written_is_read_again_and_a_folder_without_it_changes_nothing(tmp_path) -> None:
    found = Calibration({"think": 5.4, "no-think": 1.4}, CURVE, 4)
    write_calibration(found, tmp_path / "calibration.json")
    assert read_calibration(tmp_path) == found
    assert read_calibration(tmp_path / "none").of("think") == 1.0


def test_the_default_model_has_a_calibration_of_both_modes() -> None:
    found = read_calibration(folder_of("default"))
    assert found.of("think") > 1 and found.of("no-think") > 1
    assert 0 < found.threshold("think", 0.2) < 1


def test_calibrating_on_the_answers_of_a_run_finds_how_wrong_they_are_and_can_be_repeated(
    tmp_path, monkeypatch
) -> None:
    """The answers are given here as `omni eval` gives them: with thinking all are sure and a quarter of them wrong."""
    folder, run = tmp_path / "model", tmp_path / "run"
    folder.mkdir()

    def answered(*_, **__) -> SimpleNamespace:
        answers = []
        for mode, sure in (("think", 0.99), ("no-think", 0.75)):
            labels = tempered({"sad": sure, "happy": 1 - sure}, read_calibration(folder).of(mode))
            row = {"status": "ok", "mode": mode, "labels": labels, "label": "sad", "truth": "sad"}
            answers += [(mode, SimpleNamespace(truth=truth), row) for truth in ("sad", "sad", "sad", "happy", None)]
        return SimpleNamespace(answers=answers)

    monkeypatch.setattr("omni.evaluation.evaluate", answered)
    found = calibrate(tmp_path / "m.jsonl", str(folder), run)
    assert found.of("no-think") == pytest.approx(1.0, abs=1e-3) and found.clips == 4
    assert max(tempered({"sad": 0.99, "happy": 0.01}, found.of("think")).values()) == pytest.approx(0.75, abs=1e-3)
    assert found.threshold("think", 0.25) == pytest.approx(0.75, abs=1e-3)
    write_calibration(found, folder / "calibration.json")
    again = calibrate(tmp_path / "m.jsonl", str(folder), run)
    assert again.of("think") == pytest.approx(found.of("think"), rel=1e-3)


@pytest.mark.parametrize(("truth", "said"), [("sad", "all right"), ("happy", "no better than chance")])
def test_answers_that_tell_nothing_of_confidence_are_refused(tmp_path, monkeypatch, truth, said) -> None:
    row = {"status": "ok", "labels": {"sad": 0.6, "happy": 0.4}, "label": "sad"}
    answers = [(mode, SimpleNamespace(truth=truth), row) for mode in ("think", "no-think")]
    monkeypatch.setattr("omni.evaluation.evaluate", lambda *_, **__: SimpleNamespace(answers=answers))
    with pytest.raises(OmniError, match=said):
        calibrate(tmp_path / "m.jsonl", str(tmp_path), tmp_path)


def test_an_unsure_answer_is_uncertain_and_keeps_its_probabilities(parts) -> None:
    answer = replace(reason(*parts, CLIPS[0], max_new_tokens=2), confidence=0.4)
    assert abstained(answer, 0.4) == answer
    assert abstained(answer, 0.41) == replace(answer, label=UNCERTAIN)
