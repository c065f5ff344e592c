"""Fusion adapters: how the streams of a clip become soft tokens. One contract, a dict of mechanisms."""

from .contract import Fused, Fusion
from .foundation import Concat

FUSIONS: dict[str, type[Fusion]] = {"concat": Concat}

__all__ = ["FUSIONS", "Fused", "Fusion"]
