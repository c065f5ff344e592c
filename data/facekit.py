"""The head that the synthetic actors wear: ICT-FaceKit Light, a morphable face with ARKit-like expression
shapes.

    vertices = neutral + Σ identity_i · identities_i + Σ weight_name · expressions[name]

100 identity modes come from light-stage scans of real people, the 53 expression shapes are sculpted and named
after ARKit with _L and _R. The model (MIT, USC Institute for Creative Technologies) is a folder `FaceXModel`
of OBJ files at github.com/ICT-VGL/ICT-FaceKit; `convert` reads it once into one .npz of 17 MB with the keys

    N (V, 3) neutral            E (53, V, 3) float16 deltas      ex (53,) shape names
    I (100, V, 3) float16       vt (U, 2) texture coordinates    fv, ft (F, 3) triangles
    lm (68,) landmark vertices  mat (F,) and matnames (12,) the material of each triangle

Letters: V vertices, U texture vertices, F triangles. Lengths are centimetres; x to the actor's left, y up, z
forward. Left out of what `load_rig` returns: the parts that we do not draw (separate iris, tear fluid,
lashes, occluders).

Source: Li et al. 2020, "Learning Formation of Physically-Based Face Attributes", arXiv 2004.03458, and the
README of the repository, which lists the vertex ranges and the 68 Multi-PIE landmarks used below.
"""

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from omni.errors import OmniError

_KEYS = ("N", "vt", "fv", "ft", "mat", "matnames", "ex", "E", "I", "lm")

# What a triangle is made of, as the rasteriser knows it. The last three are not in the rig: hair.py makes
# them.
FACE, SKIN, CAVITY, GUMS, TEETH, EYE_LEFT, EYE_RIGHT, HAIR, GLASSES = range(9)
_PARTS = {
    "M_Face": FACE,
    "M_BackHead": SKIN,
    "M_GumsTongue": GUMS,
    "M_Teeth": TEETH,
    "M_ScleraLeft": EYE_LEFT,
    "M_ScleraRight": EYE_RIGHT,
}
_SOCKETS = range(11248, 14062)  # vertices of the mouth and eye sockets, which the model files under M_BackHead

# fmt: off
LANDMARKS = (  # Multi-PIE 68, zero-based vertex numbers: jaw, brows, nose, eyes, outer lip, inner lip
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443,
    268, 493, 1914, 2044, 1401, 3615, 4240, 4114, 2734, 2509,
    978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360,
    1507, 1542, 1537, 1528, 1518, 1511, 3742, 3751, 3756, 3721, 3725, 3732,
    5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841,
    5702, 5711, 5533, 6216, 6207, 6470, 5517, 5966,
)
_NAMED_ONCE = (
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)
_NAMED_TWICE = (
    "browDown", "browInnerUp", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeLookDown",
    "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown",
    "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer",
)
# fmt: on
SHAPES = tuple(sorted((*_NAMED_ONCE, *(f"{name}_{side}" for name in _NAMED_TWICE for side in "LR"))))


class Delta(NamedTuple):
    """A sparse displacement: `offset[k]` is added to vertex `at[k]`."""

    at: np.ndarray  # (K,) int32
    offset: np.ndarray  # (K, 3) float32, cm


@dataclass(frozen=True, eq=False)
class Rig:
    """The morphable head. Compared and hashed by identity, so that what is derived from it can be cached."""

    vertices: np.ndarray  # (V, 3) float32, the neutral mean face
    identities: np.ndarray  # (100, V, 3) float32, displacement per standard deviation
    expressions: dict[str, Delta]  # 53 shapes, displacement at weight 1
    uv: np.ndarray  # (U, 2) float32, origin bottom left
    triangles: np.ndarray  # (F, 3) int32 into vertices
    uv_triangles: np.ndarray  # (F, 3) int32 into uv
    materials: np.ndarray  # (F,) int32, one of FACE … EYE_RIGHT
    landmarks: np.ndarray  # (68,) int32 into vertices

    def landmark_uv(self) -> np.ndarray:
        """Texture coordinates of the 68 landmarks, (68, 2)."""
        face = self.materials == FACE
        corner = np.zeros(len(self.vertices), np.int32)
        corner[self.triangles[face]] = self.uv_triangles[face]
        return self.uv[corner[self.landmarks]]


def load_rig(path: str | Path) -> Rig:
    """Read the head from a .npz that `convert` wrote, or from the folder that holds `facekit_full.npz`.

    Raises:
        OmniError: there is no such file, or it is not a converted head.
    """
    path = Path(path)
    file = path / "facekit_full.npz" if path.is_dir() else path
    if not file.is_file():
        raise OmniError(
            f"{file} does not exist. Make it from the ICT-FaceKit repository: python -m data facekit FaceXModel {file}"
        )
    try:
        with np.load(file, allow_pickle=False) as opened:
            stored = {key: opened[key] for key in opened.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as err:  # AttributeError: one bare array
        raise OmniError(f"{file} is no converted head, or a damaged one. Make it: python -m data facekit") from err
    missing = [key for key in _KEYS if key not in stored]
    if missing:
        raise OmniError(f"{file} has no {', '.join(missing)}. Make it again: python -m data facekit")
    return _drawn(stored)


def _drawn(stored: dict[str, np.ndarray]) -> Rig:
    """The stored head without the parts that are never drawn; vertices and uv are renumbered."""
    names = stored["matnames"].tolist()
    code = np.array([_PARTS.get(name, -1) for name in names], np.int32)
    part = code[stored["mat"]]  # (F,)
    in_socket = (stored["fv"].min(1) >= _SOCKETS.start) & (stored["fv"].max(1) < _SOCKETS.stop)
    part = np.where((part == SKIN) & in_socket, CAVITY, part)
    keep = part >= 0
    used, triangles = np.unique(stored["fv"][keep], return_inverse=True)
    used_uv, uv_triangles = np.unique(stored["ft"][keep], return_inverse=True)
    expressions = {str(name): _sparse(delta[used]) for name, delta in zip(stored["ex"], stored["E"], strict=True)}
    return Rig(
        vertices=stored["N"][used].astype(np.float32),
        identities=stored["I"][:, used].astype(np.float32),
        expressions=expressions,
        uv=stored["vt"][used_uv].astype(np.float32),
        triangles=triangles.reshape(-1, 3).astype(np.int32),
        uv_triangles=uv_triangles.reshape(-1, 3).astype(np.int32),
        materials=part[keep].astype(np.int32),
        landmarks=np.searchsorted(used, stored["lm"]).astype(np.int32),
    )


def _sparse(delta: np.ndarray, threshold: float = 1e-3) -> Delta:
    """Drop displacements below 10 micrometres: (V, 3) float16 → Delta."""
    index = np.flatnonzero(np.abs(delta).max(1) > threshold).astype(np.int32)
    return Delta(index, delta[index].astype(np.float32))


def convert(src: str | Path, out: str | Path) -> Path:
    """Read the public folder of OBJ files and write the .npz that `load_rig` reads.

    Args:
        src: the repository, or its folder `FaceXModel`, with `generic_neutral_mesh.obj`, `identity000.obj`
            and so on, and one OBJ per expression shape. Shapes outside `SHAPES` (pupils, cheekRaiser) are
            left out.
        out: the file to write.

    Raises:
        OmniError: the neutral mesh, every identity or every shape is missing, or a mesh has another vertex
        count.
    """
    src = Path(src)
    folder = src / "FaceXModel" if (src / "FaceXModel").is_dir() else src
    neutral = folder / "generic_neutral_mesh.obj"
    if not neutral.is_file():
        raise OmniError(f"{folder} has no generic_neutral_mesh.obj. Give the folder FaceXModel of ICT-FaceKit.")
    shapes = [name for name in SHAPES if (folder / f"{name}.obj").is_file()]
    identities = sorted(folder.glob("identity[0-9]*.obj"))
    if not shapes or not identities:
        raise OmniError(f"{folder} has no identity000.obj or no browDown_L.obj. Give the whole folder FaceXModel.")
    mesh = _read_obj(neutral)
    if max(LANDMARKS) >= len(mesh["N"]):
        mesh["lm"] = np.zeros(0, np.int64)  # not the public topology: no landmark is known
    vertices = mesh["N"]
    out = Path(out).with_suffix(".npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    mesh["ex"] = np.array(shapes)
    mesh["E"] = np.stack([_delta(folder / f"{name}.obj", vertices) for name in shapes])
    mesh["I"] = np.stack([_delta(file, vertices) for file in identities])
    np.savez_compressed(out, allow_pickle=False, **mesh)
    return out


def _delta(file: Path, neutral: np.ndarray) -> np.ndarray:
    """Displacement of a mesh from the neutral one, (V, 3) float16."""
    vertices = _read_vertices(file)
    if vertices.shape != neutral.shape:
        raise OmniError(
            f"{file} has {len(vertices)} vertices, the neutral mesh {len(neutral)}. Fetch {file.name} again."
        )
    return (vertices - neutral).astype(np.float16)


def _read_vertices(file: Path) -> np.ndarray:
    """The `v` lines of an OBJ file, (V, 3) float64."""
    with open(file, encoding="utf-8") as lines:
        return np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64)


def _read_obj(file: Path) -> dict[str, np.ndarray]:
    """Vertices, texture coordinates, materials and fan-split triangles of an OBJ file, under our keys."""
    uv: list[list[str]] = []
    names = ["none"]  # the group of triangles before the first usemtl
    current = 0
    triangles: list[tuple[str, ...]] = []
    material: list[int] = []
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            kind, *words = line.split() or [""]
            if kind == "vt":
                uv.append(words[:2])
            elif kind == "usemtl":
                names += [words[0]] if words[0] not in names else []
                current = names.index(words[0])
            elif kind == "f":
                fan = [(words[0], b, c) for b, c in pairwise(words[1:])]
                triangles += fan
                material += [current] * len(fan)
    words_of = [[word.split("/")[:2] for word in triangle] for triangle in triangles]
    corner = np.array(words_of, np.int32) - 1  # (F, 3, 2)
    return {
        "N": _read_vertices(file).astype(np.float32),
        "vt": np.array(uv, np.float32),
        "fv": corner[..., 0],
        "ft": corner[..., 1],
        "mat": np.array(material, np.int32),
        "matnames": np.array(names),
        "lm": np.array(LANDMARKS, np.int64),
    }
