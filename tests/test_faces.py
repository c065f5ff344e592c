"""The face tower: its contract on tiny random nets; what the real nets see is in `test_convert.py`."""

import pytest
import torch

from omni.faces import (
    Faces,
    FaceTower,
    FaceTowerConfig,
    Pyramid,
    Square,
    _follow,
    _suppressed,
    _upright,
    letterbox,
)

TINY = dict(
    propose_widths=(4, 4, 4), refine_widths=(4, 4, 4, 8), locate_widths=(4, 4, 4, 4, 8), candidates=6,
    expression_widths=(4, 4, 4, 8, 8), min_face=0.3,
)  # fmt: skip


def tower(**changes) -> FaceTower:
    """A random tower; with `thresholds` of 0 it takes anything for a face."""
    torch.manual_seed(0)
    model = FaceTower(FaceTowerConfig(**{**TINY, **changes})).eval()
    for weight in model.parameters():  # the library's 0.02 would leave hardly any signal after ten layers
        torch.nn.init.normal_(weight, std=0.3)
    return model


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, 3, 64, 64, generator=torch.Generator().manual_seed(1))


SEES_ANYTHING = dict(thresholds=(0.0, 0.0, 0.0))
SEES_NOTHING = dict(thresholds=(1.1, 1.1, 1.1))


def test_features_have_the_shapes_that_the_configuration_promises():
    model = tower(**SEES_ANYTHING)
    seen = model(frames(2, 3))
    assert seen.expression.shape == (2, 3, model.config.expression_size)
    assert seen.detail.shape == (2, 3, model.config.detail_size)
    assert seen.found.shape == (2, 3) and seen.found.dtype == torch.bool and seen.found.all()
    assert seen.box.shape == (2, 3, 4) and seen.score.shape == (2, 3)
    torch.testing.assert_close(seen.expression.exp().sum(-1), torch.ones(2, 3))


def test_a_clip_without_a_face_is_said_to_have_none():
    seen = tower(**SEES_NOTHING)(frames(1, 2))
    assert not seen.found.any() and not seen.score.any() and not seen.box.any() and not seen.detail.any()
    torch.testing.assert_close(seen.expression.exp(), torch.full((1, 2, 7), 1 / 7))


def test_a_batch_of_clips_equals_one_by_one():
    model, clips = tower(**SEES_ANYTHING), frames(3, 2)
    together = model(clips)
    for i, clip in enumerate(clips):
        for name, alone in model(clip[None])._asdict().items():
            assert torch.allclose(getattr(together, name)[i], alone[0], atol=1e-4), name


def test_the_same_frames_give_the_same_features():
    model = tower(**SEES_ANYTHING)
    for first, second in zip(model(frames(1, 2)), model(frames(1, 2)), strict=True):
        assert torch.equal(first, second)


def test_saving_and_loading_changes_nothing(tmp_path):
    model = tower(**SEES_ANYTHING)
    model.save_pretrained(tmp_path)
    again = FaceTower.from_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    for first, second in zip(model(frames(1, 2)), again(frames(1, 2)), strict=True):
        assert torch.equal(first, second)


def test_loading_in_bfloat16_keeps_the_tower_in_float32(tmp_path):
    tower().save_pretrained(tmp_path)
    again = FaceTower.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}


def test_autocast_around_it_changes_nothing():
    model, clip = tower(**SEES_ANYTHING), frames(1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(clip)
    for name, alone in model(clip)._asdict().items():
        assert torch.equal(getattr(mixed, name), alone), name


def test_the_tower_is_frozen_and_leaves_no_graph():
    model = tower(**SEES_ANYTHING)
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model(frames(1, 1).requires_grad_()).detail.requires_grad


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (48, 48), (1, 300)])
def test_letterbox_keeps_the_shape_and_a_margin_of_a_tenth(height, width):
    picture = letterbox(torch.full((2, height, width, 3), 255, dtype=torch.uint8), size=100)
    assert picture.shape == (2, 3, 100, 100) and picture.dtype == torch.float32
    white = (picture[0, 0] == 1).nonzero()
    rows, columns = (white.amax(0) - white.amin(0) + 1).tolist()
    assert max(rows, columns) == 80
    assert abs(rows / columns - height / width) < 0.02 or min(rows, columns) == 1
    assert picture[0, 0, 0, 0] == 0.5


def test_suppression_is_greedy():
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 3, 10, 13], [0, 6, 10, 16.0]]])
    score = torch.tensor([[0.9, 0.8, 0.7]])
    # The second falls to the first and so cannot pull down the third.
    assert _suppressed(boxes, score, 0.5).tolist() == [[pytest.approx(0.9), 0.0, pytest.approx(0.7)]]
    assert not _suppressed(boxes, torch.zeros(1, 3), 0.5).any()


def test_the_person_is_followed_when_a_larger_face_walks_in():
    person, passer = [10.0, 10, 50, 50], [60.0, 10, 110, 60]
    box = torch.tensor([[person, passer], [passer, person], [passer, person]])
    score = torch.tensor([[0.9, 0.0], [0.6, 0.9], [0.6, 0.9]])
    assert _follow(Faces(box, score, torch.zeros(3, 2, 5, 2))).tolist() == [0, 1, 1]


def test_the_crop_is_upright_however_the_head_is_turned():
    """A picture and its five points turned together give the same crop."""
    picture = letterbox(torch.randint(0, 255, (1, 8, 8, 3), generator=torch.Generator().manual_seed(2)), 96)
    points = torch.tensor([[[38.0, 40], [58, 40], [48, 51], [40, 61], [56, 61]]])
    turned = torch.stack([points[..., 1], 96 - points[..., 0]], -1)  # as rot90 turns a point
    square = Square(0.0, 0.0, 2.0)
    straight = _upright(Pyramid.of(picture), points, square, 16)
    sideways = _upright(Pyramid.of(picture.rot90(1, (2, 3))), turned, square, 16)
    torch.testing.assert_close(straight, sideways, atol=1e-3, rtol=0)
