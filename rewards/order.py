"""The order of frames: 1 for a right answer if the group beats the same clip's group with shuffled frames.

    p    share of right answers in the group (all completions of one clip in this call)
    p~   share of right answers to the same prompt with the frames in random order

    r = 1 if the answer is right and p > p~, else 0        range {0, 1}

Columns: `label` and, optionally, `labels`, as for accuracy; `clip`, which makes the group; `shuffled_accuracy`, p~ in
[0, 1], which the trainer measures by sampling a second group whose frames it has shuffled (half the size will do),
None where it did not (a clip without picture). None where p~ or the label is None.

Source: T-GRPO of Video-R1 (arXiv 2503.21776), which adds alpha = 0.3 to right answers; that is the weight to use
here. Ours is strict: equal groups earn nothing, since a clip that any order answers teaches nothing about order.

All completions of a group must come in one call, or each part is compared by itself.

How it is gamed: whatever makes the shuffled group worse pays as much as what makes the ordered one better, also a
model that notices the shuffling and fails on purpose. Shown by `test_failing_on_shuffled_frames_pays`. Wrong answers
earn nothing: `test_order_pays_right_answers_of_a_group_that_beats_its_shuffled_twin`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from omni.metrics import Labels

from .accuracy import accuracy_reward
from .format import Completion

ROUNDING = 1e-4  # a share that came through float32 must not lose to itself


def order_reward(
    completions: Sequence[Completion],
    label: Sequence[str | None],
    clip: Sequence[str | None],
    shuffled_accuracy: Sequence[float | None],
    labels: Sequence[Labels | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """1.0 for a right answer of a group that beats its shuffled twin, else 0.0; None where that was not measured.

    Args:
        clip: what the completions of a group have in common.
        shuffled_accuracy: share of right answers with shuffled frames, the same for all of a group.

    Raises:
        LabelError: a true label that is not in its label space.
        ValueError: a `shuffled_accuracy` that is no share.

    >>> answers = ["<answer>sad</answer>", "<answer>happy</answer>"]
    >>> order_reward(answers, label=["sad"] * 2, clip=["a.mp4"] * 2, shuffled_accuracy=[0.25] * 2)
    [1.0, 0.0]
    >>> order_reward(answers, label=["sad"] * 2, clip=["a.mp4"] * 2, shuffled_accuracy=[0.5] * 2)
    [0.0, 0.0]
    """
    right = accuracy_reward(completions, label=label, labels=labels)
    groups: dict[str, list[float]] = defaultdict(list)
    for name, hit in zip(clip, right, strict=True):
        if name is not None and hit is not None:
            groups[name].append(hit)
    ordered = {name: fmean(hits) for name, hits in groups.items()}
    return [
        None if name is None or hit is None or share is None else hit * (ordered[name] > _share(share) + ROUNDING)
        for name, hit, share in zip(clip, right, shuffled_accuracy, strict=True)
    ]


def _share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"shuffled_accuracy is {share}. Give the share of right answers, from 0 to 1.")
    return share
