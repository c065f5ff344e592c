"""The rasteriser: five loops that turn a posed head into a picture, compiled by numba.

    deform → project → normals → rasterise (depth, triangle, barycentric) → shade and average

A depth buffer with 2 × 2 samples per pixel. Shading is one directional light with wrap-around diffuse (a
cheap stand-in for light scattered inside skin), a sky term by the normal's height and a Blinn highlight. What
is drawn where follows
from the material of the triangle, and on skin also from two fields given per vertex: above 0 there is hair,
    or cloth.

Letters: V vertices, F triangles, S the side of the picture, H = 2 S samples along a side, T the side of the
texture. Screen y points down. Left out: shadows, perspective-correct texture lookup (at 70 cm the error is
below a texel).
"""

import math

import numpy as np
from numba import njit

from .facekit import CAVITY, EYE_LEFT, EYE_RIGHT, FACE, GLASSES, GUMS, HAIR, SKIN

SAMPLES = 2  # per pixel and direction
WRINKLES = (
    "frown",
    "forehead",
    "nasolabial",
    "crow",
    "nose",
    "chin",
    "brow_shadow",
)  # channels of the wrinkle map
PALETTE = ("skin", "hair", "iris", "cloth", "glasses")  # rows of the palette
_SKIN, _HAIR, _IRIS, _CLOTH, _GLASSES = range(5)
_WRINKLE_DEPTH = 0.62  # of the skin's brightness, at weight 1
_PUPIL, _IRIS_EDGE, _LIMBUS = 0.25, 0.62, 0.72  # cm from the centre of the cornea


@njit(cache=True, fastmath=True)
def add_delta(vertices, index, offset, weight):
    """vertices[index] += weight * offset, in place."""
    for k in range(index.shape[0]):
        i = index[k]
        for axis in range(3):
            vertices[i, axis] += weight * offset[k, axis]


@njit(cache=True, fastmath=True)
def turn(vertices, follow, rotation, pivot):
    """Rotate about the neck, in place; `follow` (V,) is 1 on the head and falls to 0 down the neck."""
    for i in range(vertices.shape[0]):
        x = vertices[i, 0] - pivot[0]
        y = vertices[i, 1] - pivot[1]
        z = vertices[i, 2] - pivot[2]
        for axis in range(3):
            turned = rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * z + pivot[axis]
            vertices[i, axis] += follow[i] * (turned - vertices[i, axis])


@njit(cache=True, fastmath=True)
def normals(vertices, triangles, out):
    """Unit vertex normals, area-weighted, into `out` (V, 3)."""
    out[:] = 0.0
    for f in range(triangles.shape[0]):
        a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        pa, pb, pc = vertices[a], vertices[b], vertices[c]
        ux, uy, uz = pb[0] - pa[0], pb[1] - pa[1], pb[2] - pa[2]
        vx, vy, vz = pc[0] - pa[0], pc[1] - pa[1], pc[2] - pa[2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in range(3):
            i = triangles[f, k]
            out[i, 0] += nx
            out[i, 1] += ny
            out[i, 2] += nz
    for i in range(out.shape[0]):
        scale = 1.0 / (math.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-9)
        for axis in range(3):
            out[i, axis] *= scale


@njit(cache=True, fastmath=True)
def rasterise(screen, triangles, materials, depth, owner, bary):
    """Find the nearest triangle of each sample.

    Args:
        screen: (V, 3) sample coordinates x, y and the inverse distance.
        depth: (H, H) zeros, out: the greatest inverse distance.
        owner: (H, H) of −1, out: the triangle.
        bary: (H, H, 2), out: its first two barycentric coordinates.
    """
    height, width = depth.shape
    for f in range(triangles.shape[0]):
        a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
        x0, y0, za = screen[a, 0], screen[a, 1], screen[a, 2]
        x1, y1, zb = screen[b, 0], screen[b, 1], screen[b, 2]
        x2, y2, zc = screen[c, 0], screen[c, 1], screen[c, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or (area > 0.0 and materials[f] < HAIR):
            continue  # seen from behind; only hair cards and glasses have two sides
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        if left > right or top > bottom:
            continue
        inverse = 1.0 / area
        for y in range(top, bottom + 1):
            py = y + 0.5
            for x in range(left, right + 1):
                px = x + 0.5
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                if w0 < 0.0:
                    continue
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                if w1 < 0.0 or w0 + w1 > 1.0:
                    continue
                near = w0 * za + w1 * zb + (1.0 - w0 - w1) * zc
                if near > depth[y, x]:
                    depth[y, x] = near
                    owner[y, x] = f
                    bary[y, x, 0] = w0
                    bary[y, x, 1] = w1


@njit(cache=True, fastmath=True)
def _bilinear(image, i, j, k, k00, k10, k01, k11):
    """Channel k between the texels (i, j) and (i + 1, j + 1)."""
    upper = image[j, i, k] * k00 + image[j, i + 1, k] * k10
    return upper + image[j + 1, i, k] * k01 + image[j + 1, i + 1, k] * k11


@njit(cache=True, fastmath=True)
def _skin_colour(u, v, texture, wrinkle_map, wrinkles):
    """Bilinear skin colour at texture coordinates, darkened by the strongest active wrinkle."""
    side = texture.shape[0] - 1.001
    x, y = min(max(u, 0.0), 1.0) * side, (1.0 - min(max(v, 0.0), 1.0)) * side
    i, j = int(x), int(y)
    fx, fy = x - i, y - j
    k00, k10, k01, k11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    red = _bilinear(texture, i, j, 0, k00, k10, k01, k11)
    green = _bilinear(texture, i, j, 1, k00, k10, k01, k11)
    blue = _bilinear(texture, i, j, 2, k00, k10, k01, k11)
    dark = 0.0
    for k in range(wrinkles.shape[0]):
        if wrinkles[k] > 0.04:
            dark = max(dark, wrinkles[k] * _bilinear(wrinkle_map, i, j, k, k00, k10, k01, k11) / 255.0)
    dark *= _WRINKLE_DEPTH
    return red * (1 - 0.86 * dark), green * (1 - dark), blue * (1 - dark)


@njit(cache=True, fastmath=True)
def _eye_colour(x, y, z, iris):
    """Colour by the offset in cm from the centre of the cornea at rest: pupil, iris, limbus, white."""
    radius = math.sqrt(x * x + y * y + z * z)
    if radius < _PUPIL:
        return 10.0, 8.0, 8.0
    if radius < _IRIS_EDGE:
        fibre = (1.25 - 0.55 * radius) * (1.0 + 0.15 * math.sin(math.atan2(y, x) * 23))
        return iris[0] * fibre, iris[1] * fibre, iris[2] * fibre
    if radius < _LIMBUS:
        return iris[0] * 0.35, iris[1] * 0.35, iris[2] * 0.35
    return 226.0, 219.0, 213.0


@njit(cache=True, fastmath=True)
def _inner_surface(material, x, y, z, palette, apexes):
    """Mouth, eyes, glasses at a place of the resting head: red, green, blue, occlusion, gloss, its power."""
    if material == CAVITY:
        return 52.0, 15.0, 17.0, 1.0, 4.0, 24.0
    if material == GLASSES:
        return palette[_GLASSES, 0], palette[_GLASSES, 1], palette[_GLASSES, 2], 1.0, 60.0, 24.0
    if material in (EYE_LEFT, EYE_RIGHT):
        centre = apexes[material - EYE_LEFT]
        above = y - centre[1]
        red, green, blue = _eye_colour(x - centre[0], above, z - centre[2], palette[_IRIS])
        return (
            red,
            green,
            blue,
            min(0.95, max(0.55, 0.85 - 0.45 * above)),
            150.0,
            80.0,
        )  # the upper lid shades it
    behind_lips = min(1.0, max(0.10, 0.20 + 0.75 * (z - 4.5) / 6.0))
    if material == GUMS:
        return 140.0, 58.0, 58.0, behind_lips, 18.0, 24.0
    return 232.0, 226.0, 212.0, behind_lips, 18.0, 24.0


@njit(cache=True, fastmath=True)
def _comb(red, green, blue, x, y, z, strands, strand_scale, cover, palette):
    """Hair over a colour: streaks of noise that run along `strand_scale`."""
    along, across = int(y * strand_scale[1]), int(x * strand_scale[0] + z * strand_scale[2])
    strand = cover * (1.0 + 1.6 * strands[along % 512, across % 512])
    red = red * (1.0 - cover) + palette[_HAIR, 0] * strand
    green = green * (1.0 - cover) + palette[_HAIR, 1] * strand
    return red, green, blue * (1.0 - cover) + palette[_HAIR, 2] * strand


@njit(cache=True, fastmath=True)
def _at(values, a, b, c, w0, w1, w2, k):
    """Component k of `values` (V, n), interpolated inside the triangle a, b, c."""
    return w0 * values[a, k] + w1 * values[b, k] + w2 * values[c, k]


@njit(cache=True, fastmath=True)
def shade(
    out, background, owner, bary, triangles, materials, normal, rest, fields, uv_triangles, uv, texture,
    wrinkle_map, wrinkles, strands, strand_scale, cover, palette, apexes, light, light_colour, ambient, half,
):  # fmt: skip
    """Colour every sample and average them into `out` (S, S, 3), 0 to 255.

    Args:
        background: (S, S, 3), seen where no triangle is.
        rest: (V, 3) undeformed positions, the coordinates of everything painted by position.
        fields: (V, 2), above 0 where hair and where cloth begins.
        wrinkles: one weight per channel of `wrinkle_map` (T, T, 7).
        strands: (512, 512) noise, read along `strand_scale` (3,) to give hair its direction.
        cover: 1 for hair, less for a shaved head where the skin shines through.
        palette: (5, 3), rows as `PALETTE`. apexes: (2, 3), the centres of the corneas.
        light, half: (3,) unit vectors to the light and half-way to the camera.
    """
    share = 1.0 / (SAMPLES * SAMPLES)
    out[:] = 0.0
    for sy in range(owner.shape[0]):
        for sx in range(owner.shape[1]):
            row, column = sy // SAMPLES, sx // SAMPLES
            f = owner[sy, sx]
            if f < 0:
                for k in range(3):
                    out[row, column, k] += share * background[row, column, k]
                continue
            w0, w1 = bary[sy, sx, 0], bary[sy, sx, 1]
            w2, material = 1.0 - w0 - w1, materials[f]
            a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
            x = _at(rest, a, b, c, w0, w1, w2, 0)
            y = _at(rest, a, b, c, w0, w1, w2, 1)
            z = _at(rest, a, b, c, w0, w1, w2, 2)
            occlusion, gloss, power = 1.0, 18.0, 24.0
            hair, cloth = 1.0 if material == HAIR else 0.0, 0.0
            red, green, blue = palette[_SKIN, 0], palette[_SKIN, 1], palette[_SKIN, 2]
            if material <= SKIN:
                wisp = strands[int(y * 20) % 512, int(x * 20) % 512]
                hair = _at(fields, a, b, c, w0, w1, w2, 0) + 0.8 * wisp
                cloth = _at(fields, a, b, c, w0, w1, w2, 1)
                if cloth > 0.0:
                    fold = 1.0 + 0.5 * strands[int(y * 8) % 512, int(x * 8) % 512]
                    red, green, blue = (
                        palette[_CLOTH, 0] * fold,
                        palette[_CLOTH, 1] * fold,
                        palette[_CLOTH, 2] * fold,
                    )
                    gloss, hair = 0.0, 0.0
                elif material == FACE and (hair <= 0.0 or cover < 1.0):
                    ta, tb, tc = uv_triangles[f, 0], uv_triangles[f, 1], uv_triangles[f, 2]
                    u = _at(uv, ta, tb, tc, w0, w1, w2, 0)
                    v = _at(uv, ta, tb, tc, w0, w1, w2, 1)
                    red, green, blue = _skin_colour(u, v, texture, wrinkle_map, wrinkles)
            elif material != HAIR:
                red, green, blue, occlusion, gloss, power = _inner_surface(material, x, y, z, palette, apexes)
            if hair > 0.0:
                red, green, blue = _comb(red, green, blue, x, y, z, strands, strand_scale, cover, palette)
                gloss = 12.0
            nx = _at(normal, a, b, c, w0, w1, w2, 0)
            ny = _at(normal, a, b, c, w0, w1, w2, 1)
            nz = _at(normal, a, b, c, w0, w1, w2, 2)
            flip = -1.0 if material >= HAIR and nz < 0.0 else 1.0
            scale = flip / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-6)
            nx, ny, nz = nx * scale, ny * scale, nz * scale
            wrap = min(1.0, max(0.0, (nx * light[0] + ny * light[1] + nz * light[2] + 0.35) / 1.35))
            sky, key = ambient * (0.92 + 0.18 * ny), wrap * (1.0 - 0.35 * ambient)
            facing = max(0.0, nx * half[0] + ny * half[1] + nz * half[2])
            shine = gloss * facing**power if gloss > 0.0 and facing > 0.7 else 0.0
            out[row, column, 0] += share * occlusion * (red * (sky + key * light_colour[0]) + shine)
            out[row, column, 1] += share * occlusion * (green * (sky + key * light_colour[1]) + shine)
            out[row, column, 2] += share * occlusion * (blue * (sky + key * light_colour[2]) + shine)


def buffers(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fresh depth, owner and barycentric buffers for a picture of `size` pixels a side."""
    side = size * SAMPLES
    return (
        np.zeros((side, side), np.float32),
        np.full((side, side), -1, np.int32),
        np.empty((side, side, 2), np.float32),
    )
