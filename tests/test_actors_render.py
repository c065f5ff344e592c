"""The synthetic actors' faces: the head's file, one frame, and what the face does over time.

The head here is invented (an ellipsoid with two eyeballs), so that the tests need no download. With
OMNI_FACEKIT set to the real one (`facekit_full.npz` or its folder) the last test draws that too.
"""

import os
from itertools import pairwise

import numpy as np
import pytest

from data import expressions, motion, visemes
from data.expressions import RECIPES, UNITS, ActionUnit, sample_action_units, shapes, shapes_at
from data.facekit import EYE_LEFT, EYE_RIGHT, FACE, SHAPES, SKIN, Delta, Rig, convert, load_rig
from omni.errors import OmniError

pytest.importorskip("numba")
render = pytest.importorskip("data.render")

CLEAN = render.Degradation()
RATE = 16000


def ellipsoid(centre, radii, rows, columns):
    """A closed grid: vertices (n, 3), triangles (f, 3) that face outwards, counter-clockwise."""
    polar, around = np.meshgrid(
        np.linspace(0.02, np.pi - 0.02, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij"
    )
    unit = np.stack([np.sin(polar) * np.sin(around), np.cos(polar), np.sin(polar) * np.cos(around)], -1)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    triangles = np.stack([a, a + columns, a + 1, a + 1, a + columns, a + columns + 1], 1).reshape(-1, 3)
    return (unit * radii + centre).reshape(-1, 3), triangles


def landmark_template():
    """Where a face has its 68 landmarks, (68, 2) in centimetres."""
    turn = np.linspace(np.pi, 2 * np.pi, 17)
    jaw = np.stack([7 * np.cos(turn), 3.7 + 11 * np.sin(turn)], 1)
    brow = np.stack([np.linspace(1.2, 5.8, 5), [5.9, 6.2, 6.3, 6.0, 5.2]], 1)
    nose = [
        [0, 3.7],
        [0, 2.6],
        [0, 1.6],
        [0, 0.4],
        [-1.3, -1.1],
        [-0.6, -1.1],
        [0, -1.2],
        [0.6, -1.1],
        [1.3, -1.1],
    ]
    eye = np.array([[1.8, 3.3], [2.8, 3.9], [3.9, 3.9], [4.5, 3.4], [3.9, 3.1], [2.7, 3.1]])
    turn = np.linspace(np.pi, -np.pi, 13)[:12]
    outer = np.stack([2.5 * np.cos(turn), -3.4 + np.sin(turn)], 1)
    turn = np.linspace(np.pi, -np.pi, 9)[:8]
    inner = np.stack([2.1 * np.cos(turn), -3.4 + 0.3 * np.sin(turn)], 1)
    mirror = np.array([-1, 1])
    eyes = [(eye * mirror)[[3, 2, 1, 0, 5, 4]], eye]
    return np.vstack([jaw, (brow * mirror)[::-1], brow, nose, *eyes, outer, inner])


@pytest.fixture(scope="module")
def rig():
    """A head that is an egg: every shape pushes the surface at one place."""
    head, head_triangles = ellipsoid([0, 3, 1], [8, 11, 9.5], 90, 90)
    left, eye_triangles = ellipsoid([3.1, 3.5, 8], [1.5, 1.5, 1.7], 12, 12)
    right = left * [-1, 1, 1]
    vertices = np.vstack([head, left, right]).astype(np.float32)
    counts = [len(head), len(head) + len(left)]
    triangles = np.vstack([head_triangles, eye_triangles + counts[0], eye_triangles[:, ::-1] + counts[1]])
    front = (head[head_triangles].mean(1)[:, 2] > 0) & (np.abs(head[head_triangles].mean(1)[:, 0]) < 7.5)
    materials = np.concatenate(
        [
            np.where(front, FACE, SKIN),
            np.full(len(eye_triangles), EYE_LEFT),
            np.full(len(eye_triangles), EYE_RIGHT),
        ]
    )
    facing = np.where((vertices[:, 2] > 4) & (np.arange(len(vertices)) < len(head)))[0]
    landmarks = [facing[np.square(vertices[facing, :2] - point).sum(1).argmin()] for point in landmark_template()]
    spot = {name: [0, 6 if "brow" in name else 3 if "eye" in name else -4] for name in SHAPES}
    deltas = {}
    for name, place in spot.items():
        near = np.flatnonzero((np.square(vertices[:, :2] - place).sum(1) < 9) & (vertices[:, 2] > 0)).astype(np.int32)
        deltas[name] = Delta(near, np.tile(np.float32([0, -0.8, 0]), (len(near), 1)))
    identities = np.random.default_rng(0).normal(0, 0.2, (3, 1, 3)) * np.sign(vertices)
    return Rig(
        vertices=vertices,
        identities=identities.astype(np.float32),
        expressions=deltas,
        uv=(vertices[:, :2] / [20, 26] + [0.5, 0.4]).astype(np.float32),
        triangles=triangles.astype(np.int32),
        uv_triangles=triangles.astype(np.int32),
        materials=materials.astype(np.int32),
        landmarks=np.array(landmarks, np.int32),
    )


@pytest.fixture(scope="module")
def actor(rig):
    return render.Actor(rig, 1)


def write_obj(path, points, faces=True):
    lines = ["v " + " ".join(f"{x:.4f}" for x in point) for point in points]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    if faces:
        lines += ["usemtl M_Face", "f 1/1 2/2 3/3 4/4", "usemtl M_EyeLashes", "f 3/3 4/4 5/1"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def obj_folder(tmp_path):
    """The public folder in miniature: one quad of face, one lash, one identity, two shapes."""
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 2, 2]], float)
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    write_obj(folder / "generic_neutral_mesh.obj", points)
    write_obj(folder / "identity000.obj", points * 1.1)
    write_obj(folder / "browDown_L.obj", points - [0, 0.25, 0])
    write_obj(folder / "jawOpen.obj", points - [0, 1, 0])
    write_obj(folder / "PupilDilate_L.obj", points)
    return folder


def test_the_public_obj_folder_becomes_a_head(obj_folder, tmp_path):
    rig = load_rig(convert(obj_folder.parent, tmp_path / "head.npz"))
    assert rig.vertices.shape == (4, 3)  # the lashes are not drawn
    assert rig.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]  # the quad is split
    assert list(rig.expressions) == ["browDown_L", "jawOpen"]
    np.testing.assert_allclose(rig.expressions["browDown_L"].offset[:, 1], -0.25)
    np.testing.assert_allclose(rig.identities[0], rig.vertices * 0.1, atol=1e-3)
    np.testing.assert_allclose(rig.uv[rig.uv_triangles[0]], [[0, 0], [1, 0], [1, 1]])


def test_a_shape_with_another_vertex_count_is_refused_by_name(obj_folder, tmp_path):
    write_obj(obj_folder / "jawOpen.obj", np.zeros((4, 3)))
    with pytest.raises(OmniError, match=r"jawOpen\.obj has 4 vertices, the neutral mesh 5"):
        convert(obj_folder, tmp_path / "head.npz")


def test_a_missing_head_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(OmniError, match="python -m data facekit"):
        load_rig(tmp_path)
    for content in (b"version https://git-lfs.github.com/spec/v1", b"PK\x03\x04half", b""):
        (tmp_path / "facekit_full.npz").write_bytes(content)
        with pytest.raises(OmniError, match="no converted head, or a damaged one"):
            load_rig(tmp_path)


def test_every_action_unit_moves_shapes_that_the_head_has():
    assert len(SHAPES) == 53
    for unit in UNITS:
        assert set(shapes({unit: 1.0})) <= set(SHAPES)


def test_the_same_seeds_draw_the_same_picture(rig):
    def frame(person=1, place=1, noise=1):
        scene = render.Scene(place, 48)
        weights = {"jawOpen": 0.5}
        return render.render(render.Actor(rig, person), scene, weights, (0.1, 0, 0), np.random.default_rng(noise))

    first = frame()
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, frame())
    for other in (frame(person=2), frame(place=2), frame(noise=2)):
        assert (other != first).any()


def test_an_expression_changes_the_picture_where_it_moves_the_face(actor):
    scene = render.Scene(3, 64, CLEAN)
    rest, open_mouth = (render.render(actor, scene, {"jawOpen": w}).astype(int) for w in (0.0, 1.0))
    rows = np.abs(open_mouth - rest).sum((1, 2))
    assert rows[32:].sum() > 10 * max(rows[:16].sum(), 1)


def test_a_lowered_brow_darkens_the_place_between_the_brows():
    angry, sad = (render.wrinkle_weights(shapes(levels), 0.5) for levels in ({"AU4": 1.0}, {"AU1": 1.0}))
    frown, forehead = (render.raster.WRINKLES.index(name) for name in ("frown", "forehead"))
    assert angry[frown] > 0.5 > sad[frown] and sad[forehead] > angry[forehead]


def test_an_unknown_shape_is_refused_by_name(actor):
    with pytest.raises(OmniError, match=r"no shape 'jawOpn'.*jawOpen"):
        render.render(actor, render.Scene(0, 32), {"jawOpn": 1.0})


def test_a_gray_scene_has_no_colour_even_in_its_noise(actor):
    scene = render.Scene(0, 32, render.Degradation(gray=True))
    frame = render.render(actor, scene, {}, rng=np.random.default_rng(0)).astype(int)
    assert np.ptp(frame, axis=2).max() == 0


def test_blur_and_compression_cost_detail(actor):
    def detail(degradation):
        frame = render.render(actor, render.Scene(4, 64, degradation), {}).astype(float)
        return np.abs(np.diff(frame, axis=1)).mean()

    assert detail(render.Degradation(blur=1.5)) < 0.8 * detail(CLEAN)
    spoilt = render.render(actor, render.Scene(4, 64, render.Degradation(jpeg=20)), {})
    assert (spoilt != render.render(actor, render.Scene(4, 64, CLEAN), {})).any()


def test_every_cut_of_hair_is_worn_by_somebody():
    rng = np.random.default_rng(0)
    drawn = [render.hair.choose_style(rng, feminine=bool(k % 2)) for k in range(400)]
    assert all(style in drawn for style in render.hair.STYLES.values())


def test_a_bald_head_has_no_hair_and_an_afro_is_taller_than_short_hair(rig):
    noise = np.zeros((512, 512))
    normal = rig.vertices / np.linalg.norm(rig.vertices, axis=1, keepdims=True)
    top = {}
    for name, style in render.hair.STYLES.items():
        field = render.hair.hair_field(rig, rig.vertices, style, 0.0)
        top[name] = render.hair.lift_hair(rig.vertices, normal, field, style, noise)[:, 1].max()
        assert (field > 0).any() == (name != "bald")
    assert top["afro"] > top["short"] + 1 > top["bald"]


@pytest.mark.parametrize("emotion", [name for name in RECIPES if name != "neutral"])
def test_what_is_left_of_a_recipe_still_tells_the_emotion(emotion):
    for seed in range(60):
        units = set(sample_action_units(emotion, np.random.default_rng(seed), dropout=0.9, distractors=0))
        recipes = [recipe for recipe in RECIPES[emotion] if units <= set(recipe)]
        assert any(len(units) >= 2 or any(recipe[unit].signature for unit in units) for recipe in recipes)


@pytest.mark.parametrize("emotion", RECIPES)
def test_distractors_are_foreign_weaker_and_possible(emotion):
    own = set().union(*RECIPES[emotion])
    seen = set()
    for seed in range(80):
        units = sample_action_units(emotion, np.random.default_rng(seed), intensity=1.0, dropout=0.35, distractors=2)
        strongest = max((unit.intensity for unit in units.values()), default=0)
        foreign = {name for name in units if name not in own}
        assert len(foreign) <= 2
        assert all(units[name].intensity <= 0.6 for name in foreign)
        assert emotion == "neutral" or all(units[name].intensity < strongest for name in foreign)
        assert not {"AU12", "AU15"} <= set(units) and not {"AU24", "AU26"} <= set(units)
        seen |= foreign
    assert len(seen) >= 4


def test_an_action_unit_cannot_be_read_off_the_emotion():
    """Dropout and distractors: within an emotion no cue is certain, across emotions none is exclusive."""
    clips = [list(sample_action_units("happy", np.random.default_rng(seed))) for seed in range(200)]
    assert 0.3 < np.mean(["AU6" in clip for clip in clips]) < 0.8
    others = [list(sample_action_units("sad", np.random.default_rng(seed))) for seed in range(400)]
    assert any("AU5" in clip for clip in others)


def test_action_units_rise_hold_and_end_within_the_clip():
    for seed in range(30):
        for unit in sample_action_units("fear", np.random.default_rng(seed), duration=3.0).values():
            assert 0 <= unit.onset < unit.apex < unit.offset <= 3.4
            levels = [unit.strength(t) for t in np.linspace(unit.onset, unit.apex, 9)]
            assert all(a <= b for a, b in pairwise(levels)) and levels[0] == 0


def test_weights_follow_the_action_units_over_time():
    units = {"AU12": ActionUnit(1.0, 0.5, 1.0, 2.0)}
    smile = [shapes_at(units, t).get("mouthSmile_L", 0.0) for t in (0.4, 0.75, 1.5, 3.0)]
    assert smile == pytest.approx([0.0, 0.5, 1.0, 0.0])


def test_anger_pulls_the_inner_brow_down_and_sorrow_pulls_it_up():
    assert shapes({"AU4": 1.0})["browInnerUp_L"] < 0 < shapes({"AU4": 0.5, "AU1": 1.0})["browInnerUp_L"]


def test_the_mouth_moves_while_the_voice_sounds_and_rests_when_it_stops():
    time = np.arange(2 * RATE) / RATE
    wave = np.where((time > 0.5) & (time < 1.5), np.sin(2 * np.pi * 150 * time), 0).astype(np.float32)
    frames = visemes.visemes("mˈɑː mɑ", wave, RATE, [0.1, 0.52, 0.8, 1.9])
    assert len(frames) == 4 and frames[0] == frames[3] == {}
    assert "mouthPress_L" in frames[1] and frames[2]["jawOpen"] > 0.3
    assert visemes.visemes("mɑ", np.zeros(RATE), RATE, [0.5]) == [{}]


def test_blinks_close_both_lids_and_glances_stay_below_looking_down():
    idle = motion.Motion((0, 0, 0), (0.1, 0, 0), (0.5, 1, 1), (0, 0, 0), (1.0,), ((0.0, 0.2, 0.0),))
    assert motion.idle_at(idle, 1.0)["eyeBlink_L"] == motion.idle_at(idle, 1.0)["eyeBlink_R"] == 1.0
    assert "eyeBlink_L" not in motion.idle_at(idle, 0.5)
    assert motion.idle_at(idle, 0.5)["eyeLookOut_L"] == motion.idle_at(idle, 0.5)["eyeLookIn_R"] == 0.2
    assert motion.pose_at(idle, 0.5)[0] == pytest.approx(0.1)
    looking_down = UNITS["AU64"]["eyeLookDown"] * 0.35
    for seed in range(50):
        drawn = motion.sample_motion(np.random.default_rng(seed), 4.0)
        assert all(abs(up) < looking_down for _, _, up in drawn.glances)


def test_expressions_need_no_renderer():
    assert "numba" not in vars(expressions)


@pytest.mark.skipif("OMNI_FACEKIT" not in os.environ, reason="OMNI_FACEKIT does not name the head")
def test_the_real_head_shows_a_smile():
    actor, scene = render.Actor(load_rig(os.environ["OMNI_FACEKIT"]), 3), render.Scene(1, 96, CLEAN)
    rest, smile = (render.render(actor, scene, shapes({"AU12": level})).astype(int) for level in (0, 1))
    change = np.abs(smile - rest).sum(2)
    assert change.max() > 100 and change[:32].mean() < 0.2 * change[40:80].mean()
