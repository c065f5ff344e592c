"""The label of a completion: 1 if it is the true one, else 0.

As R1-Omni's accuracy reward (arXiv 2503.05379), by `omni.metrics.score_answer`, which evaluation
calls too. Two differences from the released code: a bare label without the answer tag gets 0 (there it is
compared as it stands), and synonyms count ("anger" for angry).
"""

from __future__ import annotations

from collections.abc import Sequence

from omni.metrics import score_answer

from .format import Completion, completion_text


def accuracy_reward(
    completions: Sequence[Completion],
    label: Sequence[str | None],
    labels: Sequence[str] | None = None,
    **columns: object,
) -> list[float | None]:
    """1.0 if the answer is the true label, else 0.0; None for a clip without a label.

    How it can be gamed: with a thought that has nothing to do with the clip; always answering the most
    frequent label earns its share.

    Args:
        label: the true label of each completion's clip.
        labels: the label space of each, as `omni.emotions.label_space` takes it; `ekman7` if None.

    Raises:
        LabelError: a true label that is not in its label space.

    >>> accuracy_reward(["<answer>joy</answer>", "<answer>sad</answer>", "sad"], label=["happy", None, "sad"])
    [1.0, None, 0.0]
    """
    spaces = labels if labels is not None else ["ekman7"] * len(completions)
    return [
        None if truth is None else float(score_answer(truth, completion_text(completion), space).label_right)
        for completion, truth, space in zip(completions, label, spaces, strict=True)
    ]
