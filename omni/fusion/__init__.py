"""Fusion adapters: how the streams of a clip become soft tokens. One contract, a dict of mechanisms.

What each computes, where it comes from and how faithful it is, its docstring says; `docs/fusion.md` is the overview.
To add one: a class in the file of its stage, a line in the dict, a row in the overview.
"""

from torch import nn

from .contract import AUX, Fused, Fusion, Instruction
from .cross import CompositeInteraction, CrossmodalTransformer, DynamicModalityAttention, InstructionGating
from .foundation import BimodalAutoencoder, Concat, MultimodalAttention, NeuroFuzzy, TemporalAttention
from .multiscale import MultiscaleVLAD
from .optimization import PairwiseAttention, RecursiveJointAttention
from .released import InstructionRouted

FUSIONS: dict[str, type[nn.Module]] = {
    "concat": Concat,
    "temporal_attention": TemporalAttention,
    "neuro_fuzzy": NeuroFuzzy,
    "bimodal_autoencoder": BimodalAutoencoder,
    "multimodal_attention": MultimodalAttention,
    "pairwise_attention": PairwiseAttention,
    "recursive_joint_attention": RecursiveJointAttention,
    "multiscale_vlad": MultiscaleVLAD,
    "crossmodal_transformer": CrossmodalTransformer,
    "instruction_gating": InstructionGating,
    "dynamic_modality_attention": DynamicModalityAttention,
    "composite_interaction": CompositeInteraction,
    "instruction_routed": InstructionRouted,  # the released projectors: for imported checkpoints, not on the contract
}
MECHANISMS: dict[str, type[Fusion]] = {name: kind for name, kind in FUSIONS.items() if issubclass(kind, Fusion)}

__all__ = ["AUX", "FUSIONS", "MECHANISMS", "Fused", "Fusion", "Instruction", "InstructionRouted"]
