"""What a set of predictions is worth, and what one completion is worth.

Letters: `N` clips, `K` labels of the space, n_jk clips of class j that were called k, R_j = n_jj / Σ_k n_jk
the recall and P_j = n_jj / Σ_i n_ij the precision of class j.

    WAR    Σ_j n_jj / N                               weighted average recall, which is accuracy
    UAR    mean_j R_j                                 over the classes that occur in the truth
    F1     mean_j 2 P_j R_j / (P_j + R_j)             over the classes that occur in truth or prediction
    ECE    Σ_b |B_b|/N · |right(B_b) − conf(B_b)|     15 equal bins of the confidence (Guo et al. 2017)
    Brier  mean_i Σ_k (p_ik − [truth_i = k])²         in [0, 2] (Brier 1950)

Truth comes before prediction, always. A prediction that is None, or no label of the space, is a wrong answer
of no class: it lowers recall and lands in the last column of `confusion`; it is never dropped, since dropping
it would reward a model for malformed answers. A truth outside the space is an error. HumanOmni's released UAR
averages over the union of true and predicted classes, which deflates it; ours is R1-Omni's and
scikit-learn's.

`score_answer` is the one scorer of a completion; rewards and evaluation both call it, so they cannot drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .answer import parse_answer
from .emotions import LabelSpace, canonical, label_space
from .errors import LabelError

Truth = Sequence[str]
Prediction = Sequence[str | None]
Labels = LabelSpace | str | Sequence[str]
BINS = 15  # as Guo et al. 2017


class Score(NamedTuple):
    """One completion against the truth; `label` is the space's word for the answer, None if it has none."""

    label: str | None
    label_right: bool
    well_formed: bool


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def score_answer(truth: str, completion: str, labels: Labels) -> Score:
    """Score one completion.

    Synonyms count ("anger" for angry); a list of labels does not, nor does a label without its tag. Form and
    label are judged apart, so that a right label in bad form still shows.

    Raises:
        LabelError: the truth is not in the label space.

    >>> score_answer("angry", "<think>A frown.</think><answer>Anger</answer>", "ekman7")
    Score(label='angry', label_right=True, well_formed=True)
    >>> score_answer("angry", "<answer>angry or sad</answer>", "ekman7")
    Score(label=None, label_right=False, well_formed=True)
    """
    space = label_space(labels)
    want = canonical(truth, space)
    if want is None:
        raise _unknown(truth, space)
    parsed = parse_answer(completion)
    label = canonical(parsed.label, space) if parsed.label is not None else None
    return Score(label, label == want, parsed.well_formed)


def confusion(truth: Truth, prediction: Prediction, labels: Labels) -> NDArray[np.int64]:
    """Counts n_jk of clips of class j called k, (K, K + 1); the last column counts predictions of no class.

    Raises:
        ValueError: lengths differ, or there is nothing to count.
        LabelError: a truth that is not in the label space.

    >>> confusion(["a", "a", "b"], ["a", "b", None], ["a", "b"])
    array([[1, 1, 0],
           [0, 0, 1]])
    """
    space = label_space(labels)
    if len(truth) != len(prediction):
        raise ValueError(f"{len(truth)} truths but {len(prediction)} predictions.")
    if not len(truth):
        raise ValueError("There are no predictions to count.")
    place = {label: k for k, label in enumerate(space.labels)}
    counts = np.zeros((len(space), len(space) + 1), dtype=np.int64)
    for want, got in zip(truth, prediction, strict=True):
        if want not in place:
            raise _unknown(want, space)
        counts[place[want], place.get(got, len(space)) if got is not None else len(space)] += 1
    return counts


def war(truth: Truth, prediction: Prediction, labels: Labels) -> float:
    """Weighted average recall, that is accuracy, in [0, 1].

    >>> war(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
    0.6666666666666666
    """
    counts = confusion(truth, prediction, labels)
    return float(np.trace(counts) / counts.sum())


def uar(truth: Truth, prediction: Prediction, labels: Labels) -> float:
    """Unweighted average recall in [0, 1], over the classes that occur in the truth.

    >>> uar(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    0.75
    """
    return float(np.nanmean(_recall(confusion(truth, prediction, labels))))


def recalls(truth: Truth, prediction: Prediction, labels: Labels) -> dict[str, float]:
    """Recall of each class that occurs in the truth.

    >>> recalls(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    {'a': 0.5, 'b': 1.0}
    """
    space = label_space(labels)
    values = _recall(confusion(truth, prediction, space))
    return {label: float(r) for label, r in zip(space.labels, values, strict=True) if not np.isnan(r)}


def f1(truth: Truth, prediction: Prediction, labels: Labels, average: Literal["macro", "weighted"] = "macro") -> float:
    """F1 in [0, 1]: "macro" is the mean over classes, "weighted" that by their share of the truth (WAF).

    A class that occurs in neither truth nor prediction is left out; one that is never right has 0.

    >>> round(f1(["a", "a", "b"], ["a", "b", "b"], ["a", "b"]), 4)
    0.6667
    """
    counts = confusion(truth, prediction, labels)
    square = counts[:, :-1]
    right, of_truth, of_prediction = np.diag(square), counts.sum(1), square.sum(0)  # (K,) each
    occurs = of_truth + of_prediction > 0
    values = 2 * right[occurs] / (of_truth + of_prediction)[occurs]
    if average == "weighted":
        return float(values @ of_truth[occurs] / of_truth.sum())
    return float(values.mean())


def ece(right: Sequence[bool], confidence: Sequence[float], bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: how far confidence is from how often it is right.

    Args:
        right: (N,) whether the answer was right.
        confidence: (N,) its probability in [0, 1]; bins are (low, high], and 0 belongs to the first.

    Raises:
        ValueError: lengths differ, nothing given, or a confidence outside [0, 1].

    >>> ece([True, False], [0.75, 0.75])
    0.25
    """
    hit, conf = np.asarray(right, dtype=float), np.asarray(confidence, dtype=float)  # (N,)
    if hit.shape != conf.shape or hit.ndim != 1 or not hit.size:
        raise ValueError(f"Wanted two equally long lists that are not empty, got {hit.shape} and {conf.shape}.")
    if not ((conf >= 0) & (conf <= 1)).all():
        raise ValueError("Confidences must be in [0, 1].")
    bin_of = np.maximum(np.ceil(conf * bins).astype(int) - 1, 0)
    gaps = [abs((hit[bin_of == b] - conf[bin_of == b]).sum()) for b in np.unique(bin_of)]
    return float(sum(gaps) / hit.size)


def brier(truth: Truth, probabilities: Sequence[dict[str, float]], labels: Labels) -> float:
    """Brier score over all classes, in [0, 2]; 0 is perfect, (K − 1) / K is what equal probabilities get.

    Args:
        truth: (N,) labels.
        probabilities: (N,) dicts of label → probability, as in `Answer.labels`; labels left out count as 0.

    Raises:
        ValueError: lengths differ, or there is nothing to score.
        LabelError: a label that is not in the space.

    >>> brier(["a"], [{"a": 0.5, "b": 0.5}], ["a", "b"])
    0.5
    """
    space = label_space(labels)
    if len(truth) != len(probabilities) or not len(truth):
        raise ValueError(f"{len(truth)} truths but {len(probabilities)} predictions; wanted as many, at least one.")
    total = 0.0
    for want, p in zip(truth, probabilities, strict=True):
        for label in (want, *p):
            if label not in space:
                raise _unknown(label, space)
        total += sum((p.get(label, 0.0) - (label == want)) ** 2 for label in space.labels)
    return total / len(truth)


def wilson(right: int, total: int, z: float = 1.96) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); z = 1.96 covers 95 %.

    Raises:
        ValueError: not 0 ≤ right ≤ total, or total is 0.

    >>> tuple(round(x, 4) for x in wilson(9, 10))
    (0.5958, 0.9821)
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"Wanted 0 <= right <= total and total > 0, got {right} of {total}.")
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * ((share * (1 - share) + spread / 4) / total) ** 0.5 / (1 + spread)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap(
    metric: Callable[[Truth, Prediction, Labels], float],
    truth: Truth,
    prediction: Prediction,
    labels: Labels,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """95 % percentile bootstrap interval of a metric: clips drawn again with replacement (Efron 1979).

    Clips of one actor are not independent; the interval treats them as if they were and is then too narrow.

    >>> low, high = bootstrap(war, ["a", "b"] * 50, ["a", "a"] * 50, ["a", "b"], resamples=200)
    >>> low < 0.5 < high
    True
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(truth), size=(resamples, len(truth)))  # (resamples, N)
    values = [metric([truth[i] for i in draw], [prediction[i] for i in draw], labels) for draw in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def _recall(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall of each class, (K,); NaN where the truth has none."""
    of_truth = counts.sum(1)
    recall: NDArray[np.float64] = np.full(len(counts), np.nan)
    np.divide(np.diag(counts), of_truth, out=recall, where=of_truth > 0)
    return recall


def _unknown(label: str, space: LabelSpace) -> LabelError:
    return LabelError(f"'{label}' is not in {space.name}. Use {', '.join(space.labels)}.", code="unknown_label")
