"""A dry run: any rewards over saved completions, before they cost a training run.

    SAVED.jsonl, one object a line: `completion` (text or messages), and whatever columns the rewards need

For each reward its distribution; between each two their correlation (two that say the same count twice, two that
pull apart cancel); and the signs of a policy that games its reward, as counted in the completions themselves.

Correlations are Pearson's, over the rows where both apply; None where fewer than two do or one of them is constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omni.answer import Parsed, parse_answer
from omni.emotions import canonical, emotion_words, head_of
from omni.errors import ManifestError, OmniError
from omni.manifest import FORMATS

from . import REWARDS, needed_columns, select
from .accuracy import label_spaces
from .format import completion_text
from .length import pieces

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST_REPEATED = 3  # completions to show
_BAD_ROW = (OmniError, TypeError, ValueError, LookupError, AttributeError)  # what a column of another kind leads to

Values = Sequence[float | None]


class Saved(NamedTuple):
    """Saved completions: the columns as a reward takes them, and the line of the file that each row comes from."""

    path: Path
    lines: list[int]
    columns: dict[str, list[Any]]


@dataclass(frozen=True)
class Distribution:
    """Of one reward: `rows` where it applies, the share of None, and five quantiles from least to most."""

    rows: int
    none: float
    mean: float | None
    std: float | None
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Signs:
    """Of all completions; shares are in [0, 1].

    Attributes:
        length: mean number of pieces, which stand for tokens.
        length_correlation: of each reward with the length.
        list_length, longest_list: words in the answer, on average and at most.
        malformed, no_answer, empty_thought: shares of completions.
        unknown_words: share of answered words that are neither in the label space nor known to the wheels.
        distinct: share of completions that differ.
        repeated: completions that occur more than once, the most frequent first, with their counts.
    """

    length: float
    length_correlation: dict[str, float | None]
    list_length: float
    longest_list: int
    malformed: float
    no_answer: float
    empty_thought: float
    unknown_words: float
    distinct: float
    repeated: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class DryRun:
    """What a dry run found; `left_out` says of each reward that was not run which columns it lacks."""

    rows: int
    rewards: dict[str, Distribution]
    correlation: dict[str, dict[str, float | None]]
    signs: Signs
    left_out: dict[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def read_saved(path: str | Path) -> Saved:
    """Read saved completions.

    Raises:
        ManifestError: no such file, no row in it, or a bad line; the message has its number.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"There is no file {path}. Check the path.", code="not_found")
    numbered = list(FORMATS[".jsonl"][0](path))
    if not numbered:
        raise ManifestError(f"{path} has no rows. Save some completions first.", code="empty_file")
    for line, row in numbered:
        if not _is_completion(row.get("completion")):
            raise ManifestError(
                f"{path}:{line}: the row has no 'completion'. Give each row its text, or a list of messages "
                "with 'content'.",
                code="bad_row",
            )
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names if name not in ("completion", "completions")}
    return Saved(path, lines, {"completions": [row["completion"] for row in rows], **columns})


def dry_run(saved: Saved, names: Sequence[str] | None = None) -> DryRun:
    """Run rewards over saved completions; without names, all those whose columns are there.

    Raises:
        OmniError: an unknown name, a column that a named reward needs and no row has, or a row that a reward
            cannot judge; the message has its line.
    """
    chosen = list(REWARDS) if names is None else names
    select(chosen)
    lacking = {name: tuple(c for c in needed_columns(name) if c not in saved.columns) for name in chosen}
    for name in names or ():
        if lacking[name]:
            raise OmniError(
                f"The reward {name} needs the column '{lacking[name][0]}', which no row of {saved.path} has. "
                "Add it, or leave the reward out.",
                code="missing_column",
            )
    values = {name: _judge(name, saved) for name, columns in lacking.items() if not columns}
    return DryRun(
        rows=len(saved.lines),
        rewards={name: distribution(own) for name, own in values.items()},
        correlation={a: {b: correlation(values[a], values[b]) for b in values} for a in values},
        signs=_signs(saved, values),
        left_out={name: columns for name, columns in lacking.items() if columns},
    )


def distribution(values: Values) -> Distribution:
    """The distribution of one reward.

    >>> distribution([1.0, 0.0, None, 0.5])
    Distribution(rows=3, none=0.25, mean=0.5, std=0.408248290463863, quantiles=(0.0, 0.25, 0.5, 0.75, 1.0))
    """
    own = [value for value in values if value is not None]
    none = 1 - len(own) / len(values)
    if not own:
        return Distribution(0, none, None, None, ())
    quantiles = tuple(float(value) for value in np.quantile(own, QUANTILES))
    return Distribution(len(own), none, float(np.mean(own)), float(np.std(own)), quantiles)


def correlation(first: Values, second: Values) -> float | None:
    """Pearson's correlation in [-1, 1] over the rows where both apply.

    >>> correlation([0.0, 1.0, None], [2.0, 4.0, 9.0]), correlation([1.0, 1.0], [0.0, 1.0])
    (1.0, None)
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    table = np.array(pairs) - np.mean(pairs, axis=0)  # (rows, 2)
    a, b = table.T
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / spread, 12) if spread > 1e-12 else None


def _is_completion(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, list) and all(isinstance(part, dict) and "content" in part for part in value)


def _judge(name: str, saved: Saved) -> list[float | None]:
    try:
        return REWARDS[name](**saved.columns)
    except _BAD_ROW as err:
        raise ManifestError(_complaint(name, saved), code="bad_row") from err


def _complaint(name: str, saved: Saved) -> str:
    """Names the first row that a reward cannot judge, and why."""
    for place, line in enumerate(saved.lines):
        try:
            REWARDS[name](**{column: [values[place]] for column, values in saved.columns.items()})
        except _BAD_ROW as err:
            told = isinstance(err, OmniError)  # the others know nothing of columns
            advice = "" if told else f" ({type(err).__name__}). Check the column {' or '.join(needed_columns(name))}."
            return f"{saved.path}:{line}: the reward {name} cannot judge this row: {err}{advice}"
    return f"{saved.path}: the reward {name} can judge each row, but not all together."


def _signs(saved: Saved, values: dict[str, list[float | None]]) -> Signs:
    texts = [completion_text(completion) for completion in saved.columns["completions"]]
    parsed = [parse_answer(text) for text in texts]
    lengths = [float(len(pieces(text))) for text in texts]
    lists = [emotion_words(p.label) for p in parsed]
    counts = Counter(texts)
    return Signs(
        length=float(np.mean(lengths)),
        length_correlation={name: correlation(own, lengths) for name, own in values.items()},
        list_length=float(np.mean([len(words) for words in lists])),
        longest_list=max(len(words) for words in lists),
        malformed=float(np.mean([not p.well_formed for p in parsed])),
        no_answer=float(np.mean([not words for words in lists])),
        empty_thought=float(np.mean([not p.thought for p in parsed])),
        unknown_words=_unknown_words(saved, parsed),
        distinct=len(counts) / len(texts),
        repeated=tuple((count, text) for text, count in counts.most_common(MOST_REPEATED) if count > 1),
    )


def _unknown_words(saved: Saved, parsed: Sequence[Parsed]) -> float:
    """The share of answered words that mean nothing to us; a label of several words is one of them, as a whole."""
    spaces = label_spaces(saved.columns.get("labels"), len(parsed))
    verdicts: list[bool] = []
    for p, space in zip(parsed, spaces, strict=True):
        whole = p.label is not None and canonical(p.label, space) is not None
        words = [] if whole else emotion_words(p.label)
        verdicts += [False] * whole + [canonical(w, space) is None and head_of(w) is None for w in words]
    return float(np.mean(verdicts)) if verdicts else 0.0
