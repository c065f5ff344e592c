"""Which fusion adapter a model has, and where it stands: in the place of the old one, or on top of it.

    {"name": NAME, "tokens": 32, …}                                  replace: the adapter puts out the soft tokens
    {"name": NAME, …, "placement": "residual", "onto": {…}}          residual: it adds to those of the adapter `onto`

    replace     y = added(x)                 a controlled comparison: nothing else differs
    residual    y = onto(x) + gain ⊙ added(x)  gain = 0 at first: the logits are the checkpoint's until it learns

These are the values of `OmniConfig.fusion`, so the choice is saved with the model; an adapter folder keeps it in its
`adapter_config.json`.
"""

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from . import FUSIONS, MECHANISMS
from .contract import Fused, Fusion, Instruction, pool

PLACEMENTS = ("replace", "residual")
KEPT = ("tokens", "width", "clock", "gated", "bins")  # options that another mechanism takes over
STEP = 8  # what the widths of a search are multiples of; heads divide it
WIDEST = 4096
WITHIN = 0.1  # how near a budget of parameters must be met


class Residual(nn.Module):
    """The tokens of one adapter, and what another one adds to them: nothing, until it has learned something.

    The other's N tokens are averaged or repeated where the first has fewer or more. Gates, maps and the auxiliary loss
    are the other's; where it has no gate, the first's.

    Args:
        onto: the adapter of a checkpoint.
        added: a mechanism on the contract.
    """

    def __init__(self, onto: nn.Module, added: Fusion):
        super().__init__()
        self.onto, self.added = onto, added
        self.gain = nn.Parameter(torch.zeros(added.embedding))
        self.streams, self.gated = added.streams, onto.gated
        self.conditioned = onto.conditioned or added.conditioned

    def forward(
        self, features: dict[str, Tensor], times: dict[str, Tensor], instruction: Instruction | None = None
    ) -> Fused:
        """Fuse the streams of B clips; arguments as in `Fusion.forward`."""
        base, extra = self.onto(features, times, instruction), self.added(features, times, instruction)
        every = extra.tokens.new_ones(extra.tokens.shape[:2], dtype=torch.bool)
        parts = {
            name: tokens + (self.gain * pool(extra.tokens, every, tokens.shape[1])).to(tokens.dtype)
            for name, tokens in base.parts.items()
        }
        gates = base.gates if extra.gates is None else extra.gates
        return replace(extra, parts=parts, present=base.present, gates=gates)

    def unfamiliar(self, features: dict[str, Tensor], times: dict[str, Tensor]) -> dict[str, Tensor]:
        """As the checkpoint's adapter says."""
        return self.onto.unfamiliar(features, times)


def new_fusion(fusion: dict[str, Any], widths: dict[str, int], embedding: int) -> nn.Module:
    """The untrained adapter that `OmniConfig.fusion` describes.

    Raises:
        ValueError: its name is unknown.
    """
    options = dict(fusion)
    name, placement = options.pop("name"), options.pop("placement", "replace")
    if name not in FUSIONS:
        raise ValueError(f"Unknown fusion {name!r}. Choose one of: {', '.join(FUSIONS)}.")
    if placement == "replace":
        return FUSIONS[name](widths, embedding, **options)
    onto = new_fusion(options.pop("onto"), widths, embedding)
    return Residual(onto, MECHANISMS[name](widths, embedding, **options))


def choose(model, processor, name: str, placement: str = "replace", **options) -> None:
    """Give a model another fusion adapter, untrained. What is not said stays as it was: tokens, width, clock.

    Args:
        name: a key of `MECHANISMS`.
        placement: "replace" or "residual".
        options: of `Fusion` and of the mechanism; or `parameters`, a budget that the width is searched for.

    Raises:
        ModelError: there is no such mechanism, placement or option, or the model cannot have it.
    """
    _check(model, name, placement, options)
    old = model.config.fusion
    chosen = {k: old[k] for k in KEPT if k in old} | {"name": name} | options
    chosen.setdefault("tokens", processor.clip_tokens)
    budget = chosen.pop("parameters", None)
    if budget is not None:
        sizes = {k: v for k, v in chosen.items() if k not in ("name", "width")}
        chosen["width"] = width_for(name, model.config.stream_widths, _embedding(model), budget, **sizes)
    if placement == "residual":
        chosen |= {"placement": placement, "onto": old}
    try:
        place(model, processor, chosen)
    except (ValueError, AssertionError) as err:  # torch asserts that heads divide the width
        raise ModelError(f"{name} cannot be made so: {err}. Change the option.", code="fusion") from err


def place(model, processor, fusion: dict[str, Any]) -> None:
    """Put the adapter that `fusion` describes into a model, on top of its own where it says so; untrained."""
    widths, embedding, own = model.config.stream_widths, _embedding(model), model.model.fusion
    if fusion.get("onto") == model.config.fusion:
        options = {k: v for k, v in fusion.items() if k not in ("name", "placement", "onto")}
        new: nn.Module = Residual(own, MECHANISMS[fusion["name"]](widths, embedding, **options))
    else:
        new = new_fusion(fusion, widths, embedding)
    model.model.fusion = new.to(next(own.parameters())).train(own.training)
    model.config.fusion = fusion
    processor.instructed = new.conditioned or ("onto" in fusion and processor.instructed)
    if "onto" not in fusion:
        processor.clip_tokens = fusion["tokens"]


def _embedding(model) -> int:
    return model.config.text_config.hidden_size


def _check(model, name: str, placement: str, options: dict[str, Any]) -> None:
    if name not in MECHANISMS:
        raise ModelError(f"Unknown fusion {name!r}. Choose one of: {', '.join(MECHANISMS)}.", code="fusion")
    if placement not in PLACEMENTS:
        raise ModelError(f"Unknown placement {placement!r}. Choose one of: {', '.join(PLACEMENTS)}.", code="fusion")
    known = {*inspect.signature(Fusion).parameters, *inspect.signature(MECHANISMS[name].build).parameters}
    known -= {"self", "widths", "embedding", "options"}
    wrong = sorted(set(options) - known - {"parameters"})
    if wrong:
        raise ModelError(
            f"{name} has no option {wrong[0]!r}. It has: {', '.join(sorted(known))}; or parameters, a budget.",
            code="fusion",
        )
    if "clip" not in model.config.placeholders:
        if placement == "replace":
            raise ModelError(
                "The prompt of an imported model names picture and sound apart, which only its own projectors fill. "
                "Use placement residual.",
                code="fusion",
            )
        if MECHANISMS[name].conditioned:
            raise ModelError(
                f"{name} reads the instruction in the language model's words, and an imported model gives BERT's. "
                "Choose another fusion.",
                code="fusion",
            )


def width_for(name: str, widths: dict[str, int], embedding: int, parameters: int, **options) -> int:
    """The width at which a mechanism has nearly so many parameters, so that mechanisms compare at one budget.

    Args:
        name: a key of `MECHANISMS`.
        widths, embedding, options: as for the mechanism; `tokens` among the options.
        parameters: the budget.

    Raises:
        ModelError: no width comes within a tenth of it.
    """

    def size(width: int) -> int:
        with torch.device("meta"):
            made = MECHANISMS[name](widths, embedding, width=width, **options)
        return sum(p.numel() for p in made.parameters())

    low, high = STEP, WIDEST
    while high - low > STEP:  # the size grows with the width
        middle = (low + high) // (2 * STEP) * STEP
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    best = min((low, high), key=lambda width: abs(size(width) - parameters))
    if abs(size(best) - parameters) > WITHIN * parameters:
        raise ModelError(
            f"{name} has {size(best):,} parameters at width {best}, and {parameters:,} are wanted. Set "
            f"parameters: {size(best)}, or choose a width.",
            code="fusion",
        )
    return best
