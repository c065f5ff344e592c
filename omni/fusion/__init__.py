"""Fusion adapters: how the streams of a clip become soft tokens. One contract, a dict of mechanisms."""

from torch import nn

from .contract import Fused, Fusion, Instruction
from .foundation import Concat
from .released import InstructionRouted

FUSIONS: dict[str, type[nn.Module]] = {"concat": Concat, "instruction_routed": InstructionRouted}

__all__ = ["FUSIONS", "Fused", "Fusion", "Instruction"]
