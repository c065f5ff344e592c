"""Hair, clothes and glasses: what an actor wears over the bare head.

Short hair is not modelled but declared: a field over the vertices of the scalp, above 0 inside the hair line,
which the rasteriser colours, and a lift of those vertices along their normals that gives it volume. Hair that
falls past the ears is a separate sheet of triangles around the back of the head. Lengths are centimetres in
the head's frame (eyes at y = 3.5, chin −7.6, crown 14.5, ears at x = ±7.5).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .facekit import FACE, GLASSES, HAIR, Rig

_NOTHING = -9.0  # a field value far outside


class Sheet(NamedTuple):
    """Extra geometry that moves with the head: triangles count from 0."""

    vertices: np.ndarray  # (V, 3) float32
    triangles: np.ndarray  # (F, 3) int32
    material: int


@dataclass(frozen=True)
class Style:
    """A cut: where the hair line is, how far the hair stands off, and how far it falls."""

    line: float = 0.0  # the hair line is raised by this
    lift: float = 0.3  # off the scalp
    rough: float = 0.0  # of the lift, how much varies from place to place
    falls_to: float | None = None  # y where long hair ends
    fringe: float | None = None  # y of the lower edge over the forehead
    cover: float = 1.0  # 1 hides the scalp
    strands: tuple[float, float, float] = (42.0, 6.0, 30.0)  # noise cells per cm along x, y, z: streaks down
    grows: bool = True  # False: bald


STYLES = {
    "short": Style(),
    "receding": Style(line=1.6, lift=0.15),
    "shaved": Style(lift=0.0, cover=0.5, strands=(40, 40, 40)),
    "bald": Style(grows=False),
    "fringe": Style(lift=0.55, fringe=7.4),
    "curly": Style(lift=1.3, rough=0.55, line=0.2, strands=(26, 26, 26)),
    "afro": Style(lift=2.6, rough=0.3, line=0.3, strands=(34, 34, 34)),
    "bob": Style(lift=0.6, falls_to=-6.5, line=0.1),
    "bob with fringe": Style(lift=0.6, falls_to=-7.0, fringe=7.3),
    "long": Style(lift=0.5, falls_to=-17.0, line=0.2),
}
_LIKELY = {  # (feminine, masculine) weights; a convention of looks, not a claim
    "short": (1, 6), "receding": (0, 2), "shaved": (0.2, 2), "bald": (0, 1.2), "fringe": (1, 2),
    "curly": (1.5, 1.5), "afro": (1, 0.7), "bob": (3, 0.2), "bob with fringe": (2, 0.1), "long": (5, 0.5),
}  # fmt: skip


def choose_style(rng: np.random.Generator, feminine: bool) -> Style:
    """Draw a cut."""
    weights = np.array([_LIKELY[name][0 if feminine else 1] for name in STYLES], float)
    return STYLES[rng.choice(list(STYLES), p=weights / weights.sum())]


def hair_field(rig: Rig, at: np.ndarray, style: Style, line: float) -> np.ndarray:
    """How far inside the hair each vertex is, (V,) float32; the rasteriser draws hair above 0.

    Args:
        at: (V, 3) the actor's neutral head. line: the person's own hair line, added to the style's.
    """
    if not style.grows:
        return np.full(len(at), _NOTHING, np.float32)
    x, y, z = at.T
    on_face = np.zeros(len(at), bool)
    on_face[rig.triangles[rig.materials == FACE]] = True
    edge = 8.6 + line + style.line - 0.028 * x**2
    if style.fringe is not None:
        edge = np.where(z > 2, np.minimum(edge, style.fringe + 0.035 * x**2 * (np.abs(x) > 3)), edge)
    crown = np.where(z < 12, y - edge, _NOTHING)
    back = np.where(on_face, _NOTHING, np.minimum(0.5 - z, y + 6.5))
    temple = np.minimum(np.minimum(np.abs(x) - 6.4, y - 3.2), 3.4 - z)
    ear = (np.abs(x) > 7.2) & (y < 4.6) & (z < 3.2) & on_face
    return np.where(ear, _NOTHING, np.maximum(np.maximum(crown, back), temple)).astype(np.float32)


def lift_hair(at: np.ndarray, normal: np.ndarray, field: np.ndarray, style: Style, noise: np.ndarray) -> np.ndarray:
    """The head with its hair raised off the scalp, (V, 3); `noise` (512, 512) makes it uneven."""
    inside = np.clip(field / (0.8 + style.lift), 0, 1)
    rough = noise[(at[:, 1] * 14).astype(int) % 512, ((at[:, 0] + at[:, 2]) * 14).astype(int) % 512] * 6
    height = style.lift * inside * (1 + style.rough * rough)
    return at + np.clip(height, 0, None)[:, None] * normal


def cloth_field(at: np.ndarray, neckline: float) -> np.ndarray:
    """Above 0 below a round collar, (V,) float32; the collar dips at the throat."""
    x, y, z = at.T
    return (neckline + 0.10 * np.abs(x) - 0.35 * np.clip(z, 0, 4) - y).astype(np.float32)


def falling_hair(at: np.ndarray, style: Style, rng: np.random.Generator) -> Sheet:
    """A sheet around the back of the head from temple to temple, down to `style.falls_to`, which is set."""
    assert style.falls_to is not None
    width, back = np.abs(at[at[:, 1] > 5, 0]).max(), -at[at[:, 1] > 0, 2].min()
    height = np.linspace(12.5, style.falls_to, 28)[:, None]  # rows
    angle = np.linspace(-1.0, 1.0, 41)[None] * rng.uniform(1.62, 1.80)  # from straight back to past the ear
    dome = np.sqrt(np.clip(1 - (np.clip(height - 3.5, 0, None) / 11.0) ** 2, 0, 1))
    hang = np.clip((2 - height) / 12, 0, 1)
    wave = rng.uniform(0.0, 0.25) * np.sin(height * rng.uniform(0.5, 1.1) + 9 * angle)
    side = (width + 1.15 + style.lift + 0.5 * hang) * dome + wave
    depth = (back + 0.3 + style.lift - 1.5 * hang) * dome + wave
    x, z = side * np.sin(angle), -0.5 - depth * np.cos(angle)
    ragged = np.where(np.arange(28)[:, None] == 27, rng.uniform(-0.5, 0.5, (1, 41)), 0)
    return Sheet(_points(x, height + ragged, z), _grid(28, 41), HAIR)


def spectacles(at: np.ndarray, rig: Rig, rng: np.random.Generator) -> Sheet:
    """Two rims, a bridge and the arms, as flat ribbons."""
    eyes = at[rig.landmarks[36:48]].reshape(2, 6, 3).mean(1)  # (2, 3), the actor's right one first
    front = at[rig.landmarks[27], 2] + 0.35
    rx, ry = rng.uniform(2.05, 2.4), rng.uniform(1.35, 1.9)
    square = rng.uniform(2.0, 4.0)  # 2 an ellipse, 4 nearly a box
    rim = rng.uniform(0.14, 0.3)
    turn = np.linspace(0, 2 * np.pi, 37)
    cos, sin = np.cos(turn), np.sin(turn)
    radius = 1 / (np.abs(cos) ** square + np.abs(sin) ** square) ** (1 / square)
    parts = []
    for eye in eyes:
        x = eye[0] * 1.04 + np.stack([(rx + grow) * radius * cos for grow in (0, rim)])
        y = eye[1] - 0.25 + np.stack([(ry + grow) * radius * sin for grow in (0, rim)])
        parts.append((_points(x, y, front - 0.045 * x**2), _grid(2, 37)))
    inner, outer = rx + 0.4, eyes[1, 0] * 1.04 + rx
    level = eyes[:, 1].mean()
    x = np.array([[-inner + 1.6, inner - 1.6]] * 2)
    parts.append((_points(x, level + np.array([[0.35] * 2, [0.35 + rim] * 2]), np.full((2, 2), front)), _grid(2, 2)))
    for sign in (-1, 1):
        x = sign * np.array([[outer, 8.1]] * 2)
        z = np.array([[front - 0.045 * outer**2, 1.0]] * 2)
        parts.append((_points(x, level + np.array([[0.3] * 2, [0.3 + 1.3 * rim] * 2]), z), _grid(2, 2)))
    starts = np.cumsum([0, *(len(points) for points, _ in parts[:-1])])
    triangles = np.vstack([start + grid for start, (_, grid) in zip(starts, parts, strict=True)])
    return Sheet(np.vstack([points for points, _ in parts]), triangles.astype(np.int32), GLASSES)


def _points(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Broadcast three grids into (n, 3) float32."""
    return np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3).astype(np.float32)


def _grid(rows: int, columns: int) -> np.ndarray:
    """The triangles of a grid of vertices stored row by row, (2 (rows−1) (columns−1), 3) int32."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    a, b, c, d = corner, corner + 1, corner + columns, corner + columns + 1
    return np.stack([a, c, b, b, c, d], 1).reshape(-1, 3).astype(np.int32)
