"""How sure an answer is: a temperature for the label probabilities, and when to say nothing.

    p_T(k) ∝ p(k)^(1/T)       T the minimum of −Σ_i log p_T(truth_i) over held-out clips (Guo et al. 2017)
    risk–coverage             clips from the surest to the least sure: of the first n, the share that is wrong
    AURC                      the mean of these shares over n = 1 … N, in [0, 1] (Geifman and El-Yaniv 2017)

Answers with and without thinking have a temperature each, since their prompts differ. With thinking the probabilities
are those before the thought (`generate.py`), the label is that of the thought. T changes no label, only confidences. It
is kept as `calibration.json` in the model's folder, with the risk–coverage curve of the same clips.

Clips of one kind calibrate answers about clips of that kind: on others, measure anew. A threshold for a risk is that of
the held-out clips, not a guarantee.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import ManifestError, OmniError
from .journal import replace_file
from .metrics import Bools, Floats

if TYPE_CHECKING:
    from .answer import Answer

FILE = "calibration.json"
MODES = ("think", "no-think")
UNCERTAIN = "uncertain"
COLDEST, HOTTEST, STEPS = 0.05, 20.0, 80  # golden-section steps to a relative width below 1e-9
LEAST = 1e-300  # a probability below it counts as this one


class Point(NamedTuple):
    """The clips that are at least this sure: their share of all, and how many of them are wrong."""

    confidence: float
    coverage: float
    risk: float


@dataclass(frozen=True)
class Calibration:
    """What is known of a model's confidence.

    Attributes:
        temperature: of each mode, "think" and "no-think"; a mode without one is left as it is.
        curve: risk–coverage of each mode on the held-out clips, from the surest.
        clips: how many these were.
    """

    temperature: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    clips: int = 0

    def of(self, mode: str) -> float:
        """The temperature of a mode; 1 without one."""
        return self.temperature.get(mode, 1.0)

    def threshold(self, mode: str, risk: float) -> float:
        """The least confidence from which at most this share of the held-out clips was wrong.

        Raises:
            OmniError: the model was not calibrated in this mode, or is never that good.
        """
        points = self.curve.get(mode, ())
        if not points:
            raise OmniError(
                "The model has no risk–coverage curve. Run omni calibrate on held-out clips, or use --abstain-below.",
                code="not_calibrated",
            )
        good = [point.confidence for point in points if point.risk <= risk]
        if not good:
            least = min(point.risk for point in points)
            raise OmniError(
                f"The risk was never {risk:g} or less on the held-out clips. Give --max-risk {least:.2f} or more.",
                code="risk",
            )
        return good[-1]


def risk_coverage(right: Bools, confidence: Sequence[float] | Floats) -> list[Point]:
    """Coverage and risk at every confidence that occurs, from the surest.

    >>> risk_coverage([True, False], [0.9, 0.6])
    [Point(confidence=0.9, coverage=0.5, risk=0.0), Point(confidence=0.6, coverage=1.0, risk=0.5)]
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    sure, wrong = np.asarray(confidence)[order], ~np.asarray(right)[order]
    risk = wrong.cumsum() / np.arange(1, len(order) + 1)
    ends = [i for i in range(len(order)) if i + 1 == len(order) or sure[i + 1] < sure[i]]
    return [Point(float(sure[i]), (i + 1) / len(order), float(risk[i])) for i in ends]


def aurc(right: Bools, confidence: Sequence[float] | Floats) -> float:
    """Area under the risk–coverage curve; clips that are as sure as each other share a risk.

    >>> aurc([True, False], [0.9, 0.6])
    0.25
    """
    points = risk_coverage(right, confidence)
    steps = np.diff([0.0, *(point.coverage for point in points)])
    return float(sum(step * point.risk for step, point in zip(steps, points, strict=True)))


def tempered(labels: Mapping[str, float], temperature: float) -> dict[str, float]:
    """Label probabilities at a temperature.

    >>> {label: round(p, 3) for label, p in tempered({"sad": 0.8, "happy": 0.2}, 2.0).items()}
    {'sad': 0.667, 'happy': 0.333}
    """
    logs = {label: math.log(max(p, LEAST)) / temperature for label, p in labels.items()}
    most = max(logs.values())
    powers = {label: math.exp(log - most) for label, log in logs.items()}
    whole = sum(powers.values())
    return {label: power / whole for label, power in powers.items()}


def fit_temperature(truth: Sequence[str], probabilities: Sequence[Mapping[str, float]]) -> float:
    """The temperature with the least negative log-likelihood, by golden-section search over log T.

    >>> round(fit_temperature(["a", "a", "a", "b"], [{"a": 0.9, "b": 0.1}] * 4), 3)
    2.0
    """
    logs = np.log(np.maximum([list(p.values()) for p in probabilities], LEAST))  # (N, K)
    place = np.array([list(p).index(want) for want, p in zip(truth, probabilities, strict=True)])

    def loss(at: float) -> float:
        scaled = logs / math.exp(at)
        scaled = scaled - scaled.max(1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(place)), place]).mean())

    low, high, ratio = math.log(COLDEST), math.log(HOTTEST), (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)


def calibrate(
    manifest: str | Path,
    model: str,
    run: Path,
    *,
    labels: str | None = None,
    features: Path | None = None,
    batch_size: int = 4,
) -> Calibration:
    """Fit both modes on a held-out manifest.

    Args:
        model: as `omni.loading.load` takes it.
        run: a folder of `omni eval`, whose answers by this model are used; others are made.
        features: folder of a feature cache.

    Raises:
        OmniError: as `omni.evaluation.evaluate`; or no clip could be answered.
    """
    from .evaluation import evaluate

    found = evaluate(manifest, [model], out=run, labels=labels, modes=MODES, features=features, batch_size=batch_size)
    known = [(mode, case.truth, row) for mode, case, row in found.answers if row["status"] == "ok" and row["labels"]]
    old = read_calibration(folder_of(model))
    temperature, curve, clips = {}, {}, 0
    for mode in MODES:
        mine = [(truth, row) for of, truth, row in known if of == mode and truth]
        if not mine:
            raise ManifestError(f"{manifest}: no clip was answered in mode {mode}. See {run / 'report.html'}.")
        more = fit_temperature([truth for truth, _ in mine], [row["labels"] for _, row in mine])
        if not 1.01 * COLDEST < more < 0.99 * HOTTEST:
            found_out = "all right" if more < 1 else "no better than chance"
            raise ManifestError(
                f"{manifest}: the {len(mine)} answers in mode {mode} are {found_out}, which does not tell how sure the "
                "model may be. Give more clips, of which some are hard."
            )
        sure = [tempered(row["labels"], more)[row["label"]] for _, row in mine]
        temperature[mode], clips = old.of(mode) * more, len(mine)
        curve[mode] = risk_coverage([row["label"] == truth for truth, row in mine], sure)
    return Calibration(temperature, curve, clips)


def folder_of(model: str) -> Path:
    """Where the calibration of a model lies."""
    return Path(__file__).parent / "default" / "adapter" if model == "default" else Path(model)


def read_calibration(folder: Path) -> Calibration:
    """The calibration in a model's folder; one that changes nothing if there is none."""
    path = folder / FILE
    if not path.exists():
        return Calibration()
    facts = json.loads(path.read_text(encoding="utf-8"))
    curve = {mode: [Point(*point) for point in points] for mode, points in facts["curve"].items()}
    return Calibration(facts["temperature"], curve, facts["clips"])


def write_calibration(found: Calibration, path: Path) -> None:
    """Inverse of `read_calibration`."""
    replace_file(path, (json.dumps(asdict(found)) + "\n").encode())


def leading(labels: Mapping[str, float]) -> tuple[str, ...]:
    """The two most probable labels.

    >>> leading({"sad": 0.4, "happy": 0.5, "fear": 0.1})
    ('happy', 'sad')
    """
    return tuple(sorted(labels, key=lambda label: -labels[label])[:2])


def abstained(answer: Answer, below: float) -> Answer:
    """The answer; labelled "uncertain" if it is less sure than that. Its probabilities stay as they are."""
    return replace(answer, label=UNCERTAIN) if answer.confidence < below else answer
