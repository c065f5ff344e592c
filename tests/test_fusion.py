"""The contract of fusion adapters, for every mechanism in `FUSIONS`."""

import pytest
import torch

from omni.fusion import FUSIONS, Fusion

WIDTHS = {"video": 12, "audio": 8, "physio": 3}


def streams(batch: int = 2) -> tuple[dict, dict]:
    torch.manual_seed(0)
    features = {m: torch.randn(batch, 5 + i, d) for i, (m, d) in enumerate(WIDTHS.items())}
    return features, {m: torch.linspace(0.1, 2.0, x.shape[1]).repeat(batch, 1) for m, x in features.items()}


@pytest.fixture(params=sorted(name for name, kind in FUSIONS.items() if issubclass(kind, Fusion)))
def fusion(request):
    torch.manual_seed(0)
    return FUSIONS[request.param](WIDTHS, 16, tokens=6, width=16)


def test_tokens_have_the_language_models_width_and_every_parameter_learns(fusion):
    features, times = streams()
    times["physio"][1] = torch.nan
    fused = fusion(features, times)
    assert fused.tokens.shape == (2, 6, 16) and torch.isfinite(fused.tokens).all()
    fused = (
        fusion({"video": features["video"]}, {"video": times["video"]}).tokens.square().sum() + (fused.tokens**3).sum()
    )
    fused.backward()
    assert [n for n, p in fusion.named_parameters() if p.grad is None] == []


def test_padding_changes_nothing(fusion):
    features, times = streams()
    padded = {m: torch.cat([x, torch.full((2, 3, x.shape[-1]), 99.0)], 1) for m, x in features.items()}
    clocks = {m: torch.cat([t, torch.full((2, 3), torch.nan)], 1) for m, t in times.items()}
    torch.testing.assert_close(fusion(padded, clocks).tokens, fusion(features, times).tokens, atol=1e-5, rtol=0)


def test_a_missing_stream_cannot_leak_and_equals_an_empty_one(fusion):
    features, times = streams()
    without = fusion(
        {m: x for m, x in features.items() if m != "audio"}, {m: t for m, t in times.items() if m != "audio"}
    )
    hidden = times | {"audio": torch.full_like(times["audio"], torch.nan)}
    noise = features | {"audio": features["audio"] * 50}
    torch.testing.assert_close(fusion(noise, hidden).tokens, without.tokens, atol=1e-6, rtol=0)


def test_every_stream_matters_and_so_does_its_time(fusion):
    features, times = streams()
    base = fusion(features, times).tokens
    for name in WIDTHS:
        assert not torch.allclose(fusion(features | {name: features[name].flip(0)}, times).tokens, base, atol=1e-4)
        assert not torch.allclose(fusion(features, times | {name: times[name] + 1}).tokens, base, atol=1e-5)


def test_all_streams_missing_is_finite(fusion):
    features, times = streams()
    assert torch.isfinite(fusion(features, {m: torch.full_like(t, torch.nan) for m, t in times.items()}).tokens).all()


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
    without = fusion({m: x for m, x in features.items() if m != "video"}, times).tokens
    tokens = fusion(features, times).tokens
    torch.testing.assert_close(tokens[1], without[1])
    assert not torch.allclose(tokens[0], without[0])
