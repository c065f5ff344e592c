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

An open vocabulary is scored on emotion wheels. Letters: Y_i, A_i true and answered words of clip i, n_i words answered
(repeated ones too), m_i distinct true words, G_k(·) the sectors of a list on wheel k.

    as published          P_k = mean_i |G_k(Y_i) ∩ G_k(A_i)| / |G_k(A_i)|         R_k with |G_k(Y_i)| below
    (`published_wheel`)   F = mean_k 2 P_k R_k / (P_k + R_k)                       P, R the means over the wheels
    strict                P = mean_i min(1, m_i/n_i) mean_k |G_k(Y_i) ∩ G_k(A_i)| / |G_k(A_i)|
    (`strict_wheel`)      R likewise                                               F = 2 P R / (P + R)

Published is the metric of MER2025 and AffectGPT (arXiv 2501.16566; level 1 of each wheel; with one true word R is its
hit rate), and so are its holes: an unknown word costs nothing, in answer and truth; clips whose true words are all
unknown leave the test set; synonyms cost nothing; a word for each sector has full recall; a word in two sectors
counts for the first in the alphabet of its meanings. Strict: a word without a sector, an unknown one, and one with more
than one sector is a sector of its own, which the same word matches and, if a known word has no sector and one meaning,
its synonyms ("pity" and "compassion" on Ekman's wheel); no clip leaves; n_i is counted before synonyms fall together,
and a list longer than the truth pays for it. Compare F only beside the mean length of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .answer import parse_answer
from .emotions import OUR_WHEELS, EmotionWheels, LabelSpace, Words, canonical, emotion_words, label_space
from .errors import LabelError

Truth = Sequence[str]
Prediction = Sequence[str | None]
Labels = LabelSpace | str | Sequence[str]
Floats = NDArray[np.float64]
Bools = Sequence[bool] | NDArray[np.bool_]
BINS = 15  # as Guo et al. 2017
RESAMPLES = 1000


class Score(NamedTuple):
    """One completion against the truth; `label` is the space's word for the answer, None if it has none."""

    label: str | None
    label_right: bool
    well_formed: bool


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


class ClassMetrics(NamedTuple):
    """What follows from counts: arrays of their leading shape (…); `recall` (…, K) is NaN where the truth has none."""

    war: Floats
    uar: Floats
    f1_macro: Floats
    f1_weighted: Floats
    recall: Floats


class Bin(NamedTuple):
    """The clips whose confidence lies in (low, high]: how many, their mean confidence, the share that is right."""

    low: float
    high: float
    clips: int
    confidence: float
    right: float


class WheelScore(NamedTuple):
    """Precision and recall of a list of words, both in [0, 1], after the penalty on its length."""

    precision: float
    recall: float


class WheelReport(NamedTuple):
    """An open vocabulary over many clips.

    Attributes:
        precision, recall, f1: in [0, 1].
        clips: how many count; as published, on the wheel where the fewest do.
        left_out: clips with true words that do not count.
        mean_length: words of an answered list, repeated ones too, over all clips with true words.
        mean_true_length: distinct words of a true list.
    """

    precision: float
    recall: float
    f1: float
    clips: int
    left_out: int
    mean_length: float
    mean_true_length: float


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


def class_metrics(counts: NDArray[np.int64]) -> ClassMetrics:
    """WAR, UAR, F1 and recalls of counts (…, K, K + 1), such as `confusion` gives.

    >>> class_metrics(confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])).recall.tolist()
    [0.5, 1.0]
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)  # (…, K), as of_truth and of_prediction
    of_truth, of_prediction = counts.sum(-1), counts[..., :-1].sum(-2)
    recall = _share(right, of_truth)
    f1_of = _share(2 * right, of_truth + of_prediction)
    return ClassMetrics(
        war=right.sum(-1) / of_truth.sum(-1),
        uar=np.nanmean(recall, -1),
        f1_macro=np.nanmean(f1_of, -1),
        f1_weighted=np.nansum(f1_of * of_truth, -1) / of_truth.sum(-1),
        recall=recall,
    )


def war(truth: Truth, prediction: Prediction, labels: Labels) -> float:
    """Weighted average recall, that is accuracy, in [0, 1].

    >>> war(["a", "a", "b"], ["a", "b", "b"], ["a", "b"])
    0.6666666666666666
    """
    return float(class_metrics(confusion(truth, prediction, labels)).war)


def uar(truth: Truth, prediction: Prediction, labels: Labels) -> float:
    """Unweighted average recall in [0, 1], over the classes that occur in the truth.

    >>> uar(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    0.75
    """
    return float(class_metrics(confusion(truth, prediction, labels)).uar)


def recalls(truth: Truth, prediction: Prediction, labels: Labels) -> dict[str, float]:
    """Recall of each class that occurs in the truth.

    >>> recalls(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    {'a': 0.5, 'b': 1.0}
    """
    space = label_space(labels)
    values = class_metrics(confusion(truth, prediction, space)).recall
    return {label: float(r) for label, r in zip(space.labels, values, strict=True) if not np.isnan(r)}


def f1(truth: Truth, prediction: Prediction, labels: Labels, average: Literal["macro", "weighted"] = "macro") -> float:
    """F1 in [0, 1]: "macro" is the mean over classes, "weighted" that by their share of the truth (WAF).

    A class that occurs in neither truth nor prediction is left out; one that is never right has 0.

    >>> round(f1(["a", "a", "b"], ["a", "b", "b"], ["a", "b"]), 4)
    0.6667
    """
    found = class_metrics(confusion(truth, prediction, labels))
    return float(found.f1_weighted if average == "weighted" else found.f1_macro)


def reliability(right: Bools, confidence: Sequence[float] | Floats, bins: int = BINS) -> list[Bin]:
    """The calibration curve: the bins that hold a clip, from the least confidence to the most.

    Args:
        right: (N,) whether the answer was right.
        confidence: (N,) its probability in [0, 1]; bins are (low, high], and 0 belongs to the first.

    Raises:
        ValueError: lengths differ, nothing given, or a confidence outside [0, 1].

    >>> reliability([True, False], [0.75, 0.75], bins=2)
    [Bin(low=0.5, high=1.0, clips=2, confidence=0.75, right=0.5)]
    """
    hit, conf, bin_of = _binned(right, confidence, bins)
    inside = [(int(b), bin_of == b) for b in np.unique(bin_of)]
    return [
        Bin(b / bins, (b + 1) / bins, int(here.sum()), float(conf[here].mean()), float(hit[here].mean()))
        for b, here in inside
    ]


def ece(right: Bools, confidence: Sequence[float] | Floats, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: how far confidence is from how often it is right; see `reliability`.

    >>> ece([True, False], [0.75, 0.75])
    0.25
    """
    hit, conf, bin_of = _binned(right, confidence, bins)
    return float(np.abs(np.bincount(bin_of, weights=hit - conf)).sum() / hit.size)


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


def resample(
    statistic: Callable[[NDArray[np.int64]], object], clips: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """A statistic of clips drawn again with replacement (Efron 1979), (resamples, …).

    The same number of clips and the same seed draw the same clips, so two statistics of the same clips are paired.

    Args:
        statistic: of the numbers of the drawn clips, (N,).

    >>> resample(lambda drawn: drawn.mean(), 3, resamples=4).shape
    (4,)
    """
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(clips, size=clips)) for _ in range(resamples)])


def resample_classes(
    truth: Truth, prediction: Prediction, labels: Labels, *, resamples: int = RESAMPLES, seed: int = 0
) -> ClassMetrics:
    """`class_metrics` of clips drawn again, arrays of (resamples,)."""
    space = label_space(labels)
    shape = (len(space), len(space) + 1)
    cells = np.array(
        [confusion([t], [p], space).argmax() for t, p in zip(truth, prediction, strict=True)]
    )  # (N,), where each clip counts
    counts = resample(
        lambda drawn: np.bincount(cells[drawn], minlength=shape[0] * shape[1]),
        len(cells),
        resamples=resamples,
        seed=seed,
    )
    return class_metrics(counts.reshape(-1, *shape).astype(np.int64))


def interval(values: Floats) -> Interval:
    """The middle 95 % of resampled values; those that a resample does not have (NaN) are left out.

    >>> interval(np.arange(101.0))
    Interval(low=2.5, high=97.5)
    """
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


def bootstrap(
    metric: Callable[[Truth, Prediction, Labels], float],
    truth: Truth,
    prediction: Prediction,
    labels: Labels,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % percentile bootstrap interval of a metric.

    Clips of one actor are not independent; the interval treats them as if they were and is then too narrow.

    >>> low, high = bootstrap(war, ["a", "b"] * 50, ["a", "a"] * 50, ["a", "b"], resamples=200)
    >>> low < 0.5 < high
    True
    """

    def of(drawn: NDArray[np.int64]) -> float:
        return metric([truth[i] for i in drawn], [prediction[i] for i in drawn], labels)

    return interval(resample(of, len(truth), resamples=resamples, seed=seed))


def wheel_score(truth: Words, prediction: Words, wheels: EmotionWheels = OUR_WHEELS) -> WheelScore | None:
    """Strict precision and recall of one list of words; None if there is no true word.

    >>> wheel_score("happy", "joyful, glad")
    WheelScore(precision=0.5, recall=0.5)
    """
    true, answered = emotion_words(truth), emotion_words(prediction)
    if not true:
        return None
    if not answered:
        return WheelScore(0.0, 0.0)
    brevity = min(1.0, len(set(true)) / len(answered))
    pairs = [(_own_sectors(true, wheel, wheels), _own_sectors(answered, wheel, wheels)) for wheel in wheels.wheels]
    return WheelScore(
        brevity * fmean(len(want & got) / len(got) for want, got in pairs),
        brevity * fmean(len(want & got) / len(want) for want, got in pairs),
    )


def strict_wheel(
    truth: Sequence[Words], prediction: Sequence[Words], wheels: EmotionWheels = OUR_WHEELS
) -> WheelReport | None:
    """The emotion-wheel score without the holes of the published one; None if no clip has true words.

    >>> strict_wheel(["angry"], ["furious, flarb"])[:2], published_wheel(["angry"], ["furious, flarb"])[:2]
    ((0.25, 0.5), (1.0, 1.0))
    """
    scores = [wheel_score(t, p, wheels) for t, p in zip(truth, prediction, strict=True)]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    precision, recall = fmean(score.precision for score in known), fmean(score.recall for score in known)
    harmonic = _harmonic(precision, recall)
    return WheelReport(precision, recall, harmonic, len(known), 0, *_mean_lengths(truth, prediction))


def published_wheel(
    truth: Sequence[Words], prediction: Sequence[Words], wheels: EmotionWheels = OUR_WHEELS
) -> WheelReport | None:
    """The emotion-wheel score as published, holes and all; None if there is a wheel without a true word.

    With other wheels than the official five its values are not those of the literature.

    >>> published_wheel(["angry, sad", "flarb"], ["furious", "happy"])[:5]
    (1.0, 0.5, 0.6666666666666666, 1, 1)
    """
    means: list[tuple[float, float, int]] = []
    for wheel in wheels.wheels:
        pairs = [
            (_first_sectors(t, wheel, wheels), _first_sectors(p, wheel, wheels))
            for t, p in zip(truth, prediction, strict=True)
        ]
        hits = [(len(want & got), len(want), len(got)) for want, got in pairs if want]
        if not hits:
            return None
        means.append((fmean(h / g if g else 0.0 for h, _, g in hits), fmean(h / w for h, w, _ in hits), len(hits)))
    clips = min(count for _, _, count in means)
    return WheelReport(
        fmean(p for p, _, _ in means),
        fmean(r for _, r, _ in means),
        fmean(_harmonic(p, r) for p, r, _ in means),
        clips,
        sum(bool(emotion_words(words)) for words in truth) - clips,
        *_mean_lengths(truth, prediction),
    )


def _binned(right: Bools, confidence: Sequence[float] | Floats, bins: int) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Hits, confidences and the bins of those, (N,) each."""
    hit, conf = np.asarray(right, dtype=float), np.asarray(confidence, dtype=float)
    if hit.shape != conf.shape or hit.ndim != 1 or not hit.size:
        raise ValueError(f"Wanted two equally long lists that are not empty, got {hit.shape} and {conf.shape}.")
    if not ((conf >= 0) & (conf <= 1)).all():
        raise ValueError("Confidences must be in [0, 1].")
    return hit, conf, np.maximum(np.ceil(conf * bins).astype(np.intp) - 1, 0)


def _first_sectors(words: Words, wheel: str, wheels: EmotionWheels) -> set[str]:
    return {sector for word in emotion_words(words) for sector in wheels.sectors(word, wheel)[:1]}


def _own_sectors(words: Sequence[str], wheel: str, wheels: EmotionWheels) -> set[str]:
    """Sectors; a word that has none, or more than one, is one of its own ("=love", which is no sector "love").

    It is named by the meaning of the word, if that is one, so that synonyms share it.
    """
    found = set()
    for word in words:
        sectors, meanings = wheels.sectors(word, wheel), wheels.words.get(word, ())
        alone = meanings[0] if len(meanings) == 1 else word
        found.add(sectors[0] if len(sectors) == 1 else f"={alone}")
    return found


def _mean_lengths(truth: Sequence[Words], prediction: Sequence[Words]) -> tuple[float, float]:
    pairs = [(emotion_words(t), emotion_words(p)) for t, p in zip(truth, prediction, strict=True)]
    return fmean(len(p) for t, p in pairs if t), fmean(len(set(t)) for t, _ in pairs if t)


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(part: Floats, whole: NDArray[np.int64]) -> Floats:
    """part / whole, NaN where there is nothing."""
    share: Floats = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share


def _unknown(label: str, space: LabelSpace) -> LabelError:
    return LabelError(f"'{label}' is not in {space.name}. Use {', '.join(space.labels)}.", code="unknown_label")
