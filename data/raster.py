"""The rasteriser: five loops that turn a posed head into a picture, compiled by numba.

    deform → project → normals → rasterise (depth, triangle, barycentric) → shade and average

A depth buffer with 2 × 2 samples per pixel. Shading is one directional light with wrap-around diffuse (a cheap stand-in
for light scattered inside skin), a sky term by the normal's height and a Blinn highlight. What is drawn where follows
from the material of the triangle, and on skin also from two fields given per vertex: above 0 there is hair, or cloth.

Letters: V vertices, F triangles, S the side of the picture, H = 2 S samples along a side, T the side of the texture.
Screen y points down. Left out: shadows, perspective-correct texture lookup (at 70 cm the error is below a texel).
"""

import math

import numpy as np
from numba import njit

from .facekit import CAVITY, EYE_LEFT, EYE_RIGHT, FACE, GLASSES, GUMS, HAIR, SKIN, TEETH

SAMPLES = 2  # per pixel and direction
WRINKLES = ("frown", "forehead", "nasolabial", "crow", "nose", "chin", "brow_shadow")  # channels of the wrinkle map
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
        ux, uy, uz = (
            vertices[b, 0] - vertices[a, 0],
            vertices[b, 1] - vertices[a, 1],
            vertices[b, 2] - vertices[a, 2],
        )
        vx, vy, vz = (
            vertices[c, 0] - vertices[a, 0],
            vertices[c, 1] - vertices[a, 1],
            vertices[c, 2] - vertices[a, 2],
        )
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
        x0, y0, x1, y1, x2, y2 = (
            screen[a, 0],
            screen[a, 1],
            screen[b, 0],
            screen[b, 1],
            screen[c, 0],
            screen[c, 1],
        )
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or (area > 0.0 and materials[f] < HAIR):
            continue  # seen from behind; only hair cards and glasses have two sides
        left = max(0, int(math.ceil(min(x0, x1, x2) - 0.5)))
        right = min(width - 1, int(math.floor(max(x0, x1, x2) - 0.5)))
        top = max(0, int(math.ceil(min(y0, y1, y2) - 0.5)))
        bottom = min(height - 1, int(math.floor(max(y0, y1, y2) - 0.5)))
        if left > right or top > bottom:
            continue
        inverse = 1.0 / area
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
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


@njit(cache=True, fastmath=True, inline="always")
def _skin_colour(u, v, texture, wrinkle_map, wrinkles):
    """Bilinear skin colour at texture coordinates, darkened by the strongest active wrinkle."""
    side = texture.shape[0] - 1.001
    x, y = min(max(u, 0.0), 1.0) * side, (1.0 - min(max(v, 0.0), 1.0)) * side
    i, j = int(x), int(y)
    fx, fy = x - i, y - j
    k00, k10, k01, k11 = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    red = texture[j, i, 0] * k00 + texture[j, i + 1, 0] * k10 + texture[j + 1, i, 0] * k01 + texture[j + 1, i + 1, 0] * k11
    green = texture[j, i, 1] * k00 + texture[j, i + 1, 1] * k10 + texture[j + 1, i, 1] * k01 + texture[j + 1, i + 1, 1] * k11
    blue = texture[j, i, 2] * k00 + texture[j, i + 1, 2] * k10 + texture[j + 1, i, 2] * k01 + texture[j + 1, i + 1, 2] * k11
    dark = 0.0
    for k in range(wrinkles.shape[0]):
        if wrinkles[k] > 0.04:
            value = (
                wrinkle_map[j, i, k] * k00
                + wrinkle_map[j, i + 1, k] * k10
                + wrinkle_map[j + 1, i, k] * k01
                + wrinkle_map[j + 1, i + 1, k] * k11
            )
            dark = max(dark, wrinkles[k] * value / 255.0)
    dark *= _WRINKLE_DEPTH
    return red * (1 - 0.86 * dark), green * (1 - dark), blue * (1 - dark)


@njit(cache=True, fastmath=True, inline="always")
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
def shade(
    out, background, owner, bary, triangles, materials, normal, rest, fields, uv_triangles, uv, texture, wrinkle_map,
    wrinkles, strands, strand_scale, hair_cover, palette, apexes, light, light_colour, ambient, half,
):  # fmt: skip
    """Colour every sample and average them into `out` (S, S, 3), 0 to 255.

    Args:
        background: (S, S, 3), seen where no triangle is.
        rest: (V, 3) undeformed positions, the coordinates of everything painted by position.
        fields: (V, 2), above 0 where hair and where cloth begins.
        wrinkles: one weight per channel of `wrinkle_map` (T, T, 7).
        strands: (512, 512) noise, read along `strand_scale` (3,) to give hair its direction.
        hair_cover: 1 for hair, less for a shaved head where the skin shines through.
        palette: (5, 3), rows as `PALETTE`. apexes: (2, 3), the centres of the corneas.
        light, half: (3,) unit vectors to the light and half-way to the camera.
    """
    size = out.shape[0]
    share = 1.0 / (SAMPLES * SAMPLES)
    for row in range(size):
        for column in range(size):
            total_r, total_g, total_b = 0.0, 0.0, 0.0
            for sample in range(SAMPLES * SAMPLES):
                sy, sx = row * SAMPLES + sample // SAMPLES, column * SAMPLES + sample % SAMPLES
                f = owner[sy, sx]
                if f < 0:
                    total_r += background[row, column, 0]
                    total_g += background[row, column, 1]
                    total_b += background[row, column, 2]
                    continue
                w0, w1 = bary[sy, sx, 0], bary[sy, sx, 1]
                w2 = 1.0 - w0 - w1
                a, b, c = triangles[f, 0], triangles[f, 1], triangles[f, 2]
                material = materials[f]
                px = w0 * rest[a, 0] + w1 * rest[b, 0] + w2 * rest[c, 0]
                py = w0 * rest[a, 1] + w1 * rest[b, 1] + w2 * rest[c, 1]
                pz = w0 * rest[a, 2] + w1 * rest[b, 2] + w2 * rest[c, 2]
                nx = w0 * normal[a, 0] + w1 * normal[b, 0] + w2 * normal[c, 0]
                ny = w0 * normal[a, 1] + w1 * normal[b, 1] + w2 * normal[c, 1]
                nz = w0 * normal[a, 2] + w1 * normal[b, 2] + w2 * normal[c, 2]
                flip = -1.0 if material >= HAIR and nz < 0.0 else 1.0
                scale = flip / (math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-6)
                nx, ny, nz = nx * scale, ny * scale, nz * scale
                occlusion, gloss, power = 1.0, 18.0, 24.0
                hair, cloth = 0.0, 0.0
                if material <= SKIN:
                    wisp = strands[int(py * 20) % 512, int(px * 20) % 512]
                    hair = w0 * fields[a, 0] + w1 * fields[b, 0] + w2 * fields[c, 0] + 0.8 * wisp
                    cloth = w0 * fields[a, 1] + w1 * fields[b, 1] + w2 * fields[c, 1]
                elif material == HAIR:
                    hair = 1.0
                red, green, blue = palette[_SKIN, 0], palette[_SKIN, 1], palette[_SKIN, 2]
                if cloth > 0.0:
                    fold = 1.0 + 0.5 * strands[int(py * 8) % 512, int(px * 8) % 512]
                    red, green, blue = palette[_CLOTH, 0] * fold, palette[_CLOTH, 1] * fold, palette[_CLOTH, 2] * fold
                    gloss = 0.0
                elif material == FACE and (hair <= 0.0 or hair_cover < 1.0):
                    u = w0 * uv[uv_triangles[f, 0], 0] + w1 * uv[uv_triangles[f, 1], 0] + w2 * uv[uv_triangles[f, 2], 0]
                    v = w0 * uv[uv_triangles[f, 0], 1] + w1 * uv[uv_triangles[f, 1], 1] + w2 * uv[uv_triangles[f, 2], 1]
                    red, green, blue = _skin_colour(u, v, texture, wrinkle_map, wrinkles)
                elif material == CAVITY:
                    red, green, blue, gloss = 52.0, 15.0, 17.0, 4.0
                elif material == GUMS:
                    red, green, blue = 140.0, 58.0, 58.0
                elif material == TEETH:
                    red, green, blue = 232.0, 226.0, 212.0
                elif material == EYE_LEFT or material == EYE_RIGHT:
                    eye = material - EYE_LEFT
                    dx, dy, dz = px - apexes[eye, 0], py - apexes[eye, 1], pz - apexes[eye, 2]
                    red, green, blue = _eye_colour(dx, dy, dz, palette[_IRIS])
                    occlusion = min(0.95, max(0.55, 0.85 - 0.45 * dy))  # the upper lid shades the eye
                    gloss, power = 150.0, 80.0
                elif material == GLASSES:
                    red, green, blue, gloss = palette[_GLASSES, 0], palette[_GLASSES, 1], palette[_GLASSES, 2], 60.0
                if hair > 0.0 and cloth <= 0.0:
                    along, across = int(py * strand_scale[1]), int(px * strand_scale[0] + pz * strand_scale[2])
                    strand = hair_cover * (1.0 + 1.6 * strands[along % 512, across % 512])
                    red = red * (1 - hair_cover) + palette[_HAIR, 0] * strand
                    green = green * (1 - hair_cover) + palette[_HAIR, 1] * strand
                    blue = blue * (1 - hair_cover) + palette[_HAIR, 2] * strand
                    gloss = 12.0
                if material == GUMS or material == TEETH:  # darker the farther behind the lips
                    occlusion = min(1.0, max(0.10, 0.20 + 0.75 * (pz - 4.5) / 6.0))
                lit = nx * light[0] + ny * light[1] + nz * light[2]
                wrap = min(1.0, max(0.0, (lit + 0.35) / 1.35))
                sky = ambient * (0.92 + 0.18 * ny)
                key = wrap * (1.0 - 0.35 * ambient)
                facing = max(0.0, nx * half[0] + ny * half[1] + nz * half[2])
                shine = facing**power * gloss
                total_r += (red * (sky + key * light_colour[0]) + shine) * occlusion
                total_g += (green * (sky + key * light_colour[1]) + shine) * occlusion
                total_b += (blue * (sky + key * light_colour[2]) + shine) * occlusion
            out[row, column, 0] = total_r * share
            out[row, column, 1] = total_g * share
            out[row, column, 2] = total_b * share


def buffers(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fresh depth, owner and barycentric buffers for a picture of `size` pixels a side."""
    side = size * SAMPLES
    return np.zeros((side, side), np.float32), np.full((side, side), -1, np.int32), np.empty((side, side, 2), np.float32)
