"""The painted skin of an actor: colour, lips, lids, brows, beard, and the lines that expressions draw.

The head comes without colour, so all of it is procedural, painted in the texture plane (512 × 512, y down) at
places given by the 68 landmarks. What is the same for all actors (masks, wrinkle lines) is made once per rig
in `skin_maps`; `paint_skin` mixes them with one actor's colours, and draws only what differs in shape, the
brows.

Lengths are texels. One texel is about 0.3 mm; a 160-pixel frame shows the face at a third of this resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from .facekit import Rig
from .raster import WRINKLES

SIDE = 512
_FINE = 2  # masks are drawn this much larger and averaged down
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)
_LASH = np.array([26.0, 18, 15])

Points = np.ndarray  # (n, 2) texels x, y


@dataclass(frozen=True, eq=False)
class SkinMaps:
    """Masks in 0 to 1 (SIDE, SIDE) that all actors of a rig share."""

    landmarks: Points  # (68, 2)
    flush: np.ndarray  # cheeks and nose
    hollow: np.ndarray  # the shade under the eyes and in the fold above them
    lash: np.ndarray  # the rim of the lids
    lips: np.ndarray
    beard: np.ndarray
    wrinkles: np.ndarray  # (SIDE, SIDE, 7) uint8, channels as raster.WRINKLES


@dataclass(frozen=True)
class Skin:
    """What differs between two actors' skins; colours are RGB 0 to 255."""

    tone: tuple[float, float, float]
    hair: tuple[float, float, float]
    lipstick: float  # 0 the colour of the skin, 1 red
    lashes: float
    beard: float  # 0 shaved, 1 full
    brow_width: float  # texels
    brow_density: float
    brow_drop: float  # texels below the landmarks


@lru_cache(maxsize=4)
def skin_maps(rig: Rig) -> SkinMaps:
    """Everything painted that does not depend on the actor."""
    at = rig.landmark_uv() * [SIDE, -SIDE] + [0, SIDE]  # (68, 2), y down
    outer_lip = np.vstack([_smooth(at[48:55]), _smooth(np.vstack([at[54:60], at[48]]))])
    cheeks = [(at[31] + at[2]) / 2, (at[35] + at[14]) / 2]
    flush = _blob(cheeks[0], 35, 30) + _blob(cheeks[1], 35, 30) + 0.8 * _blob(at[30], 35, 30)
    eyes = [at[_RIGHT_EYE], at[_LEFT_EYE]]
    hollow = np.zeros((SIDE, SIDE)) + sum(
        _blob(eye.mean(0) + [0, 13], 24, 8) + 0.85 * _blob(eye.mean(0) - [0, 8], 25, 8) for eye in eyes
    )
    lash = sum(
        gaussian_filter(_stroke([_smooth(eye[:4])], 2.2), 0.6)
        + 0.35 * gaussian_filter(_stroke([_smooth(np.vstack([eye[3:], eye[0]]))], 1.0), 0.6)
        for eye in eyes
    )
    jaw = np.vstack([at[3:14], at[54], at[35] + [3, 6], at[31] + [-3, 6], at[48]])
    lips = gaussian_filter(_fill(outer_lip), 1.1)
    beard = gaussian_filter(_fill(jaw), 6.0) * (1 - np.clip(2.5 * lips, 0, 1))
    lines = _wrinkle_lines(at)
    wrinkles = np.stack([(lines[name].clip(0, 1) * 255).astype(np.uint8) for name in WRINKLES], -1)
    return SkinMaps(at, flush, hollow, lash.clip(0, 1), lips, beard, np.ascontiguousarray(wrinkles))


def _wrinkle_lines(at: Points) -> dict[str, np.ndarray]:
    """One darkening mask per wrinkle, placed by the landmarks `at` (68, 2)."""
    glabella = (at[21] + at[22]) / 2
    frown = [glabella + np.array([[s * 4.5, -13], [s * 5.5, -2], [s * 8, 8]]) for s in (-1, 1)]
    top = min(at[19, 1], at[24, 1])
    across = np.linspace(at[18, 0] + 10, at[25, 0] - 10, 30)
    wave = 4 * np.sin((across - across[0]) / np.ptp(across) * 2 * np.pi - np.pi / 2)
    forehead = [np.stack([across, top - rise + wave], 1) for rise in (19, 33, 48)]
    folds, feet = [], []
    for nostril, mouth, eye, side in ((at[31], at[48], at[36], -1), (at[35], at[54], at[45], 1)):
        middle = (nostril + mouth) / 2 + [side * 11, -2]
        folds.append(_smooth(np.vstack([nostril + [side * 5, -6], middle, mouth + [side * 9, 3]])))
        feet += [eye + np.array([[side * 4, 4 * a], [side * 19, 19 * a]]) for a in (-0.35, 0, 0.35)]
    bridge = (at[27] + at[28]) / 2
    nose = [bridge + np.array([[-8, -3 + drop], [0, -5 + drop], [8, -3 + drop]]) for drop in (0, 7)]
    chin = [at[57] + np.array([[-11, 13], [0, 10.5], [11, 13]])]
    inner = [at[21] + [-4, 9], at[22] + [4, 9]]
    return {
        "frown": 1.5 * gaussian_filter(_stroke(frown, 2.6), 1.5) + 0.35 * _blob(glabella + [0, -1], 11, 14),
        "forehead": gaussian_filter(_stroke(forehead, 2), 1.3),
        "nasolabial": gaussian_filter(_stroke(folds, 2), 1.5),
        "crow": gaussian_filter(_stroke(feet, 1.5), 1.0),
        "nose": gaussian_filter(_stroke(nose, 1.5), 1.0),
        "chin": gaussian_filter(_stroke(chin, 2), 1.5),
        "brow_shadow": sum(_blob(point, 20, 9) for point in inner),
    }


def paint_skin(maps: SkinMaps, skin: Skin, rng: np.random.Generator) -> np.ndarray:
    """The colour of one actor's face, (SIDE, SIDE, 3) uint8."""
    tone = np.array(skin.tone, np.float32)
    hair = np.array(skin.hair, np.float32)
    grain = smooth_noise(rng, SIDE, (6, 24, 120, 512), (3.0, 2.0, 1.8, 2.2))
    colour = tone + grain[..., None] * np.array([1.1, 0.9, 0.8], np.float32)
    brightness = tone.mean()
    colour = _mix(colour, np.array([205, 95, 85]) * brightness / 190, 0.10 * maps.flush)
    colour *= 1 - (0.15 * maps.hollow)[..., None] * np.array([0.7, 0.9, 0.8], np.float32)
    bare_lip = tone * [0.84, 0.66, 0.66] + [10, 0, 4]
    red_lip = tone * [0.85, 0.35, 0.38] + [25, 0, 8]
    colour = _mix(colour, bare_lip * (1 - skin.lipstick) + red_lip * skin.lipstick, 0.85 * maps.lips)
    if skin.beard > 0:
        stubble = 1 + smooth_noise(rng, SIDE, (512,), (0.35,))
        colour = _mix(colour, hair * 0.8, (maps.beard * skin.beard * 0.75 * stubble).clip(0, 0.92))
    stubble = 1 + smooth_noise(rng, SIDE, (400,), (0.25,))
    brows = _brows(maps.landmarks, skin) * skin.brow_density * stubble
    colour = _mix(colour, hair * (0.7 if hair.mean() < 150 else 0.55), brows.clip(0, 0.97))
    colour = _mix(colour, _LASH, skin.lashes * maps.lash)
    return colour.clip(0, 255).astype(np.uint8)


def _brows(at: Points, skin: Skin) -> np.ndarray:
    """Both brows, thick in the inner half and pointed at the temple; mask in 0 to 1."""
    along = np.linspace(0, 1, 40)  # from the nose to the temple
    half_width = skin.brow_width / 2 * np.interp(along, [0, 0.08, 0.35, 0.75, 1], [0.55, 0.85, 1.0, 0.75, 0.2])
    outlines = []
    for points in (at[21:16:-1], at[22:27]):
        lowered = points + [0, 1] * (skin.brow_drop + np.array([[2.4], [1.8], [1.2], [0.6], [0]]))
        centre = _smooth(lowered, 40)
        outlines.append(
            np.vstack([centre - [0, 1] * half_width[:, None], (centre + [0, 1] * half_width[:, None])[::-1]])
        )
    return gaussian_filter(sum(_fill(outline) for outline in outlines), 1.2)


def smooth_noise(rng: np.random.Generator, side: int, cells: Sequence[int], sizes: Sequence[float]) -> np.ndarray:
    """A sum of value noises, (side, side) float32: grids of `cells`² with standard deviations `sizes`."""
    total = np.zeros((side, side), np.float32)
    for count, size in zip(cells, sizes, strict=True):
        grid = Image.fromarray(rng.standard_normal((count, count), dtype=np.float32))
        total += size * np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
    return total


def _mix(colour: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`colour` (T, T, 3) towards the colour `other` (3,) by `share` (T, T)."""
    share = share[..., None].astype(np.float32)
    return colour + share * (np.asarray(other, np.float32) - colour)


def _smooth(points: Points, count: int = 30) -> Points:
    """A cubic spline through the points, (count, 2)."""
    knots = np.arange(len(points))
    return CubicSpline(knots, points)(np.linspace(0, len(points) - 1, count))


def _blob(centre: Points, width: float, height: float) -> np.ndarray:
    """A Gaussian hill of height 1 that falls to 1/e at `width` and `height`."""
    x, y = np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32)
    return np.exp(-(((x - centre[0]) / width) ** 2)) * np.exp(-(((y - centre[1]) / height) ** 2))[:, None]


def _stroke(lines: Sequence[Points], width: float) -> np.ndarray:
    """Anti-aliased lines, mask in 0 to 1."""
    image = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    pen = ImageDraw.Draw(image)
    for line in lines:
        pen.line(
            [tuple(p) for p in (np.asarray(line) * _FINE).tolist()],
            255,
            max(1, round(width * _FINE)),
            "curve",
        )
    return np.asarray(image.reduce(_FINE), np.float32) / 255


def _fill(outline: Points) -> np.ndarray:
    """An anti-aliased polygon, mask in 0 to 1."""
    image = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    ImageDraw.Draw(image).polygon([tuple(p) for p in (outline * _FINE).tolist()], fill=255)
    return np.asarray(image.reduce(_FINE), np.float32) / 255
