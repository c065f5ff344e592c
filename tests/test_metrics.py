"""Metrics: parity with scikit-learn, and the edge cases that are decided in omni/metrics.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare_runs
from omni.emotions import EKMAN7, OUR_WHEELS, EmotionWheels, label_space
from omni.errors import LabelError
from omni.metrics import (
    Score,
    bootstrap,
    brier,
    class_metrics,
    confusion,
    ece,
    f1,
    interval,
    published_wheel,
    recalls,
    reliability,
    resample_classes,
    score_answer,
    strict_wheel,
    uar,
    war,
    wheel_score,
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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")  # scikit-learn's note, not a difference
@pytest.mark.parametrize("seed", range(20))
def test_class_metrics_are_those_of_scikit_learn_on_random_input(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    labels = list(label_space("mafw11").labels)
    size = int(rng.integers(5, 400))
    truth = rng.choice(labels, size, p=rng.dirichlet(np.full(11, 0.5))).tolist()
    given = np.where(rng.random(size) < 0.5, truth, rng.choice([*labels, "none"], size)).tolist()
    prediction = [None if word == "none" else word for word in given]  # 1 of 24 answers cannot be parsed
    known = {"labels": labels, "zero_division": 0}
    assert war(truth, prediction, labels) == pytest.approx(sklearn.accuracy_score(truth, given))
    assert uar(truth, prediction, labels) == pytest.approx(sklearn.balanced_accuracy_score(truth, given))
    assert f1(truth, prediction, labels, "weighted") == pytest.approx(
        sklearn.f1_score(truth, given, average="weighted", **known)
    )
    occur = sorted({*truth, *given} - {"none"})
    assert f1(truth, prediction, labels) == pytest.approx(
        sklearn.f1_score(truth, given, average="macro", labels=occur, zero_division=0)
    )
    recall = dict(zip(labels, sklearn.recall_score(truth, given, average=None, **known), strict=True))
    assert recalls(truth, prediction, labels) == pytest.approx({label: recall[label] for label in set(truth)})
    assert (
        confusion(truth, prediction, labels).tolist()
        == sklearn.confusion_matrix(truth, given, labels=[*labels, "none"])[:-1].tolist()
    )


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_that_of_scikit_learn_on_random_input(seed: int) -> None:
    pytest.importorskip("sklearn")
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    rng = np.random.default_rng(seed)
    labels = list(EKMAN7)
    scores = rng.dirichlet(np.full(7, 0.4), 300)  # (N, K)
    truth = [labels[i] for i in rng.integers(7, size=300)]
    right = np.array([labels[i] for i in scores.argmax(1)]) == truth
    confidence = scores.max(1)
    shares, means = calibration_curve(right, confidence, n_bins=15)
    curve = reliability(right, confidence)
    assert [one.right for one in curve] == pytest.approx(shares)
    assert [one.confidence for one in curve] == pytest.approx(means)
    weight = np.array([one.clips for one in curve]) / 300
    assert ece(right, confidence) == pytest.approx(float(weight @ np.abs(shares - means)))
    order = np.argsort(labels)  # scikit-learn takes the columns in the order of the alphabet
    whole = brier_score_loss(truth, scores[:, order], labels=sorted(labels), scale_by_half=False)
    given = [dict(zip(labels, map(float, row), strict=True)) for row in scores]
    assert brier(truth, given, labels) == pytest.approx(whole)


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
    for (right, total), limits in published.items():
        assert wilson(right, total, z=1.959964) == pytest.approx(limits, abs=5e-5)


def test_the_bootstrap_is_seeded_and_holds_the_value() -> None:
    truth, prediction = sample()
    interval = bootstrap(uar, truth, prediction, "ekman7", resamples=200)
    assert interval == bootstrap(uar, truth, prediction, "ekman7", resamples=200)
    assert interval.low < uar(truth, prediction, "ekman7") < interval.high


def test_resampled_metrics_are_those_of_the_resampled_clips() -> None:
    truth, prediction = sample()
    drawn = resample_classes(truth, prediction, "ekman7", resamples=200)
    assert interval(drawn.uar) == bootstrap(uar, truth, prediction, "ekman7", resamples=200)
    assert interval(drawn.f1_weighted) == bootstrap(
        lambda t, p, k: f1(t, p, k, "weighted"), truth, prediction, "ekman7", resamples=200
    )


def test_two_models_are_resampled_on_the_same_clips() -> None:
    truth, prediction = sample()
    better = [t if i % 10 == 0 else p for i, (t, p) in enumerate(zip(truth, prediction, strict=True))]
    gain = resample_classes(truth, better, "ekman7").war - resample_classes(truth, prediction, "ekman7").war
    assert gain.min() >= 0  # on every resample, since no clip got worse
    counts = np.stack([confusion(truth, side, "ekman7") for side in (prediction, better)])
    assert class_metrics(counts).war.tolist() == [war(truth, prediction, "ekman7"), war(truth, better, "ekman7")]


# emotion wheels

AMBIGUOUS = EmotionWheels(
    "test",
    {"upset": ("sad", "angry"), "angry": ("angry",), "mad": ("angry",), "sad": ("sad",), "calm": ("calm",)},
    {"one": {"angry": "anger", "sad": "sadness"}, "two": {"angry": "hot", "sad": "cold"}},
)


def test_the_published_wheel_score_is_its_formula_on_a_worked_example() -> None:
    # wheel "one", clips 1 and 2 (the truth of 3 lies on no wheel): P = (1/1 + 1/2)/2, R = (1/2 + 1/1)/2; "two" the same
    truth, answers = ["angry, sad", "sad", "calm"], ["mad", "sad, angry, flarb", "angry"]
    found = published_wheel(truth, answers, AMBIGUOUS)
    assert found is not None
    assert found[:5] == (0.75, 0.75, 0.75, 2, 1)
    assert found.mean_length == pytest.approx(5 / 3) and found.mean_true_length == pytest.approx(4 / 3)


def test_f_is_that_of_the_means_and_not_the_mean_of_fs() -> None:
    found = published_wheel(["angry", "sad"], ["angry, sad", "angry"], AMBIGUOUS)
    assert found is not None and (found.precision, found.recall) == (0.25, 0.5)
    assert found.f1 == pytest.approx(2 * 0.25 * 0.5 / 0.75)  # the mean of the clips' own would be (2/3 + 0)/2 = 1/3
    assert published_wheel(["angry"], ["sad"], AMBIGUOUS) == (0.0, 0.0, 0.0, 1, 0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("hole", "truth", "honest", "gamed"),
    [
        ("unknown words are free", "angry, sad", "angry, sad", "angry, sad, flarb, wibble"),
        ("synonyms are free", "angry", "angry", "angry, furious, mad, irate"),
        ("a word for each sector has full recall", "fear", "fear", "angry, disgust, fear, happy, sad, surprise, calm"),
    ],
)
def test_a_list_that_the_published_score_does_not_punish_costs_in_the_strict_one(hole, truth, honest, gamed) -> None:
    published = [published_wheel([truth], [answer]) for answer in (honest, gamed)]
    strict = [strict_wheel([truth], [answer]) for answer in (honest, gamed)]
    assert published[0].recall == published[1].recall == 1.0, hole
    assert strict[0].f1 == 1.0 and strict[1].f1 <= 0.5 and strict[1].recall <= 0.5, hole
    assert strict[1].mean_length > strict[0].mean_length


def test_a_clip_with_unknown_truth_leaves_the_published_test_set_and_not_the_strict_one() -> None:
    truth, answers = ["angry", "flarb"], ["angry", "happy"]
    published, strict = published_wheel(truth, answers), strict_wheel(truth, answers)
    assert published is not None and strict is not None
    assert (published.f1, published.clips, published.left_out) == (1.0, 1, 1)
    assert (strict.f1, strict.clips, strict.left_out) == (0.5, 2, 0)
    assert published_wheel(["flarb"], ["flarb"]) is None and strict_wheel([None], ["angry"]) is None


def test_a_word_of_two_sectors_counts_for_the_alphabet_as_published_and_for_itself_alone_when_strict() -> None:
    assert AMBIGUOUS.sectors("upset", "one") == ("anger", "sadness")
    assert published_wheel(["upset"], ["angry"], AMBIGUOUS).f1 == 1.0
    assert published_wheel(["upset"], ["sad"], AMBIGUOUS).f1 == 0.0
    assert wheel_score("upset", "angry", AMBIGUOUS) == wheel_score("upset", "sad", AMBIGUOUS) == (0.0, 0.0)
    assert wheel_score("upset", "upset", AMBIGUOUS) == (1.0, 1.0)


def test_without_a_sector_a_word_matches_its_synonyms_and_an_unknown_one_only_itself_when_strict() -> None:
    assert not OUR_WHEELS.sectors("pity", "ekman")
    assert wheel_score("pity", "compassion") == wheel_score("flarb", "flarb") == (1.0, 1.0)
    assert wheel_score("flarb", "wibble") == (0.0, 0.0)


def test_with_one_true_word_recall_is_the_hit_rate() -> None:
    def hit(true: str, words: list[str], wheel: str) -> bool:
        return OUR_WHEELS.sectors(true, wheel)[0] in [OUR_WHEELS.sectors(word, wheel)[0] for word in words]

    clips = [("angry", ["mad", "sad"]), ("happy", ["sad"]), ("sad", ["grief"]), ("disgust", ["angry", "happy"])]
    hits = [hit(true, words, wheel) for wheel in OUR_WHEELS.wheels for true, words in clips]
    found = published_wheel([true for true, _ in clips], [", ".join(words) for _, words in clips])
    assert found.recall == pytest.approx(np.mean(hits)) == pytest.approx((2 + 2 + 3) / 12)  # Shaver: disgust is anger


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


# comparing runs


def run_file(path: Path, **fields: object) -> Path:
    """What `benchmarks/eval_default.py` writes, as far as `compare_runs.py` reads it; None leaves a field out."""
    found: dict[str, object] = {"truth": ["angry", "sad"], "sha256": ["a", "b"], "no-think labels": ["angry", "sad"]}
    found |= {"think labels": ["angry", "angry"], "claims": {"precision": 0.5, "per rationale": 2.0}} | fields
    path.write_text(json.dumps({"held-out actors": {k: v for k, v in found.items() if v is not None}}))
    return path


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"sha256": ["a", "c"]}, "other clips or labels than .+ from one TEST.jsonl"),
        ({"sha256": None}, "does not say which clips .+ Write it again with eval_default.py"),
    ],
)
def test_runs_on_other_clips_with_the_same_labels_are_not_compared(fields, advice: str, tmp_path: Path) -> None:
    cold, other = run_file(tmp_path / "cold.json"), run_file(tmp_path / "other.json", **fields)
    with pytest.raises(SystemExit, match=f"other.json .*{advice}"):
        compare_runs.main(cold, [f"grpo={other}"])


@pytest.mark.parametrize("lacking", ["cold", "grpo"])
def test_answers_that_one_run_lacks_are_told_and_the_others_compared(lacking: str, tmp_path: Path, capsys) -> None:
    files = {n: run_file(tmp_path / n, **({"think labels": None} if n == lacking else {})) for n in ("cold", "grpo")}
    compare_runs.main(files["cold"], [f"grpo={files['grpo']}"])
    out, err = capsys.readouterr()
    assert err == f"{files[lacking]} has no think answers and is left out there.\n"
    assert "| grpo | no-think | 1.000" in out and "+0.000" in out and out.count("| think |") == 1
