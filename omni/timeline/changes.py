"""Where a row of label distributions changes: penalised least squares, solved exactly.

    x_i = √p_i                                     (K,); |x - y|² is twice the squared Hellinger distance of p and q
    cost of a segment   C(a, b) = Σ_{a ≤ i < b} |x_i - mean|²
    changes             argmin  Σ C + β · number of changes           optimal partitioning (Jackson et al. 2005,
                                                                      IEEE Signal Processing Letters 12), with the
                                                                      pruning of PELT (Killick et al. 2012, JASA 107)
    penalty             β = 2 L s² log n                              twice a BIC's for one more mean
    noise               s² = L / 2 · mean |x_{i+1} - x_i|²            von Neumann's estimate; not below FLOOR²

Windows that overlap share content: L = window / hop of them see the same second, so that neighbours differ less than
the noise is (factor L / 2), and means of segments vary more (factor L). No segment is shorter than L windows, nor than
two: one odd window is no change. The differences at changes count as noise too, which makes many changes harder to find
than one; the median in place of the mean took single odd windows for changes.

`FLOOR` is an effect below which a change is not worth telling, such as a confidence that goes from .70 to .80.
`docs/timeline.md` has the false alarms in noise, and which changes are found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

FLOOR = 0.1  # of the noise, in units of √p


class Segment(NamedTuple):
    """Windows first … last, both included."""

    first: int
    last: int


def segments(probabilities: np.ndarray, overlap: float = 2.0) -> list[Segment]:
    """Stretches of a row in which the distribution stays the same.

    Args:
        probabilities: (n, K), n ≥ 1; rows sum to one.
        overlap: L, window over hop, 1 or more.

    >>> segments(np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5))
    [Segment(first=0, last=4), Segment(first=5, last=9)]
    >>> segments(np.array([[0.9, 0.1]]))
    [Segment(first=0, last=0)]
    """
    x = np.sqrt(np.asarray(probabilities, np.float64))
    starts = _partition(x, penalty(x, overlap), max(2, math.ceil(overlap - 1e-9)))
    return [Segment(a, b - 1) for a, b in zip(starts, [*starts[1:], len(x)], strict=True)]


def penalty(x: np.ndarray, overlap: float) -> float:
    """β for a row x (n, K) of square roots of probabilities."""
    steps = (np.diff(x, axis=0) ** 2).sum(1)  # (n - 1,)
    noise = overlap / 2 * float(steps.mean()) if len(steps) else 0.0
    return 2 * overlap * max(noise, FLOOR**2) * math.log(max(len(x), 2))


def _partition(x: np.ndarray, beta: float, least: int) -> list[int]:
    """First index of each segment, 0 first; none is shorter than `least`."""
    count = len(x)
    sums = np.concatenate([np.zeros((1, x.shape[1])), x.cumsum(0)])  # (n + 1, K)
    squares = np.concatenate([[0.0], (x**2).sum(1).cumsum()])
    best = np.full(count + 1, np.inf)
    best[0] = -beta
    came_from = np.zeros(count + 1, np.intp)
    starts, expires = np.array([0]), np.array([count + 1])
    for end in range(least, count + 1):
        length = end - starts
        cost = squares[end] - squares[starts] - ((sums[end] - sums[starts]) ** 2).sum(1) / length
        total = best[starts] + cost + beta
        best[end], came_from[end] = total.min(), starts[total.argmin()]
        # such a start cannot be the best one again, once a segment that begins here would be long enough
        expires = np.where(total - beta > best[end], np.minimum(expires, end + least), expires)
        fresh = end + 1 - least  # long enough for the next end
        keep = expires > end + 1
        starts, expires = np.append(starts[keep], fresh), np.append(expires[keep], count + 1)
    found, end = [], count
    while end > 0:
        end = int(came_from[end])
        found.append(end)
    return found[::-1]
