"""Rewards: how good a completion is, as a number, without a model.

Each file holds one reward, a pure function in the form that TRL calls: `reward(completions, **columns)` gives
one float per completion, or None where it does not apply. Whether it applies depends on the clip and on what was
asked, never on what the model wrote: else a model could choose not to be judged. `docs/rewards.md` is the table
of all: formula, range, columns, source, how each is gamed, and the test that shows it.

    REWARDS      name → function           select()          names and weights → what TRL takes
    DEFAULT      format and accuracy       needed_columns()  what a reward must be given

    python -m rewards SAVED.jsonl          any of them over saved completions

Only omni's torch-free leaves are imported here, never torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from omni.errors import OmniError

from .accuracy import accuracy_reward
from .agreement import agreement_reward
from .confidence import confidence_reward
from .cues import cues_reward
from .format import format_reward
from .length import length_reward
from .order import order_reward
from .wheel import wheel_precision_reward, wheel_recall_reward

__all__ = ["DEFAULT", "REWARDS", "Reward", "Selection", "needed_columns", "select"]

Reward = Callable[..., list[float | None]]

REWARDS: dict[str, Reward] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "wheel_precision": wheel_precision_reward,
    "wheel_recall": wheel_recall_reward,
    "length": length_reward,
    "agreement": agreement_reward,
    "cues": cues_reward,
    "order": order_reward,
    "confidence": confidence_reward,
}
DEFAULT = ("format", "accuracy")  # as R1-Omni; AffectGPT-R1 (arXiv 2508.01318) lost by adding more at once


class Selection(NamedTuple):
    """Rewards and their weights, as TRL's `reward_funcs` and `reward_weights`."""

    functions: list[Reward]
    weights: list[float]


def select(names: Sequence[str] = DEFAULT, weights: Sequence[float] | None = None) -> Selection:
    """The rewards of these names with their weights, 1 each if there are none.

    Raises:
        OmniError: no name, an unknown one or one twice, another number of weights than of names, or a weight that
            is negative or no number (a reward that punishes is negative already).

    >>> functions, weights = select(["accuracy", "length"], [1.0, 0.5])
    >>> [function.__name__ for function in functions], weights
    (['accuracy_reward', 'length_reward'], [1.0, 0.5])
    >>> select(["acuracy"])
    Traceback (most recent call last):
    omni.errors.OmniError: Unknown reward 'acuracy'. Use format, accuracy, ...
    """
    if not names:
        raise OmniError(f"No reward is named. Use some of {', '.join(REWARDS)}.", code="no_reward")
    for name in names:
        if name not in REWARDS:
            raise OmniError(f"Unknown reward '{name}'. Use {', '.join(REWARDS)}.", code="unknown_reward")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise OmniError(f"The reward '{twice[0]}' is named twice. Raise its weight instead.", code="twice")
    chosen = [1.0] * len(names) if weights is None else [float(weight) for weight in weights]
    if len(chosen) != len(names):
        raise OmniError(
            f"{len(names)} rewards ({', '.join(names)}) but {len(chosen)} weights. Give one weight per reward.",
            code="bad_weights",
        )
    for name, weight in zip(names, chosen, strict=True):
        if not math.isfinite(weight) or weight < 0:
            raise OmniError(f"The weight of {name} is {weight}. Use a number from 0 up.", code="bad_weights")
    return Selection([REWARDS[name] for name in names], chosen)


def needed_columns(name: str) -> tuple[str, ...]:
    """The columns that a reward cannot do without.

    >>> needed_columns("format"), needed_columns("cues")
    ((), ('truth',))
    """
    parameters = inspect.signature(REWARDS[name]).parameters.values()
    bare = (parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD)
    needed = [parameter.name for parameter in bare if parameter.default is parameter.empty]
    return tuple(column for column in needed if column != "completions")
