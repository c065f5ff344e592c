"""One frame of a synthetic actor: a person, a scene and the weights of an expression in, a picture out.

    actor, scene = Actor(rig, seed=3), Scene(seed=3, size=160)
    frame = render(actor, scene, {"mouthSmile_L": 1.0, "mouthSmile_R": 1.0}, Pose(yaw=0.1))   # (160, 160, 3)
    uint8

Everything about a person follows from the seed: 100 identity modes, skin, hair, iris, brows, beard, age,
clothes, glasses. Everything about a scene too: background, light, camera, and how the camera and the network
spoil the picture (`Degradation`). Expression lines (between the brows, beside the nose …) are textures
weighted by the shapes, because the rig is too coarse to fold skin. The picture is the same for the same
seeds, weights, pose and random state.

Letters: V vertices, F triangles, S the side of the picture.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omni.errors import OmniError

try:
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    from . import hair, raster, texture
except ImportError as err:
    raise OmniError(
        f"Rendering actors needs {err.name}. Install the extra: pip install 'omni-emotion[actors]'",
        code="missing_extra",
    ) from err
from .facekit import EYE_LEFT, EYE_RIGHT, Rig

# fmt: off
SKIN_TONES = (  # light to dark; drawn evenly so that results can be reported per tone
    (255, 224, 196), (241, 194, 160), (224, 172, 135), (198, 134, 98), (158, 103, 72), (118, 76, 52),
    (92, 58, 40),
)
_HAIR_COLOURS = (
    (30, 22, 18), (52, 36, 25), (86, 56, 34), (120, 82, 48), (176, 136, 84), (150, 70, 40), (120, 118, 116),
    (200, 196, 190),
)
_IRIS_COLOURS = ((70, 45, 25), (95, 65, 35), (60, 95, 130), (85, 115, 85), (110, 120, 125))
# fmt: on
_PIVOT = np.array([0.0, -6.0, -2.0], np.float32)  # cm, where the neck turns
_FRAME_CM = 36.0  # width of the picture at zoom 1
_METERED = 150.0  # brightness that the camera aims at for a face


class Pose(NamedTuple):
    """Where the head points, in radians: yaw to the actor's left, pitch down, roll to the left shoulder."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True)
class Degradation:
    """What cameras and networks do to a picture. The default does nothing."""

    gray: bool = False
    blur: float = 0.0  # pixels, standard deviation
    gain: float = 1.0  # exposure
    jpeg: int | None = None  # quality 1 to 95, block artefacts as of a strongly compressed clip


class Actor:
    """A person, drawn from `seed`.

    Attributes:
        tone: index into `SKIN_TONES`. feminine: which conventions of hair, brows, beard and lips were used.
        vertices: (V, 3) float32, the neutral head with hair, then what is worn over it.
    """

    def __init__(self, rig: Rig, seed: int) -> None:
        rng = np.random.default_rng([seed, 0xAC7])
        self.rig, self.seed = rig, seed
        self.feminine = bool(rng.random() < 0.5)
        self.tone = int(rng.integers(len(SKIN_TONES)))
        self.age = float(rng.beta(1.6, 2.2))  # 0 young, 1 old: depth of lines, gray of hair
        identity = rng.normal(0, 0.9, len(rig.identities)).clip(-2.2, 2.2).astype(np.float32)
        identity[60:] *= 0.5  # the last modes are mostly scan noise
        head = rig.vertices + np.tensordot(identity, rig.identities, 1)
        self._paint(rng)
        self._dress(head, rng)

    def _paint(self, rng: np.random.Generator) -> None:
        """Colours, skin texture and the strength of expression lines."""
        dark = self.tone >= 4
        skin = np.array(SKIN_TONES[self.tone]) * rng.uniform(0.93, 1.05)
        colour = np.array(_HAIR_COLOURS[rng.integers(3 if dark else len(_HAIR_COLOURS))], float)
        if self.age > 0.65:
            colour += (self.age - 0.65) * 2 * (np.array([185, 182, 178]) - colour)
        iris = _IRIS_COLOURS[rng.integers(2 if dark else len(_IRIS_COLOURS))]
        cloth, frame = rng.uniform(25, 225, 3), rng.uniform(8, 60, 3)
        self.palette = np.array([skin, colour, iris, cloth, frame], np.float32)  # rows as raster.PALETTE
        beard = 0.0 if self.feminine else float(rng.choice([0, 0.25, 0.5, 0.9], p=[0.45, 0.3, 0.13, 0.12]))
        look = texture.Skin(
            tone=tuple(skin),
            hair=tuple(colour),
            lipstick=float(rng.uniform(0.1, 0.65) if self.feminine else rng.uniform(0.0, 0.15)),
            lashes=1.0 if self.feminine else 0.75,
            beard=beard,
            brow_width=float(rng.uniform(7, 12) * (0.8 if self.feminine else 1.1)),
            brow_density=float(rng.uniform(0.75, 0.97)),
            brow_drop=float(rng.uniform(5, 10)),
        )
        self.maps = texture.skin_maps(self.rig)
        self.texture = texture.paint_skin(self.maps, look, rng)
        self.strands = texture.smooth_noise(rng, 512, (40, 160), (0.12, 0.10))

    def _dress(self, head: np.ndarray, rng: np.random.Generator) -> None:
        """Hair, clothes and glasses: vertices, triangles, materials, fields."""
        rig = self.rig
        self.style = hair.choose_style(rng, self.feminine)
        field = hair.hair_field(rig, head, self.style, float(rng.uniform(-0.4, 0.8)))
        cloth = hair.cloth_field(head, float(rng.uniform(-13.2, -11.4)))
        normal = np.empty_like(head)
        raster.normals(head, rig.triangles, normal)
        lifted = hair.lift_hair(head, normal, field, self.style, self.strands).astype(np.float32)
        sheets = [hair.falling_hair(head, self.style, rng)] if self.style.falls_to is not None else []
        self.glasses = bool(rng.random() < 0.15)
        if self.glasses:
            sheets.append(hair.spectacles(head, rig, rng))
        starts = len(head) + np.cumsum([0, *(len(sheet.vertices) for sheet in sheets)])
        extra = [sheet.vertices for sheet in sheets]
        self.vertices = np.vstack([lifted, *extra])
        self.rest = np.vstack([head, *extra]).astype(np.float32)
        worn = [start + sheet.triangles for start, sheet in zip(starts, sheets, strict=False)]
        self.triangles = np.vstack([rig.triangles, *worn]).astype(np.int32)
        codes = [np.full(len(sheet.triangles), sheet.material, np.int32) for sheet in sheets]
        self.materials = np.concatenate([rig.materials, *codes])
        count = len(self.vertices) - len(head)
        self.fields = np.pad(np.stack([field, cloth], 1), ((0, count), (0, 0)), constant_values=-9)
        self.follow = np.pad(np.clip((head[:, 1] + 14) / 6, 0, 1), (0, count), constant_values=1).astype(np.float32)
        eyes = [rig.triangles[rig.materials == side] for side in (EYE_LEFT, EYE_RIGHT)]
        self.apexes = np.stack([head[e.ravel()[rig.vertices[e.ravel(), 2].argmax()]] for e in eyes])


class Scene:
    """Background, light, camera and picture quality, drawn from `seed`.

    Attributes:
        size: side of the picture in pixels. degradation: gray, blur, exposure, compression; drawn from the
            seed unless given (`Degradation()` for a clean picture).
    """

    def __init__(self, seed: int, size: int = 160, degradation: Degradation | None = None) -> None:
        rng = np.random.default_rng([seed, 0x5CE])
        self.seed, self.size = seed, size
        self.background = _background(rng, size)
        light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.1, 0.8), 1.0])
        self.light = light / np.linalg.norm(light)
        half = self.light + [0, 0, 1]
        self.half = half / np.linalg.norm(half)
        warmth = np.array([1, rng.uniform(0.93, 1), rng.uniform(0.84, 1)])
        self.light_colour = (warmth if rng.random() < 0.75 else warmth[::-1]) * rng.uniform(0.75, 1.05)
        self.ambient = float(rng.uniform(0.25, 0.5))
        self.distance = float(rng.uniform(58, 85))  # cm
        self.zoom = float(rng.uniform(1.0, 1.5))
        slack = (self.zoom - 0.8) * 1.2  # cm the face may be off the centre
        self.offset = (float(rng.uniform(-1, 1) * slack), float(rng.uniform(-1, 1) * slack))
        self.grain = float(rng.uniform(1, 5))
        drawn = _draw_degradation(rng, size)
        self.degradation = drawn if degradation is None else degradation


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A soft gradient with blotches, as an out-of-focus room, (S, S, 3) float32."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    kind = rng.integers(3)
    fade = (y, x, np.hypot(x - 0.5, y - 0.4))[kind][..., None]
    near, far = _wall_colour(rng), _wall_colour(rng)
    blotches = texture.smooth_noise(rng, size, (5, 14), (10, 6))
    return (near * (1 - fade) + far * fade + blotches[..., None]).astype(np.float32)


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    """Mostly muted, as rooms are."""
    gray = rng.uniform(30, 220)
    return gray + rng.uniform(0.1, 0.7) * (rng.uniform(30, 220, 3) - gray)


def _draw_degradation(rng: np.random.Generator, size: int) -> Degradation:
    """About half of the scenes are spoilt in some way."""
    return Degradation(
        gray=bool(rng.random() < 0.12),
        blur=float(rng.uniform(0.3, 1.3) * size / 160) if rng.random() < 0.3 else 0.0,
        gain=float(np.exp(rng.normal(0, 0.12))),
        jpeg=int(rng.integers(25, 75)) if rng.random() < 0.3 else None,
    )


def render(
    actor: Actor,
    scene: Scene,
    weights: Mapping[str, float],
    pose: Pose | tuple[float, float, float] = (0.0, 0.0, 0.0),
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Draw one frame.

    Args:
        weights: expression shapes of the rig (`facekit.SHAPES`), 0 to about 1.
        pose: of the head.
        rng: draws the sensor noise; without it the picture has none.

    Returns:
        (S, S, 3) uint8, RGB.

    Raises:
        OmniError: a weight names a shape that the rig does not have.
    """
    vertices = actor.vertices.copy()
    for name, weight in weights.items():
        if name not in actor.rig.expressions:
            raise OmniError(f"The rig has no shape {name!r}. Use one of: {', '.join(actor.rig.expressions)}.")
        if abs(weight) > 1e-3:
            raster.add_delta(vertices, *actor.rig.expressions[name], np.float32(weight))
    raster.turn(vertices, actor.follow, _rotation(*pose), _PIVOT)
    normal = np.empty_like(vertices)
    raster.normals(vertices, actor.triangles, normal)
    depth, owner, bary = raster.buffers(scene.size)
    raster.rasterise(_project(vertices, scene), actor.triangles, actor.materials, depth, owner, bary)
    picture = np.empty((scene.size, scene.size, 3), np.float32)
    wrinkles = wrinkle_weights(weights, actor.age)
    raster.shade(
        picture, scene.background, owner, bary, actor.triangles, actor.materials, normal, actor.rest,
        actor.fields, actor.rig.uv_triangles, actor.rig.uv, actor.texture, actor.maps.wrinkles, wrinkles,
        actor.strands, np.array(actor.style.strands), actor.style.cover, actor.palette, actor.apexes,
        scene.light, scene.light_colour, scene.ambient, scene.half,
    )  # fmt: skip
    return _develop(picture * _exposure(actor, scene), scene, rng)


def wrinkle_weights(weights: Mapping[str, float], age: float) -> np.ndarray:
    """How deep each expression line is, 0 to 1, in the order of `raster.WRINKLES`: (7,) float32."""

    def both(name: str) -> float:
        return 0.5 * (weights.get(f"{name}_L", 0.0) + weights.get(f"{name}_R", 0.0))

    brow_down, sneer = both("browDown"), both("noseSneer")
    depth = {
        "frown": 0.45 * brow_down,
        "forehead": 0.5 * (both("browInnerUp") + both("browOuterUp")),
        "nasolabial": max(0.6 * both("mouthSmile"), 0.9 * sneer, 0.6 * both("mouthUpperUp")),
        "crow": 0.8 * both("cheekSquint"),
        "nose": sneer,
        "chin": 0.8 * weights.get("mouthShrugLower", 0.0),
        "brow_shadow": 0.3 * max(0.0, brow_down - both("browInnerUp")),
    }
    return (np.array([depth[name] for name in raster.WRINKLES]) * (0.75 + 0.5 * age)).clip(0, 1).astype(np.float32)


def _exposure(actor: Actor, scene: Scene) -> float:
    """A camera opens up for dark faces and closes for bright ones, by two fifths of what would level them."""
    light = scene.ambient + 0.75 * scene.light_colour.mean()
    return float((_METERED / (actor.palette[0].mean() * light)) ** 0.4)


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rz(roll) Ry(yaw) Rx(pitch), (3, 3) float32."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def _project(vertices: np.ndarray, scene: Scene) -> np.ndarray:
    """Pinhole camera: (V, 3) cm → (V, 3) sample x, y and inverse distance."""
    side = scene.size * raster.SAMPLES
    near = 1 / (scene.distance - vertices[:, 2])
    scale = scene.zoom * side * scene.distance / _FRAME_CM * near
    centre = side * (0.46 + 0.04 * (scene.zoom - 1))
    x = side / 2 + (vertices[:, 0] + scene.offset[0]) * scale
    y = centre - (vertices[:, 1] - 1.6 + scene.offset[1]) * scale
    return np.stack([x, y, near], 1).astype(np.float32)


def _develop(picture: np.ndarray, scene: Scene, rng: np.random.Generator | None) -> np.ndarray:
    """Apply the scene's degradation and noise: (S, S, 3) float32 → uint8."""
    loss = scene.degradation
    picture = picture * loss.gain
    if loss.gray:
        picture = np.repeat(picture @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, 2)
    if loss.blur > 0:
        picture = gaussian_filter(picture, (loss.blur, loss.blur, 0), truncate=2.5)
    if rng is not None:
        shape = (*picture.shape[:2], 1 if loss.gray else 3)
        picture = picture + scene.grain * rng.standard_normal(shape, dtype=np.float32)
    frame = picture.clip(0, 255).astype(np.uint8)
    return frame if loss.jpeg is None else _compress(frame, loss.jpeg)


def _compress(frame: np.ndarray, quality: int) -> np.ndarray:
    """A round trip through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))
