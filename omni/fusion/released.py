"""The projectors of the released R1-Omni and HumanOmni-0.5B: three readings of the frames, weighed by the instruction.

    video, body = readout(s2(SiLU(conv3d(s1(x)))))      two convolutional branches of the same shape
    face        = half-size(mlp(x))                     every patch by itself
    w           = softmax(gate(BERT(instruction)[CLS]))                                            (3,)
    tokens      = [ w0·video + w1·body + w2·face ; mlp(mean of 3 encoder steps) ]

Source: HumanOmni (arXiv 2501.15111), R1-Omni (arXiv 2503.05379). Fidelity: exact; the numbers of the reference are in
`tests/assets/humanomni-tiny`. All three branches see the same features: nothing crops a face or a body. Pooling of the
sound is done where the tower is (`encoders.hear`). A sense that is not there has no tokens at all, while the
mechanisms of `contract.py` fill its place with a learned token.

Letters: `B` clips, `T` frames, `S` patches on a side of a frame, `D` vision width, `E` width of the language model.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ..errors import ModelError
from .contract import Fused, Instruction

GATE_WIDTH = 3584  # the same at every model size
BRANCHES = ("video", "body", "face")  # in the order of the router's probabilities
EPS = 1e-5  # timm's norm of RegNet blocks


class InstructionRouted(nn.Module):
    """The released projectors as a fusion mechanism.

    Args:
        widths: width of every stream; "video" and "audio" are used.
        embedding: `E`.
        side: `S`; a frame gives ⌈S/2⌉² tokens.
        router: configuration of the BERT that reads the instruction.
    """

    conditioned = False  # it reads BERT's words, and takes no embeddings of the language model

    def __init__(self, widths: dict[str, int], embedding: int, side: int, router: dict):
        super().__init__()
        self.side, self.streams, self.gated = side, ("video", "audio"), ()
        vision = widths["video"]
        self.video, self.body = (ConvolutionalBranch(vision, embedding) for _ in range(2))
        self.face = mlp(vision, embedding)
        self.audio = mlp(widths["audio"], embedding)
        self.bert = BertModel(BertConfig(**router), add_pooling_layer=False)
        self.gate = mlp(self.bert.config.hidden_size, len(BRANCHES), GATE_WIDTH)

    def forward(
        self, features: dict[str, Tensor], times: dict[str, Tensor], instruction: Instruction | None = None
    ) -> Fused:
        """Fuse the streams of B clips.

        Args:
            features: {"video": (B, T·S², D), "audio": (B, A, Da)}; a stream that is not there has no tokens.
            times: {stream: (B, steps)}, NaN throughout for a clip without the stream.
            instruction: ids and mask of the instruction in BERT's words; needed for clips with a picture.

        Raises:
            ModelError: a picture without an instruction.
        """
        parts: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        gates = None
        if "video" in features:
            if instruction is None:
                raise ModelError("This model weighs its picture by the instruction: give instruction_ids with a clip.")
            gates = self.route(instruction)  # (B, 3)
            parts["video"] = self._see(features["video"], gates)
            frames = ~times["video"].unflatten(1, (-1, self.side**2))[:, :, 0].isnan()  # (B, T)
            present["video"] = frames.repeat_interleave(math.ceil(self.side / 2) ** 2, 1)
        if "audio" in features:
            parts["audio"] = self.audio(features["audio"].to(self.audio[0].weight.dtype))
            present["audio"] = ~times["audio"].isnan()
        return Fused(parts, gates=gates, present=present)

    def route(self, instruction: Instruction) -> Tensor:
        """How much each of `BRANCHES` counts, (B, 3)."""
        states = self.bert(input_ids=instruction.ids, attention_mask=instruction.mask).last_hidden_state
        return self.gate(states[:, 0]).softmax(-1)

    def _see(self, x: Tensor, gates: Tensor) -> Tensor:
        x = x.to(self.face[0].weight.dtype).unflatten(1, (-1, self.side, self.side))  # (B, T, S, S, D)
        faces = self.face(x).permute(0, 1, 4, 2, 3)  # (B, T, E, S, S)
        half = F.interpolate(
            faces.flatten(0, 1), size=(math.ceil(self.side / 2),) * 2, mode="bilinear", align_corners=False
        )
        face = half.unflatten(0, faces.shape[:2]).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (B, T·⌈S/2⌉², E)
        video, body = self.video(x), self.body(x)
        w = gates[:, :, None, None].to(face.dtype)  # (B, 3, 1, 1)
        return w[:, 0] * video + w[:, 1] * body + w[:, 2] * face

    @torch.no_grad()
    def unfamiliar(self, features: dict[str, Tensor], times: dict[str, Tensor]) -> dict[str, Tensor]:
        """No stream of this mechanism is gated."""
        return {}


def mlp(inputs: int, outputs: int, hidden: int | None = None) -> nn.Sequential:
    """Linear, GELU, linear; as wide inside as its output unless `hidden` says otherwise."""
    return nn.Sequential(nn.Linear(inputs, hidden or outputs), nn.GELU(), nn.Linear(hidden or outputs, outputs))


class ConvolutionalBranch(nn.Module):
    """Frames (B, T, S, S, D) to tokens (B, T·⌊S/2⌋², E), mixing neighbours in space and time."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.s1 = nn.ModuleDict({"b1": Bottleneck(inputs, width), "b2": Bottleneck(width, width)})
        self.sampler = nn.ModuleList([nn.Conv3d(width, width, 2, stride=(1, 2, 2), padding=(1, 0, 0))])
        self.s2 = nn.ModuleDict({"b1": Bottleneck(width, width), "b2": Bottleneck(width, width)})
        self.readout = mlp(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, S, S, D) -> (B, T·⌊S/2⌋², E), in the order time, row, column."""
        batch, frames = x.shape[:2]
        x = x.flatten(0, 1).permute(0, 3, 1, 2)  # (B·T, D, S, S)
        for block in self.s1.values():
            x = block(x)
        x = x.unflatten(0, (batch, frames)).transpose(1, 2)  # (B, E, T, S, S)
        x = F.silu(self.sampler[0](x))[:, :, :frames]  # the padding in time makes one step more
        x = x.transpose(1, 2).flatten(0, 1)  # (B·T, E, S/2, S/2)
        for block in self.s2.values():
            x = block(x)
        return self.readout(x.unflatten(0, (batch, frames)).permute(0, 1, 3, 4, 2).flatten(1, 3))


class Bottleneck(nn.Module):
    """A RegNet block (arXiv 2003.13678) with squeeze-and-excite, depth-wise in the middle; names as timm's."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.conv1 = ConvNorm(inputs, width)
        self.conv2 = ConvNorm(width, width, 3, groups=width)
        self.se = Excite(width, round(inputs * 0.25))
        self.conv3 = ConvNorm(width, width)
        self.downsample = ConvNorm(inputs, width) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, width, S, S)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.silu(self.conv2(F.silu(self.conv1(x))))
        return F.silu(self.conv3(self.se(y)) + shortcut)


class ConvNorm(nn.Module):
    """A convolution without bias and a LayerNorm over channels (`bn` in the released files)."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
        self.bn = nn.LayerNorm(outputs, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, outputs, S, S)."""
        return self.bn(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Excite(nn.Module):
    """Squeeze-and-excite (arXiv 1709.01507): channels weighed by what the whole picture holds."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, S, S), the same shape."""
        return x * self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
