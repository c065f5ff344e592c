"""The probe: its tasks cannot be done without relating streams, and its table says what was measured."""

import json
import math
from itertools import product

import pytest
import torch
from torch import nn

from omni.cli import main
from omni.errors import OmniError
from omni.fusion import MECHANISMS
from omni.probe import (
    TASKS,
    Clips,
    Outcome,
    Probe,
    ProbeOptions,
    accuracy,
    cues,
    dominance,
    dropped,
    interaction,
    measure,
    outcomes,
    redundancy,
    rows,
    run,
    synchrony,
    table,
    train,
)

SHORT = ProbeOptions(steps=160, every=80)
GATED = ("instruction_gating", "dynamic_modality_attention")


def where(clips: Clips, name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which cue a stream holds at which step, read from the clips themselves."""
    scores = torch.einsum("btd,cd->bct", clips.features[name], nn.functional.normalize(cues(name)[:count], dim=-1))
    best = scores.flatten(1).argmax(1)
    return best // scores.shape[2], best % scores.shape[2]


def facts(task: str, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each of the two streams tells about a clip, as one number each, and the labels."""
    torch.manual_seed(0)
    clips = TASKS[task].draw(count)
    cue = 0 if task == "interaction" else 1
    seen, heard = (where(clips, name, 2 - cue)[cue] for name in ("video", "audio"))
    return seen, heard, clips.labels


@pytest.mark.parametrize("task", ["interaction", "synchrony"])
def test_no_stream_alone_tells_the_label_and_both_together_do(task):
    seen, heard, labels = facts(task)
    for fact in (seen, heard):
        for value in fact.unique():
            among = labels[fact == value].float()
            assert abs(float(among.mean()) - 0.5) < 4 * 0.5 / math.sqrt(len(among))
    cells = [labels[(seen == a) & (heard == b)].float() for a, b in product(seen.unique(), heard.unique())]
    sure = [max(float(c.mean()), 1 - float(c.mean())) for c in cells if len(c) > 20]
    assert min(sure) > 0.97  # what is left are cues that noise hides


@pytest.mark.parametrize("task", ["interaction", "synchrony"])
def test_the_best_sum_of_what_the_streams_tell_is_a_coin(task):
    """A logistic score f(picture) + g(sound) with f and g free at every value of the true facts, fitted exactly."""
    seen, heard, labels = facts(task)
    known = torch.cat([nn.functional.one_hot(x) for x in (seen, heard)], 1).float()
    score = nn.Linear(known.shape[1], 1)
    optimizer = torch.optim.LBFGS(score.parameters(), max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(score(known)[:, 0], labels.float())
        value.backward()
        return value

    optimizer.step(loss)
    assert math.log(2) - 0.002 < float(loss().detach()) <= math.log(2) + 1e-6
    assert (score(known).sigmoid() - 0.5).abs().max() < 0.06


@pytest.mark.parametrize("task", ["interaction", "synchrony"])
@pytest.mark.parametrize("mechanism", ["concat", "temporal_attention"])
def test_a_trained_additive_mechanism_is_at_chance(task, mechanism):
    assert abs(run(mechanism, task, 0, SHORT).scores[task] - 0.5) < 0.03


@pytest.mark.parametrize("task", ["interaction", "synchrony"])
@pytest.mark.parametrize("name", ["video", "audio"])
def test_a_mechanism_with_one_stream_is_at_chance(task, name):
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.probe = Probe("pairwise_attention", task, SHORT)

        def forward(self, clips):
            return self.probe(clips.without("audio" if name == "video" else "video"))

    torch.manual_seed(0)
    model = Alone()
    assert train(model, TASKS[task], SHORT) is None
    with torch.no_grad():
        assert abs(accuracy(model, TASKS[task].draw(2048)) - 0.5) < 0.03


def test_a_mechanism_that_multiplies_streams_learns_both_and_says_when():
    for task in ("interaction", "synchrony"):
        found = run("pairwise_attention", task, 0)
        assert found.scores[task] >= 0.95 and found.steps is not None and found.steps <= 400
    assert run("pairwise_attention", "interaction", 0).scores == run("pairwise_attention", "interaction", 0).scores


def test_a_sum_knows_at_best_the_pair_of_classes_in_dominance():
    torch.manual_seed(0)
    clips = dominance(20_000)
    shown, said = (
        torch.einsum("btd,cd->bc", clips.features[m], nn.functional.normalize(cues(m), dim=-1)).argmax(1)
        for m in ("video", "audio")
    )
    assert (shown != said).float().mean() > 0.97  # they conflict, so trusting one stream is right half of the time
    for stream in (shown, said):
        assert abs(float((stream == clips.labels).float().mean()) - 0.5) < 0.02
    right = torch.where(where(clips, "physio", 2)[0].bool(), said, shown)
    assert (right == clips.labels).float().mean() > 0.95  # and the flag tells which


def test_a_stream_is_left_out_of_some_clips_but_never_both():
    torch.manual_seed(0)
    clips = dropped(redundancy(4000), TASKS["redundancy"])
    gone = torch.stack([t.isnan().all(1) for t in clips.times.values()], 1)
    assert not gone.all(1).any() and ((gone.float().mean(0) - 0.15).abs() < 0.02).all()
    assert dropped(whole := interaction(5), TASKS["interaction"]) is whole


def test_robustness_is_measured_on_clips_with_a_stream_gone_or_drowned():
    class ReadsThePicture(nn.Module):
        def forward(self, clips):
            there = ~clips.times["video"].isnan().all(1, keepdim=True)
            return there * (99.0 * clips.features["video"].mean(1) @ cues("video").T), 0.0, None

    torch.manual_seed(0)
    scores, _ = measure(ReadsThePicture(), "redundancy")
    assert scores["clean"] > 0.99 and abs(scores["missing"] - 0.625) < 0.01  # all right, or one in four


def test_synchronous_cues_have_no_favourite_time():
    torch.manual_seed(0)
    clips = synchrony(20_000)
    for name in ("video", "audio"):
        _, at = where(clips, name, 1)
        together, apart = (at[clips.labels == y].bincount() / (clips.labels == y).sum() for y in (1, 0))
        assert (together - apart).abs().max() < 0.02


def test_a_row_has_means_spread_and_the_steps_of_every_seed():
    made = [
        Outcome("instruction_gating", task, seed, {c: 0.5 + 0.25 * seed for c in columns}, [40, None][seed], 0.5, 1.0)
        for task, columns in [(t, [t]) for t in list(TASKS)[:3]] + [("redundancy", ["clean", "noise", "missing"])]
        for seed in (0, 1)
    ]
    (found,) = rows(made)
    assert found["interaction"] == 0.625 and found["spread"]["synchrony"] == 0.125 and found["stage"] == "cross fusion"
    assert found["steps"]["dominance"] == [40, None] and found["gate"] == 0.5 and found["seconds"] == 8.0
    lines = table([found]).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    assert "`instruction_gating`" in lines[2] and "0.62 ± 0.12" in lines[2] and "–" in lines[2]


def test_an_unknown_mechanism_is_refused_with_those_there_are():
    with pytest.raises(OmniError, match="Choose of: concat"):
        list(outcomes(["attention"]))
    with pytest.raises(OmniError, match="one or more"):
        list(outcomes(["concat"], seeds=0))


def test_the_command_prints_one_object_last(monkeypatch, capsys):
    monkeypatch.setattr(
        "omni.probe.run", lambda m, task, seed, options: run(m, task, seed, ProbeOptions(steps=4, measured=16))
    )
    assert main(["probe", "--seeds", "1", "--only", "concat", "--only", "neuro_fuzzy", "--jobs", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])["rows"]
    assert [row["mechanism"] for row in found] == ["concat", "neuro_fuzzy"]
    assert {"interaction", "synchrony", "dominance", "noise", "missing", "spread", "steps"} <= set(found[0])
    assert "| `concat` |" in err


def test_accuracy_is_that_of_answers_drawn_from_the_probabilities():
    class Unsure(nn.Module):
        def forward(self, clips):
            return torch.tensor([0.01, 0.0]).expand(len(clips.labels), 2), 0.0, None

    clips = interaction(1000)
    assert abs(accuracy(Unsure(), clips) - 0.5) < 0.001  # whatever share of the clips has label 0


def test_every_mechanism_can_be_probed_on_every_task():
    for name, task in product(MECHANISMS, TASKS):
        found = run(name, task, 0, ProbeOptions(steps=2, measured=16))
        assert all(0 <= score <= 1 for score in found.scores.values())
        assert (found.gate is not None) == (task == "dominance" and name in GATED)
