"""The label of a completion: 1 if it is the true one, else 0.

    r = 1 if canonical(answer) = canonical(label) in the label space, else 0        range {0, 1}

Columns: `label`, the true emotion; `labels` (optional), the label space.

Source: R1-Omni's accuracy reward (arXiv 2503.05379), by `omni.metrics.score_answer`, which evaluation calls too.
Two differences from the released code: a bare label without the answer tag gets 0 (there it is compared as it
stands), and synonyms count ("anger" for angry).

How it is gamed: with a thought that has nothing to do with the clip, and by always answering the most frequent
label, which earns its share. Shown by `test_the_most_frequent_label_earns_its_share_without_a_look`. Lists and
bare labels do not pay: `test_neither_a_bare_label_nor_a_list_of_labels_is_accurate`.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni.emotions import LabelSpace, label_space
from omni.metrics import Labels, score_answer

from .format import Completion, completion_text

SPACE = "ekman7"  # where no label space is given, as everywhere in the project


def accuracy_reward(
    completions: Sequence[Completion],
    label: Sequence[str | None],
    labels: Sequence[Labels | None] | None = None,
    **columns: object,
) -> list[float | None]:
    """1.0 if the answer is the true label, else 0.0; None for a clip without a label.

    Args:
        label: the true label of each completion's clip.
        labels: the label space of each, as `omni.emotions.label_space` takes it; `SPACE` where there is none.

    Raises:
        LabelError: a true label that is not in its label space.

    >>> accuracy_reward(["<answer>joy</answer>", "<answer>sad</answer>", "sad"], label=["happy", None, "sad"])
    [1.0, None, 0.0]
    """
    spaces = label_spaces(labels, len(completions))
    return [
        None if truth is None else float(score_answer(truth, completion_text(completion), space).label_right)
        for completion, truth, space in zip(completions, label, spaces, strict=True)
    ]


def label_spaces(labels: Sequence[Labels | None] | None, count: int) -> list[LabelSpace]:
    """The label space of each of `count` completions.

    >>> [space.name for space in label_spaces(["mer6", None], 2)]
    ['mer6', 'ekman7']
    """
    given = [None] * count if labels is None else labels
    return [label_space(SPACE if space is None else space) for space in given]
