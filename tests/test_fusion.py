"""Fusion adapters: the contract of every mechanism, what each one's paper claims, budget, placement, training."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trl import SFTConfig, TrlParser

from omni.align import Aligned, AlignOptions, WordScores, align, fit_streams, gate_loss, token_scores
from omni.clip_writer import write_clip
from omni.errors import ModelError
from omni.features import ClipFeatures, collate, encode_clip
from omni.fusion import AUX, FUSIONS, MECHANISMS, Instruction, InstructionRouted
from omni.fusion.contract import clock, pool
from omni.fusion.cross import DynamicModalityAttention, InstructionGating, info_nce
from omni.fusion.foundation import BimodalAutoencoder, soft_cca
from omni.fusion.multiscale import window_means
from omni.fusion.optimization import pair
from omni.fusion.placement import PLACEMENTS, Residual, choose, new_fusion, width_for
from omni.generate import reason
from omni.loading import load, new_adapter
from omni.manifest import Example, write_manifest
from omni.sft import ColdStartTrainer
from omni.tiny import tiny
from tests.clips import CLIPS
from train_sft import ColdStart, start, train

WIDTHS = {"video": 12, "audio": 8, "physio": 3}
UNREAD = (BimodalAutoencoder, InstructionGating)  # what is not there is switched off, so its absent token is not read
GATED = [name for name in MECHANISMS if name in ("instruction_gating", "dynamic_modality_attention")]
ROOT = Path(__file__).parent.parent


def streams(batch: int = 2, seed: int = 0) -> tuple[dict, dict]:
    torch.manual_seed(seed)
    features = {m: torch.randn(batch, 5 + i, d) for i, (m, d) in enumerate(WIDTHS.items())}
    return features, {m: torch.linspace(0.1, 2.0, x.shape[1]).repeat(batch, 1) for m, x in features.items()}


def make(name: str, widths: dict = WIDTHS, seed: int = 0, **options):
    torch.manual_seed(seed)
    return MECHANISMS[name](widths, 16, **({"tokens": 6, "width": 16, "bins": 10} | options)).eval()


def asked(batch: int = 2, seed: int = 0, length: int = 4) -> Instruction:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(batch, length, dtype=torch.long)
    return Instruction(ids, torch.ones_like(ids), torch.randn(batch, length, 16, generator=generator))


def without(clips: tuple[dict, dict], *names: str) -> tuple[dict, dict]:
    return tuple({m: x for m, x in part.items() if m not in names} for part in clips)  # type: ignore[return-value]


@pytest.fixture(params=MECHANISMS)
def fusion(request):
    return make(request.param)


# --- the contract -----------------------------------------------------------------------------------------------------


def test_the_twelve_mechanisms_and_the_released_projectors_can_be_chosen():
    assert len(MECHANISMS) == 12 and {*FUSIONS} - {*MECHANISMS} == {"instruction_routed"}


def test_tokens_have_the_language_models_width_and_every_parameter_learns(fusion):
    features, times = streams()
    times["physio"][1] = torch.nan
    fused = fusion.train()(features, times)
    assert fused.tokens.shape == (2, 6, 16) and torch.isfinite(fused.tokens).all()
    times["audio"][1] = torch.nan
    alone = fusion(*without((features, times), "video", "physio"))
    (alone.tokens.square().sum() + (fused.tokens**3).sum() + fused.aux).backward()
    assert [n for n, p in fusion.named_parameters() if p.grad is None] == []
    off = "absent" if isinstance(fusion, UNREAD) else "nothing"
    assert [n for n, p in fusion.named_parameters() if not p.grad.abs().sum() > 0 and not n.startswith(off)] == []


def test_padding_changes_nothing(fusion):
    features, times = streams()
    padded = {m: torch.cat([x, torch.full((2, 3, x.shape[-1]), 99.0)], 1) for m, x in features.items()}
    clocks = {m: torch.cat([t, torch.full((2, 3), torch.nan)], 1) for m, t in times.items()}
    one, two = fusion(padded, clocks), fusion(features, times)
    torch.testing.assert_close(one.tokens, two.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.as_tensor(one.aux), torch.as_tensor(two.aux), atol=1e-5, rtol=0)


def test_a_clip_has_the_same_tokens_in_a_batch_and_alone(fusion):
    features, times = streams()
    times["audio"][0, 3:] = torch.nan
    alone = fusion({m: x[:1] for m, x in features.items()}, {m: t[:1] for m, t in times.items()})
    torch.testing.assert_close(fusion(features, times).tokens[:1], alone.tokens, atol=1e-5, rtol=0)


def test_a_missing_stream_cannot_leak_and_equals_an_empty_one(fusion):
    features, times = streams()
    less = fusion(*without((features, times), "audio"))
    hidden = times | {"audio": torch.full_like(times["audio"], torch.nan)}
    noise = features | {"audio": features["audio"] * 50}
    full = fusion(noise, hidden)
    torch.testing.assert_close(full.tokens, less.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.as_tensor(full.aux), torch.as_tensor(less.aux), atol=1e-5, rtol=0)


def test_every_stream_matters_and_so_does_its_time(fusion):
    features, times = streams()
    base = fusion(features, times).tokens
    for name in WIDTHS:
        assert not torch.allclose(fusion(features | {name: features[name].flip(0)}, times).tokens, base, atol=1e-4)
        assert not torch.allclose(fusion(features, times | {name: times[name] + 1}).tokens, base, atol=1e-5)


def test_all_streams_missing_is_finite_and_trains(fusion):
    features, times = streams()
    fused = fusion.train()(features, {m: torch.full_like(t, torch.nan) for m, t in times.items()})
    (fused.tokens.square().sum() + fused.aux).backward()
    assert torch.isfinite(fused.tokens).all() and torch.isfinite(torch.as_tensor(fused.aux)).all()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


def test_half_precision_gives_nearly_the_same_tokens(fusion):
    features, times = streams()
    exact = fusion(features, times).tokens
    rough = fusion.bfloat16()({m: x.bfloat16() for m, x in features.items()}, times).tokens
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).abs().mean() < 0.1


def test_other_streams_of_other_rates_and_a_single_one_are_taken(fusion):
    name = next(n for n, kind in MECHANISMS.items() if isinstance(fusion, kind))
    history = make(name, {"text": 5, "history": 7})
    times = {"text": torch.rand(2, 40).sort().values, "history": torch.rand(2, 2)}
    assert history({"text": torch.randn(2, 40, 5), "history": torch.randn(2, 2, 7)}, times).tokens.shape == (2, 6, 16)
    alone = make(name, {"physio": 3})
    assert torch.isfinite(alone({"physio": torch.randn(2, 9, 3)}, {"physio": torch.rand(2, 9)}).tokens).all()


def test_maps_have_their_time_axis_in_seconds(fusion):
    features, times = streams()
    bins = fusion(features, times).bins
    assert bins.shape == (2, 10) and (bins.diff() > 0).all() and bins.min() > 0.1 and bins.max() < 2.0


@pytest.mark.parametrize("name", GATED)
def test_a_gate_sums_to_one_and_is_exactly_zero_for_what_is_not_there(name):
    fusion, (features, times) = make(name), streams()
    times["audio"][1] = torch.nan
    gates = fusion(features, times, asked()).gates
    torch.testing.assert_close(gates.sum(1), torch.ones(2))
    assert (gates > 0).tolist() == [[True, True, True], [True, False, True]]
    none = fusion(features, {m: torch.full_like(t, torch.nan) for m, t in times.items()}).gates
    assert none.tolist() == [[0.0] * 3] * 2


def test_only_mechanisms_with_a_gate_report_one():
    clips = streams()
    assert [name for name in MECHANISMS if make(name)(*clips).gates is not None] == GATED


def test_training_and_evaluation_compute_the_same_but_for_switched_off_streams():
    clips = streams()
    for name in MECHANISMS:
        same = torch.equal(make(name)(*clips).tokens, make(name).train()(*clips).tokens)
        assert same or name == "bimodal_autoencoder"


def test_standardised_input_is_what_the_adapter_sees(fusion):
    features, times = streams()
    before = fusion(features, times).tokens
    scaled = {m: x * 7 + 3 for m, x in features.items()}
    fusion.standardise(
        {m: [torch.stack([torch.full((WIDTHS[m],), -4.0), torch.full((WIDTHS[m],), 10.0)])] for m in scaled}
    )
    for name in WIDTHS:
        getattr(fusion, f"{name}_mean").fill_(3.0)
        getattr(fusion, f"{name}_std").fill_(7.0)
    torch.testing.assert_close(fusion(scaled, times).tokens, before, atol=1e-5, rtol=0)


def test_a_gated_stream_steps_back_where_it_is_unlike_the_training_set():
    torch.manual_seed(0)
    fusion = FUSIONS["concat"](WIDTHS, 16, tokens=6, width=16, gated=["video"])
    plane = torch.randn(2, WIDTHS["video"])  # training steps lie in a plane, within a little noise
    fusion.video_axes = torch.zeros(WIDTHS["video"], 2)
    clips = [torch.randn(5, 2) @ plane + 0.01 * torch.randn(5, WIDTHS["video"]) for _ in range(40)]
    fusion.standardise({"video": clips})
    features, times = streams()
    features["video"] = torch.stack([clips[0], torch.randn(5, WIDTHS["video"])])
    assert fusion.unfamiliar(features, times)["video"].tolist() == [False, True]
    less = fusion(*without((features, times), "video")).tokens
    tokens = fusion(features, times).tokens
    torch.testing.assert_close(tokens[1], less[1])
    assert not torch.allclose(tokens[0], less[0])


@pytest.mark.parametrize(
    ("count", "steps", "known"), [(1, 1, False), (1, 300, False), (10, 8, False), (24, 8, False), (40, 8, True)]
)
def test_with_too_few_clips_to_know_what_is_familiar_all_is(count, steps, known):
    torch.manual_seed(0)
    fusion = FUSIONS["concat"]({"video": 150}, 16, tokens=6, width=16, gated=["video"])
    fusion.standardise({"video": [torch.randn(steps, 150) for _ in range(count)]})
    assert bool(fusion.video_limit.isfinite()) == known
    assert all(torch.isfinite(x).all() for x in (fusion.video_mean, fusion.video_std, fusion.video_axes))
    any_clip = {"video": torch.randn(1, 5, 150)}, {"video": torch.arange(5.0)[None]}
    assert known or not fusion.unfamiliar(*any_clip)["video"].any()


def test_streams_of_different_rates_meet_at_the_same_second():
    fusion = make("concat", {"video": 2, "audio": 2}, clock=False)
    slow, fast = torch.linspace(0.0, 4.0, 5)[None], torch.linspace(0.0, 4.0, 41)[None]
    entered = fusion.enter(
        {"video": torch.zeros(1, 5, 2), "audio": torch.zeros(1, 41, 2)}, {"video": slow, "audio": fast}
    )
    entered.hidden.update({"video": slow[..., None], "audio": fast[..., None]})  # what a step holds is when it is
    for found in entered.align().values():
        assert (
            found[0, :, 0] - entered.bins[0]
        ).abs().max() < 0.35  # half the distance of the slow stream's steps is 0.5


def test_concat_computes_what_the_shipped_weights_were_trained_with():
    """Projection plus clock, pooled to shares, then the output layers; written out a second time."""
    fusion, (features, times) = make("concat", shares={"video": 1, "audio": 2, "physio": 3}), streams()
    parts = []
    for name, share in fusion.shares.items():
        h = fusion.project[name](features[name].clamp(-8, 8)) + clock(times[name], 16)
        parts.append(pool(h, ~times[name].isnan(), share))
    assert torch.equal(fusion(features, times).tokens, fusion.output(torch.cat(parts, 1)))
    assert {n.split(".")[0] for n, _ in fusion.named_parameters()} == {"project", "absent", "output"}


# --- what each paper claims -------------------------------------------------------------------------------------------


def test_temporal_attention_with_one_token_is_the_weighted_sum_of_its_states():
    fusion, (features, times) = make("temporal_attention", tokens=3), streams()
    entered = fusion.enter(features, times)
    mixed = fusion.fuse(entered)
    for i, (name, h) in enumerate(entered.align().items()):
        weights = mixed.extras["maps"][name]
        torch.testing.assert_close(weights.sum(1), torch.ones(2))
        expected = (weights[..., None] * fusion.recur[name](h)[0]).sum(1)
        torch.testing.assert_close(mixed.sequence[:, i], expected, atol=1e-6, rtol=1e-5)


def test_temporal_attention_leaves_other_streams_alone():
    fusion, (features, times) = make("temporal_attention", tokens=3), streams()
    tokens = fusion(features, times).tokens
    less = fusion(*without((features, times), "audio")).tokens
    torch.testing.assert_close(tokens[:, [0, 2]], less[:, [0, 2]])


def test_temporal_attention_learns_when_something_happened():
    fusion = make("temporal_attention", {"video": 4}, tokens=1, bins=8)
    read, times = nn.Linear(16, 2), {"video": torch.arange(8.0).repeat(64, 1)}
    optimizer = torch.optim.Adam([*fusion.parameters(), *read.parameters()], 1e-2)

    def burst():
        x, at, sign = torch.randn(64, 8, 4), torch.randint(8, (64,)), torch.randint(2, (64,))
        x[torch.arange(64), at] += 4 * (2 * sign - 1)[:, None]
        return {"video": x}, at, sign

    for _ in range(250):
        features, _, sign = burst()
        loss = F.cross_entropy(read(fusion(features, times).tokens[:, 0]), sign)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, at, _ = burst()
    assert (fusion(features, times).maps["video"].argmax(1) == at).float().mean() > 0.8


def test_fuzzy_rules_fire_most_at_their_centres_and_never_underflow():
    fusion = make("neuro_fuzzy")
    fired = fusion(*streams()).maps["rules"]
    assert fired.shape == (2, 10, 8) and (fired >= 0).all()
    torch.testing.assert_close(fired.sum(-1), torch.ones(2, 10))
    assert fusion.firing(fusion.centres).argmax(-1).tolist() == list(range(8))
    assert torch.isfinite(fusion.firing(1e3 * torch.randn(4, 48))).all()
    wide = make("neuro_fuzzy", width=512)
    assert (wide.firing(torch.randn(1, 3 * 512)) > 0.01).all()  # with a sum all but one would be zero


def test_soft_cca_falls_where_views_belong_together_and_not_where_they_are_shuffled():
    torch.manual_seed(0)
    shared = torch.randn(256, 4)
    x, y = (torch.cat([shared, torch.randn(256, 4)], 1) @ torch.randn(8, 8) for _ in range(2))
    present = torch.ones(256, 2, dtype=torch.bool)

    def lowest(y):
        project = [nn.Linear(8, 4), nn.Linear(8, 4)]
        optimizer = torch.optim.Adam([p for layer in project for p in layer.parameters()], 0.02)
        for _ in range(150):
            loss = soft_cca([project[0](x), project[1](y)], present)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert lowest(y) < -0.8 < -0.5 < lowest(y[torch.randperm(256)])
    assert soft_cca([x, y], present & torch.tensor([True, False])) == 0


def test_the_autoencoder_tells_the_sound_from_the_picture_alone():
    fusion = make("bimodal_autoencoder", {"video": 12, "audio": 8}, clock=False).train()
    mixing = torch.randn(4, 12), torch.randn(4, 8)
    times = dict.fromkeys(("video", "audio"), torch.arange(6.0).repeat(64, 1))
    for p in fusion.project.parameters():
        p.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in fusion.parameters() if p.requires_grad], 3e-3)

    def related():
        z = torch.randn(64, 6, 4)
        return {"video": z @ mixing[0], "audio": z @ mixing[1]}

    for _ in range(300):
        loss = torch.as_tensor(fusion(related(), times).aux)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    heard = fusion.eval().enter(features := related(), times).align()["audio"]
    code = fusion.code(fusion.enter(features, times).align(), torch.tensor([[True, False]]).expand(64, -1))
    error = (fusion.decode["audio"](code) - heard).square().mean()
    assert error < 0.35 * (heard - heard.mean((0, 1))).square().mean()


def test_joint_attention_mixes_streams_and_tells_them_apart_by_their_tags():
    fusion, clips = make("multimodal_attention"), streams()
    fused = fusion(*clips)
    weights = fused.maps["self"]
    assert weights.shape == (2, 30, 30)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 30))
    assert (weights[:, :10, 10:].sum(-1) > 0.05).all()  # the picture's steps look at sound and physio
    with torch.no_grad():
        fusion.tag["video"].add_(1.0)
        fusion.tag["audio"].sub_(1.0)
    assert not torch.allclose(fusion(*clips).tokens, fused.tokens, atol=1e-3)


def test_joint_attention_has_its_order_from_the_recurrence_alone():
    layer, states = make("multimodal_attention").layers[0], torch.randn(2, 30, 16)
    order = torch.randperm(30)
    torch.testing.assert_close(layer(states, states[:, order])[0], layer(states, states)[0], atol=1e-5, rtol=0)


def test_a_pair_is_a_product_of_its_streams():
    x, y = torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    joint, forth, back = pair(x, y)
    torch.testing.assert_close(joint, torch.cat([x * y, x * y], -1))  # at a single step there is nothing to choose
    joint, forth, back = pair(torch.randn(2, 5, 4), torch.zeros(2, 5, 4))
    assert (joint == 0).all()
    torch.testing.assert_close(forth.sum(-1) + back.sum(-1), torch.full((2, 5), 2.0))


@pytest.mark.parametrize(("form", "shape"), [("channel", (2, 16, 48)), ("time", (2, 10, 10))])
def test_recursion_correlates_each_stream_with_all_and_feeds_back(form, shape):
    once, thrice = (make("recursive_joint_attention", form=form, share=True, recursions=n) for n in (1, 3))
    thrice.load_state_dict(once.state_dict())  # shared weights: recursions cost no parameters
    clips = streams()
    assert not torch.allclose(once(*clips).tokens, thrice(*clips).tokens, atol=1e-4)
    for correlation in thrice(*clips).maps.values():
        assert correlation.shape == shape and correlation.abs().max() <= 1 and correlation.min() < 0
    for layer in once.rounds[0].back.values():
        for p in layer.parameters():
            nn.init.zeros_(p)
    h = {m: torch.randn(2, 10, 16) for m in WIDTHS}
    assert all(torch.equal(out, h[m]) for m, out in once.rounds[0](h)[0].items())  # zero correction: nothing changes


def test_vlad_has_one_codebook_for_all_streams_and_scales():
    fusion, clips = make("multiscale_vlad"), streams()
    two = make("multiscale_vlad", {"video": 12, "audio": 8})
    assert fusion.centres.shape == two.centres.shape == (8, 16)
    before = fusion(*clips).maps
    assert set(before) == {f"{m}@{s}" for m in WIDTHS for s in (1, 2, 3, 10)}
    assert all(torch.allclose(a.sum(-1), torch.ones(a.shape[:2])) for a in before.values())
    with torch.no_grad():
        fusion.centres.add_(torch.randn_like(fusion.centres))
    assert not any(torch.allclose(a, before[name], atol=1e-3) for name, a in fusion(*clips).maps.items())


def test_vlad_forgets_order_inside_a_scale_and_a_missing_stream_adds_no_residual():
    fusion, (features, times) = make("multiscale_vlad", scales=(1,), clock=False), streams()
    shuffled = features | {"video": features["video"][:, torch.randperm(5)]}
    torch.testing.assert_close(fusion(shuffled, times).tokens, fusion(features, times).tokens, atol=1e-5, rtol=0)
    gone = fusion.enter(*without((features, times), "audio"))
    steps, there = window_means(gone.hidden["audio"], gone.masks["audio"], 1)
    residual, _ = fusion.topics(steps, there & gone.present[:, 1, None])
    assert there.all() and (residual == 0).all()


def test_crossmodal_tokens_are_the_minimum_of_what_the_mean_averages():
    found = {}
    for how in ("min", "mean", "max", "first"):
        fusion = make("crossmodal_transformer", aggregate=how)
        mixed = fusion.fuse(fusion.enter(*streams()))
        found[how] = fusion.read(mixed)
    assert (found["min"] <= found["mean"] + 1e-6).all() and (found["mean"] <= found["max"] + 1e-6).all()
    assert (found["min"] <= found["first"]).all() and not torch.allclose(found["first"], found["mean"])
    torch.testing.assert_close(found["first"][:, 0], mixed.sequence[:, 0])


def test_crossmodal_attention_does_not_see_the_order_of_what_it_attends_to():
    fusion, (features, times) = make("crossmodal_transformer", clock=False, aggregate="mean", tokens=1), streams()
    order = torch.randperm(6)
    maps, turned = fusion(features, times).maps, fusion(features | {"audio": features["audio"][:, order]}, times).maps
    assert maps["video>audio"].shape == (2, 5, 6)
    torch.testing.assert_close(turned["video>audio"], maps["video>audio"][..., order])  # keys: weights move with them
    torch.testing.assert_close(turned["audio>video"], maps["audio>video"][:, order])  # queries: rows move


def test_what_is_asked_moves_the_gate_and_the_gate_learns():
    fusion, clips = make("instruction_gating"), streams()
    one, two = fusion(*clips, asked(seed=1)), fusion(*clips, asked(seed=2))
    assert not torch.allclose(one.gates, two.gates) and not torch.allclose(one.tokens, two.tokens, atol=1e-4)
    (one.tokens**3).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fusion.route.parameters())
    longer = asked(seed=1, length=4)
    padded = Instruction(
        F.pad(longer.ids, (0, 3)),
        F.pad(longer.mask, (0, 3)),
        torch.cat([longer.embeds, torch.full((2, 3, 16), 9.0)], 1),
    )
    torch.testing.assert_close(fusion(*clips, padded).gates, one.gates)


class PublishedGate(DynamicModalityAttention):
    """The released block: each branch is weighed by 1 + gate *before* a LayerNorm of its own."""

    def weigh(self, branches, gates):
        return sum(F.layer_norm((1 + gates[:, i, None, None]) * y, (self.width,)) for i, y in enumerate(branches))


def most_that_the_gate_moves(kind: type[DynamicModalityAttention]) -> float:
    """The largest change of any token's entry as the gate goes from the first stream to the second."""
    torch.manual_seed(0)
    fusion, clips, found = kind(WIDTHS, 16, tokens=6, width=16, bins=10).eval(), streams(), []
    for name in ("video", "audio"):
        for stream in WIDTHS:
            nn.init.constant_(fusion.score[stream][-1].bias, 8.0 if stream == name else -8.0)
        fused = fusion(*clips)
        assert (fused.gates[:, list(WIDTHS).index(name)] > 0.99).all()
        found.append(fused.tokens)
    return float((found[0] - found[1]).detach().abs().max())


def test_the_dynamic_gate_is_live_and_that_of_the_published_block_is_not():
    assert most_that_the_gate_moves(DynamicModalityAttention) > 0.1
    assert most_that_the_gate_moves(PublishedGate) < 1e-3


def test_the_contrast_pulls_the_fused_code_to_its_own_clip():
    fused, present = torch.eye(4), torch.ones(4, 1, dtype=torch.bool)
    own, other = info_nce(fused, [fused], present), info_nce(fused, [fused.roll(1, 0)], present)
    assert own < math.log(4) < other
    assert info_nce(fused[:1], [fused[:1]], present[:1]) == 0  # a clip alone has nothing to be told from


def test_each_part_of_the_composite_matters_and_can_be_left_out():
    whole, clips = make("composite_interaction"), streams()
    tokens = whole(*clips).tokens
    for part in ("self", "channel", "cross"):
        left = make("composite_interaction", parts=[p for p in ("self", "channel", "cross") if p != part])
        left.load_state_dict(whole.state_dict(), strict=False)
        assert not torch.allclose(left(*clips).tokens, tokens, atol=1e-3)
    excited = whole.excite["video"](torch.randn(50, 16))
    assert (excited > 0).all() and (excited < 1).all()


# --- one budget, and the overview -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize(
    ("widths", "embedding", "budget"),
    [
        ({"video": 768, "audio": 1280}, 896, 6_000_000),  # R1-Omni-0.5B
        ({"expression": 7, "video": 200, "audio": 384, "prosody": 6}, 576, 2_500_000),  # about the default
    ],
)
def test_every_mechanism_meets_a_budget_of_parameters(name, widths, embedding, budget):
    width = width_for(name, widths, embedding, budget, tokens=32)
    with torch.device("meta"):
        fusion = MECHANISMS[name](widths, embedding, tokens=32, width=width)
    assert abs(sum(p.numel() for p in fusion.parameters()) - budget) <= 0.1 * budget


def test_a_budget_that_cannot_be_met_says_what_can():
    with pytest.raises(ModelError, match=r"Set\s+parameters: \d+"):
        width_for("concat", WIDTHS, 576, 1000, tokens=6)


def test_the_overview_has_a_row_of_each_mechanism_that_says_what_its_class_says():
    text = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
    rows = {
        r[0]: r[1:]
        for r in re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|", text, re.M)
    }
    said = {n: (k.stage, k.attention, k.depth, k.source, k.fidelity) for n, k in MECHANISMS.items()}
    assert {name: tuple(row) for name, row in rows.items()} == said


# --- placement: in the model ------------------------------------------------------------------------------------------


def ask(model, processor, clip=CLIPS[0], text="What?"):
    inputs = processor.ask([encode_clip(model, processor, clip)], [text])
    return inputs, model(**inputs)


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_residual_leaves_the_checkpoints_logits_as_they_are_and_then_learns(name):
    model, processor = tiny()
    before = ask(model, processor)[1].logits
    choose(model, processor, name, "residual", width=32)
    inputs, out = ask(model, processor)
    assert torch.equal(out.logits, before)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    gain = model.model.fusion.gain
    assert gain.grad.abs().sum() > 0
    with torch.no_grad():
        gain.sub_(0.1 * gain.grad.sign())
    assert not torch.allclose(ask(model, processor)[1].logits, before, atol=1e-5)


def test_a_residual_stands_on_released_projectors_too():
    torch.manual_seed(0)
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    onto = InstructionRouted({"video": 12, "audio": 8}, 16, 2, bert).eval()
    both = Residual(onto, make("crossmodal_transformer", {"video": 12, "audio": 8})).eval()
    features = {"video": torch.randn(1, 3 * 4, 12), "audio": torch.randn(1, 5, 8)}
    times = {"video": torch.arange(12.0)[None], "audio": torch.arange(5.0)[None]}
    words = Instruction(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))
    base, same = onto(features, times, words), both(features, times, words)
    assert {k: v.shape for k, v in same.parts.items()} == {"video": (1, 3, 16), "audio": (1, 5, 16)}
    assert all(torch.equal(same.parts[k], base.parts[k]) for k in base.parts) and torch.equal(same.gates, base.gates)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_choice_is_saved_with_the_model_and_answers_the_same(placement, tmp_path):
    model, processor = tiny()
    choose(model, processor, "dynamic_modality_attention", placement, layers=1, tokens=8)
    if placement == "residual":
        nn.init.ones_(model.model.fusion.gain)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["fusion"]
    assert saved["name"] == "dynamic_modality_attention" and saved["layers"] == 1
    again = load(tmp_path, dtype="float32")
    assert reason(*again, CLIPS[0], max_new_tokens=4) == reason(model, processor, CLIPS[0], max_new_tokens=4)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_adapter_folder_brings_another_fusion_than_its_base_has(placement, tmp_path):
    model, processor = tiny()
    base = tmp_path / "base"
    model.save_pretrained(base)
    processor.save_pretrained(base)
    model, processor = load(base, dtype="float32")
    choose(model, processor, "instruction_gating", placement, width=8)
    adapted = new_adapter(model, str(base), 2, 4).eval()
    if placement == "residual":
        nn.init.ones_(adapted.model.model.fusion.modules_to_save["default"].gain)
    adapted.save_pretrained(tmp_path / "adapter")
    loaded, other = load(tmp_path / "adapter", dtype="float32")
    assert loaded.config.fusion["name"] == "instruction_gating" and other.instructed
    expected = reason(adapted, processor, CLIPS[0], max_new_tokens=4)
    found = reason(loaded, other, CLIPS[0], max_new_tokens=4)
    assert found.text == expected.text and all(abs(found.labels[k] - p) < 1e-5 for k, p in expected.labels.items())


def test_the_question_reaches_the_gate_of_a_model_and_the_answer_does_not():
    model, processor = tiny()
    choose(model, processor, "instruction_gating", width=16)
    clip, seen = encode_clip(model, processor, CLIPS[0]), []
    model.model.fusion.register_forward_hook(lambda module, args, out: seen.append(out.gates))
    for text, said in (("What do you see?", "happy"), ("What do you see?", "sad"), ("And the voice?", "sad")):
        turns = [
            {"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": said},
        ]
        model(**processor.apply_chat_template([turns], tokenize=True, return_dict=True, return_tensors="pt"))
    assert torch.equal(seen[0], seen[1]) and not torch.allclose(seen[1], seen[2], atol=1e-6)


def test_a_further_stream_of_the_config_is_one_more_input():
    config = tiny()[0].config
    config.further_streams = {"physio": 3}
    assert list(config.stream_widths) == ["video", "audio", "prosody", "physio"]
    fusion = new_fusion(config.fusion, config.stream_widths, 32)
    heart = {"physio": torch.randn(1, 50, 3)}, {"physio": torch.arange(50.0)[None]}
    assert not torch.allclose(fusion(*heart).tokens, fusion({"physio": -heart[0]["physio"]}, heart[1]).tokens)


@pytest.mark.parametrize(
    ("choice", "advice"),
    [
        ({"name": "attention"}, "Choose one of: concat"),
        ({"name": "concat", "placement": "above"}, "Choose one of: replace, residual"),
        ({"name": "multiscale_vlad", "layers": 2}, "It has: .*scales"),
        ({"name": "composite_interaction", "parts": ["self", "chanel"]}, "parts are some of channel, cross, self"),
        ({"name": "crossmodal_transformer", "heads": 5}, "must be divisible by num_heads"),
    ],
)
def test_a_wrong_choice_says_what_there_is(choice, advice):
    with pytest.raises(ModelError, match=advice):
        choose(*tiny(), **choice)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A tiny base model and a manifest of two clips."""
    folder, (model, processor) = tmp_path_factory.mktemp("corpus"), tiny()
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    examples = []
    for i, label in enumerate(("happy", "sad")):
        noise = np.random.default_rng(i)
        frames = noise.integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
        write_clip(folder / f"{i}.mp4", frames=frames, fps=4.0, wave=noise.normal(0, 0.1, 16000).astype(np.float32))
        examples.append(Example(folder / f"{i}.mp4", label, f"The lips move. This points to {label}."))
    write_manifest(folder / "train.jsonl", examples)
    return folder


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["instruction_gating", "bimodal_autoencoder"])
def test_the_cold_start_trains_the_mechanism_that_its_config_names(name, placement, corpus, tmp_path):
    """The training script's own function with TRL's trainer, from a config file; the folder then answers."""
    lines = [f"train: [{corpus}/train.jsonl]", f"model: {corpus}/base", f"features: {corpus}/features"]
    lines += [f"fusion: {name}", f"placement: {placement}", "fusion_options: {width: 24, bins: 8}", "align_epochs: 1"]
    lines += [f"output_dir: {tmp_path}/out", "max_steps: 2", "per_device_train_batch_size: 2", "report_to: none"]
    lines += ["learning_rate: 0.01", "use_cpu: true", "bf16: false", "disable_tqdm: true", "save_strategy: 'no'"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    args, training = TrlParser((ColdStart, SFTConfig)).parse_args_and_config(["--config", str(tmp_path / "run.yaml")])
    train(args, training)
    model, processor = load(tmp_path / "out", dtype="float32")
    saved = model.config.fusion
    assert (saved["name"], saved["width"], saved["bins"]) == (name, 24, 8)
    assert saved.get("placement", "replace") == placement
    if placement == "residual":
        assert model.model.fusion.gain.abs().sum() > 0  # it was zero and has learned
    assert reason(model, processor, CLIPS[0], max_new_tokens=2).labels


def test_a_residual_on_an_adapter_is_refused_unless_the_model_is_saved_whole(corpus, tmp_path):
    model, _ = load(corpus / "base", dtype="float32")
    new_adapter(model, str(corpus / "base"), 2, 4).save_pretrained(tmp_path)
    args = ColdStart(model=str(tmp_path), fusion="concat", placement="residual")
    with pytest.raises(ModelError, match="--full true"):
        start(args)
    with pytest.raises(ModelError, match="Leave out --adapter"):
        start(replace(args, adapter=True))
    model, _ = start(replace(args, full=True))
    assert isinstance(model.model.fusion, Residual)


# --- auxiliary losses reach training ----------------------------------------------------------------------------------


def test_the_auxiliary_loss_is_in_the_models_loss_and_in_that_of_the_cold_start():
    model, processor = tiny(fusion="bimodal_autoencoder")
    inputs, _ = ask(model, processor)
    out = model(**inputs, labels=inputs["input_ids"])
    plain = F.cross_entropy(out.logits[0, :-1], inputs["input_ids"][0, 1:])
    assert out.aux_loss > 0
    torch.testing.assert_close(out.loss, plain + AUX * out.aux_loss)

    loss = ColdStartTrainer.compute_loss(None, model, {**inputs, "labels": inputs["input_ids"]})
    torch.testing.assert_close(loss, plain + AUX * out.aux_loss)
    loss.backward()
    assert model.model.fusion.decode["video"][0].weight.grad.abs().sum() > 0  # nothing else reaches the decoders


def test_a_model_without_an_auxiliary_loss_has_the_loss_it_had():
    model, processor = tiny()
    inputs, _ = ask(model, processor)
    out = model(**inputs, labels=inputs["input_ids"])
    assert out.aux_loss is None
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits[0, :-1], inputs["input_ids"][0, 1:]))


@pytest.mark.parametrize("telling", ["video", "audio"])
def test_alignment_draws_the_gate_to_the_stream_that_knows_the_label(telling):
    """One stream is noise and the other shows the label; no label is at hand when the gate is read."""
    torch.manual_seed(0)
    rows, times = [], {"video": torch.arange(4.0), "audio": torch.arange(6.0)}
    for i in range(64):
        features = {m: torch.randn(len(t), 6) for m, t in times.items()}
        features[telling] += 2 * (i % 2) - 1
        clip = ClipFeatures(features, times, ("video", "audio"), 6.0, "")
        rows.append(Aligned(clip, torch.tensor([float(i % 2)]), i % 2))
    fusion = MECHANISMS["dynamic_modality_attention"](dict.fromkeys(times, 6), 32, tokens=4, width=16, bins=6)
    options = AlignOptions(epochs=40, batch=32, drop_audio=0.0, rate=3e-3)
    align(fusion, rows, torch.randn(1, 32), torch.randn(2, 32), 0.02, options)
    gates = fusion(*collate([row.clip for row in rows])).gates.mean(0)
    assert gates[list(times).index(telling)] > 0.55


def test_alignment_runs_where_the_adapter_is(monkeypatch):
    """The meta device stands for a GPU: it refuses to be mixed with the processor, where clips and labels are."""
    losses = []
    monkeypatch.setattr("omni.align.loss_of", lambda cues, labels, rows: losses.append(1) or cues.sum() + labels.sum())
    times = {"video": torch.arange(4.0), "audio": torch.arange(6.0)}
    clip = ClipFeatures({m: torch.randn(len(t), 6) for m, t in times.items()}, times, ("video", "audio"), 6.0, "")
    rows = [Aligned(clip, torch.ones(1), i % 2) for i in range(8)]
    fusion = MECHANISMS["dynamic_modality_attention"](
        dict.fromkeys(times, 6), 32, tokens=4, width=16, bins=6, gated=["video"]
    ).to("meta")
    fit_streams(fusion, [clip] * 8)
    options = AlignOptions(epochs=2, batch=4)
    scores, _ = align(fusion, rows, torch.randn(1, 32), torch.randn(2, 32), 0.02, options)
    assert losses and token_scores(fusion, scores, [clip] * 3).shape == (3, 1)


def test_a_gate_that_trusts_the_wrong_stream_costs_more_than_one_that_trusts_the_right_one():
    fusion, (features, times) = make("concat", {"video": 12, "audio": 8}), without(streams(), "physio")
    scores = WordScores(torch.randn(2, 16), votes=True)
    rows = [Aligned(None, torch.zeros(1), i) for i in range(2)]  # type: ignore[arg-type]
    truth = torch.arange(2)
    alone = [
        F.cross_entropy(scores(fusion({m: features[m]}, {m: times[m]}).tokens), truth, reduction="none").detach()
        for m in fusion.streams
    ]
    right = (-torch.stack(alone, 1)).softmax(1)
    costs = [gate_loss(fusion, g, features, times, scores, rows) for g in (right, right.flip(1))]
    assert costs[0].abs() < 1e-5 and costs[1] > costs[0]
