"""What a fusion adapter says of a clip: how much each modality counts, and where in time it looked.

    gates   sum of the gate over the streams of a modality: expression and video are "video", audio and prosody "audio"
    maps    the heaviest steps of every stream in `Fused.looks`; a step reaches half-way to the ones beside it

Both are read from one more pass of the adapter. A mechanism without a gate has
none, one that does not weigh time has no maps, and the released projectors have neither: their gate weighs three
readings of the picture and never a modality.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .answer import Look
from .fusion import Fusion
from .fusion.placement import Residual
from .rollout import unwrapped

TOP = 3  # steps of a stream
MODALITY = {"expression": "video", "prosody": "audio"}  # of a stream; others are called like theirs


class Looks(NamedTuple):
    """The fields `gates` and `maps` of one `Answer`."""

    gates: dict[str, float] | None = None
    maps: tuple[Look, ...] = ()


@torch.inference_mode()
def looks_of(model, inputs: dict) -> list[Looks]:
    """Gates and maps of B clips.

    Args:
        model: an `OmniForConditionalGeneration`, or a `PeftModel` around it.
        inputs: the clips as `build_inputs` put them together.
    """
    backbone = unwrapped(model).model
    fusion, features, times = backbone.fusion, inputs["clip_features"], inputs["clip_times"]
    mechanism = fusion.added if isinstance(fusion, Residual) else fusion
    if not isinstance(mechanism, Fusion):
        return [Looks()] * len(inputs["input_ids"])
    asked = backbone.instruction(inputs.get("instruction_ids"), inputs.get("instruction_mask"))
    fused = mechanism(features, times, asked)
    return [
        Looks(
            None if fused.gates is None else shares(mechanism.streams, fused.gates[i]),
            tuple(
                look
                for name, weights in fused.looks.items()
                if name in times
                for look in top(name, weights[i], times[name][i])
            ),
        )
        for i in range(len(inputs["input_ids"]))
    ]


def shares(streams: tuple[str, ...], gates: Tensor) -> dict[str, float]:
    """A gate over streams (M,) as shares of modalities.

    >>> shares(("expression", "video", "audio"), torch.tensor([0.25, 0.25, 0.5]))
    {'video': 0.5, 'audio': 0.5}
    """
    found: dict[str, float] = {}
    for name, share in zip(streams, gates.tolist(), strict=True):
        modality = MODALITY.get(name, name)
        found[modality] = found.get(modality, 0.0) + share
    return {modality: round(share, 4) for modality, share in found.items()}


def top(stream: str, weights: Tensor, times: Tensor) -> list[Look]:
    """The heaviest steps of a stream, the heaviest first.

    Args:
        weights: (T,)
        times: of the steps, (T,) in seconds, NaN where there is none.

    >>> top("audio", torch.tensor([0.25, 0.75, 0.0]), torch.tensor([0.5, 1.5, torch.nan]))
    [Look(stream='audio', from_s=1.0, to_s=2.0, weight=0.75), Look(stream='audio', from_s=0.0, to_s=1.0, weight=0.25)]
    """
    there = ~times.isnan()
    at, which = times[there].float().unique(return_inverse=True)  # patches of a frame have its time
    weights = torch.zeros_like(at).index_add(0, which, weights[there])
    if not len(at):
        return []
    middles = (at[1:] + at[:-1]) / 2
    first, last = (at[0], at[0]) if len(at) == 1 else (2 * at[0] - middles[0], 2 * at[-1] - middles[-1])
    edges = torch.cat([first[None], middles, last[None]]).clamp(min=0).tolist()
    order = [i for i in weights.argsort(descending=True)[:TOP].tolist() if weights[i] > 0]
    return [Look(stream, round(edges[i], 3), round(edges[i + 1], 3), round(float(weights[i]), 4)) for i in order]
