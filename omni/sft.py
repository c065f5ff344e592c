"""The cold start's trainer: TRL's `SFTTrainer`, with the head run only where there is an answer.

    loss = 1/B Σ_b 1/|y_b| Σ_t −log p(y_bt | clip, prompt, y_b<t)  +  AUX · aux of the fusion adapter

Two departures from the stock loss, both measured (`docs/log.md`):
 - TRL's fused head scores every position wherever Triton does not run; with a vocabulary of 49,152 and a third of the
   tokens in answers, that is most of a step on a processor.
 - Every answer counts the same, however long it is. With the mean over tokens, a bare label (8 tokens) has a seventh of
   the weight of a reasoned answer, and the label is what the answer is for.
"""

import torch
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from .errors import TrainingError
from .fusion import AUX


class ColdStartTrainer(SFTTrainer):
    """`SFTTrainer` with the loss above.

    Raises:
        TrainingError: settings for another loss, which would have no effect.
    """

    def __init__(self, model, args: SFTConfig, **kwargs):
        for name, value in (("loss_type", "nll"), ("label_smoothing_factor", 0.0)):
            if getattr(args, name) != value:
                raise TrainingError(f"The cold start has a loss of its own. Set {name}: {value}.", code="settings")
        super().__init__(model, args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over answers of the mean negative log-likelihood of their tokens."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)  # (B, L): what each place predicts
        out = model(**inputs, use_cache=False, logits_to_keep=labels != -100)
        loss = mean_of_answers(out.logits, labels)
        if out.aux_loss is not None:
            loss = loss + AUX * out.aux_loss
        return (loss, out) if return_outputs else loss


def mean_of_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of the mean cross-entropy of a row's labels; -100 is no label.

    Args:
        logits: (places, V), the logits of the places that have a label, row by row.
        labels: (B, L).

    >>> logits = torch.tensor([1.0, 3.0]).log().expand(3, 2)  # p = 1/4, 3/4
    >>> mean_of_answers(logits, torch.tensor([[0, 1], [-100, 1]]))  # (ln 4 + ln 4/3) / 2 and ln 4/3, averaged
    tensor(0.5623)
    """
    counted = labels != -100
    losses = torch.nn.functional.cross_entropy(logits.float(), labels[counted], reduction="none")  # (places,)
    weights = counted / counted.sum(1, keepdim=True).clamp(min=1)  # (B, L)
    return (losses * weights[counted]).sum() / len(labels)
