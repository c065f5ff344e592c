"""Metrics: parity with scikit-learn, and the edge cases that are decided in omni/metrics.py."""

from __future__ import annotations

import numpy as np
import pytest

from omni.emotions import EKMAN7
from omni.errors import LabelError
from omni.metrics import (
    Score,
    bootstrap,
    brier,
    confusion,
    ece,
    f1,
    recalls,
    score_answer,
    uar,
    war,
    wilson,
)

# Made once with scikit-learn 1.9.1 from the data of `sample`, by this script:
#     from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
#     accuracy_score(truth, prediction), balanced_accuracy_score(truth, prediction)
#     f1_score(truth, prediction, average="macro"), f1_score(truth, prediction, average="weighted")
#     confusion_matrix(truth, prediction, labels=EKMAN7)
GOLDEN = {"war": 0.615, "uar": 0.6074599377230957, "f1": 0.4917490706764556, "waf": 0.6471644119850101}
GOLDEN_CONFUSION = [
    [34, 5, 6, 3, 3, 3, 3],
    [0, 7, 2, 1, 0, 0, 1],
    [0, 0, 11, 3, 4, 2, 0],
    [1, 3, 1, 40, 3, 7, 5],
    [4, 3, 3, 4, 25, 2, 1],
    [2, 1, 0, 0, 0, 6, 1],
    [0, 0, 0, 0, 0, 0, 0],
]


def sample() -> tuple[list[str], list[str]]:
    """200 labels without "neutral" in the truth, and predictions that are right about two times in three."""
    rng = np.random.default_rng(7)
    truth = rng.choice(EKMAN7[:6], 200, p=[0.3, 0.05, 0.1, 0.3, 0.2, 0.05])
    return truth.tolist(), np.where(rng.random(200) < 0.6, truth, rng.choice(EKMAN7, 200)).tolist()


def test_values_are_those_of_scikit_learn() -> None:
    truth, prediction = sample()
    got = {
        "war": war(truth, prediction, "ekman7"),
        "uar": uar(truth, prediction, "ekman7"),
        "f1": f1(truth, prediction, "ekman7"),
        "waf": f1(truth, prediction, "ekman7", average="weighted"),
    }
    assert got == pytest.approx(GOLDEN, abs=1e-12)
    assert confusion(truth, prediction, "ekman7")[:, :-1].tolist() == GOLDEN_CONFUSION


def test_values_agree_with_scikit_learn_where_it_is_installed() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, prediction = sample()
    assert uar(truth, prediction, "ekman7") == pytest.approx(sklearn.balanced_accuracy_score(truth, prediction))
    assert f1(truth, prediction, "ekman7") == pytest.approx(sklearn.f1_score(truth, prediction, average="macro"))


def test_a_missing_answer_counts_as_wrong_and_is_never_dropped() -> None:
    truth = ["happy"] * 4
    assert war(truth, ["happy", None, "", "joyful?"], "ekman7") == 0.25
    assert confusion(truth, ["happy", None, "", "joyful?"], "ekman7")[3].tolist() == [0, 0, 0, 1, 0, 0, 0, 3]


def test_uar_does_not_change_when_a_class_is_repeated_but_war_does() -> None:
    truth, prediction = ["happy", "happy", "sad"], ["happy", "sad", "sad"]
    more = (truth + ["sad"] * 7, prediction + ["sad"] * 7)
    assert uar(truth, prediction, "ekman7") == uar(*more, "ekman7") == 0.75
    assert war(truth, prediction, "ekman7") < war(*more, "ekman7")


def test_recalls_name_only_classes_of_the_truth() -> None:
    assert recalls(["happy", "sad"], ["happy", "happy"], "ekman7") == {"happy": 1.0, "sad": 0.0}


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 truths but 1 predictions"):
        war(["happy", "sad"], ["happy"], "ekman7")
    with pytest.raises(ValueError, match="no predictions"):
        uar([], [], "ekman7")
    with pytest.raises(LabelError, match="'bored' is not in ekman7"):
        war(["bored"], ["happy"], "ekman7")
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        ece([True], [1.5])
    with pytest.raises(ValueError, match="equally long"):
        ece([True], [0.5, 0.5])
    with pytest.raises(ValueError, match="right"):
        wilson(3, 2)


def test_calibration_of_a_calibrated_model_tends_to_zero_and_of_a_liar_to_its_lie() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(20000)
    assert ece((rng.random(20000) < confidence).tolist(), confidence.tolist()) < 0.02
    assert ece([False] * 100, [1.0] * 100) == 1.0
    assert ece([True, False], [0.0, 0.0]) == 0.5  # 0 lies in the first bin


def test_brier_is_zero_when_sure_and_right_two_when_sure_and_wrong() -> None:
    assert brier(["happy"], [{"happy": 1.0}], "ekman7") == 0.0
    assert brier(["happy"], [{"sad": 1.0}], "ekman7") == 2.0
    assert brier(["happy"], [dict.fromkeys(EKMAN7, 1 / 7)], "ekman7") == pytest.approx(6 / 7)
    with pytest.raises(LabelError):
        brier(["happy"], [{"bored": 1.0}], "ekman7")


def test_wilson_is_the_published_interval() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81/263, 15/148, 0/20, 1/29
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (right, total), interval in published.items():
        assert wilson(right, total, z=1.959964) == pytest.approx(interval, abs=5e-5)


def test_the_bootstrap_is_seeded_and_holds_the_value() -> None:
    truth, prediction = sample()
    interval = bootstrap(uar, truth, prediction, "ekman7", resamples=200)
    assert interval == bootstrap(uar, truth, prediction, "ekman7", resamples=200)
    assert interval.low < uar(truth, prediction, "ekman7") < interval.high


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>Loud.</think><answer>angry</answer>", Score("angry", True, True)),
        ("<answer>Anger</answer>", Score("angry", True, True)),
        ("<answer>sad</answer>", Score("sad", False, True)),
        ("<answer>angry", Score("angry", True, False)),
        ("<answer>angry, sad</answer>", Score(None, False, True)),
        ("angry", Score(None, False, False)),
        ("", Score(None, False, False)),
    ],
)
def test_a_completion_is_scored_by_label_and_by_form(completion: str, score: Score) -> None:
    assert score_answer("angry", completion, "ekman7") == score


def test_a_truth_outside_the_space_is_an_error_not_a_zero() -> None:
    with pytest.raises(LabelError, match="Use angry, disgust"):
        score_answer("bored", "<answer>happy</answer>", "ekman7")
