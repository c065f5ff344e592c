"""Fast adaptation: what a delta changes, that it comes off without a trace, and that Reptile's start is worth steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omni.adapt import (
    AdaptOptions,
    Task,
    adapt,
    applied,
    copied,
    fusion_of,
    learn,
    put_on,
    questions,
    read_delta,
    read_tasks,
    reptile,
    restore,
    write_delta,
)
from omni.cli import main
from omni.emotions import LabelSpace, label_space
from omni.errors import ManifestError, ModelError
from omni.features import encode_clip
from omni.manifest import Example, write_manifest
from omni.matrix_measure import first_tokens, score
from omni.tiny import tiny
from tests.clips import make_clip

SPACE = LabelSpace("two", ("calm", "loud"))
OPTIONS = AdaptOptions(steps=4, batch=8, rate=1e-2, shots=8, rounds=4, tasks=2)


@pytest.fixture(scope="module")
def actor():
    """A tiny model whose decoder listens to the clip, which a random one hardly does."""
    model, processor = tiny()
    with torch.no_grad():
        for weight in model.model.language_model.layers.parameters():
            weight.mul_(8 if weight.ndim == 2 else 1)
    return model, processor


def task_of(actor, seed: int) -> Task:
    """Eight clips in which a stream says which label is right."""
    model, processor = actor
    clips, labels = [], []
    for i in range(8):
        clip = encode_clip(model, processor, make_clip(1.0, 10 * seed + i))
        shown = i % 2
        prosody = torch.full_like(clip.features["prosody"], 2.0 * shown)
        clips.append(replace(clip, features=clip.features | {"prosody": prosody}))
        labels.append(SPACE.labels[shown])
    return Task(clips, labels, SPACE)


def asked(actor, task: Task) -> float:
    """Mean log-probability of the labels, asked as adaptation teaches."""
    model, processor = actor
    texts = questions(processor, task.clips, SPACE)
    found = score(model, processor, task.clips, first_tokens(processor.tokenizer, SPACE), texts)
    return float(found[range(len(task.labels)), [SPACE.labels.index(label) for label in task.labels]].mean())


def test_a_delta_helps_on_its_clips_and_comes_off_bit_for_bit(actor, tmp_path: Path) -> None:
    task, before = task_of(actor, 0), copied(fusion_of(actor[0]))
    plain = asked(actor, task)
    delta = adapt(*actor, task, replace(OPTIONS, steps=60))
    write_delta(tmp_path / "delta.safetensors", delta)
    kept = read_delta(tmp_path / "delta.safetensors")
    assert kept.labels == SPACE.labels and kept.base == delta.base
    with applied(actor[0], kept):
        assert asked(actor, task) > plain + 0.05
    after = copied(fusion_of(actor[0]))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert asked(actor, task) == plain


def test_a_delta_of_other_weights_is_refused_with_advice(actor) -> None:
    delta = adapt(*actor, task_of(actor, 0), OPTIONS)
    with pytest.raises(ModelError, match="adapt this one anew"), applied(tiny(seed=1)[0], delta):
        pass


@pytest.mark.parametrize("content", [b"", b"no delta, but some words"])
def test_a_delta_that_is_none_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "delta.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"delta\.safetensors is damaged.* Copy it again"):
        read_delta(tmp_path / "delta.safetensors")


def test_a_delta_is_written_into_a_folder_that_is_not_there_yet_or_says_where_it_cannot(actor, tmp_path: Path) -> None:
    delta = adapt(*actor, task_of(actor, 0), replace(OPTIONS, steps=1))
    write_delta(tmp_path / "new" / "folder" / "delta.safetensors", delta)
    assert read_delta(tmp_path / "new" / "folder" / "delta.safetensors").base == delta.base
    for path in (tmp_path, tmp_path / "new" / "folder" / "delta.safetensors" / "below.safetensors"):
        with pytest.raises(ModelError, match="Give another --out"):
            write_delta(path, delta)


def test_an_empty_manifest_is_refused(actor, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ManifestError, match=r"empty\.jsonl has no rows"):
        read_tasks(tmp_path / "empty.jsonl", *actor)


def test_reptile_at_pace_zero_learns_nothing_and_leaves_the_model_alone(actor) -> None:
    before = copied(fusion_of(actor[0]))
    start = reptile(*actor, [task_of(actor, 0)], replace(OPTIONS, pace=0.0))
    assert all((value == 0).all() for value in start.weights.values())
    after = copied(fusion_of(actor[0]))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_round_at_pace_one_is_the_mean_of_what_tasks_learn(actor) -> None:
    task, fusion = task_of(actor, 0), fusion_of(actor[0])
    before = copied(fusion)
    options = replace(OPTIONS, shots=8, rounds=1, tasks=1, pace=1.0, batch=8, steps=1)
    start = reptile(*actor, [task], options)
    learn(*actor, task, options)
    learned = {name: value - before[name] for name, value in copied(fusion).items()}
    restore(fusion, before)
    for name, value in learned.items():
        torch.testing.assert_close(start.weights[name].float(), value, atol=1e-4, rtol=1e-3)


def test_from_a_learned_start_few_steps_go_further(actor) -> None:
    """Tasks of one kind: the start has learned to hear the stream that tells, before it sees the new clips."""
    start = reptile(*actor, [task_of(actor, seed) for seed in (1, 2, 3)], replace(OPTIONS, rounds=6, steps=10))
    new, few = task_of(actor, 9), replace(OPTIONS, steps=3)
    own, learned = adapt(*actor, new, few), adapt(*actor, new, few, start)
    with applied(actor[0], own):
        without = asked(actor, new)
    with applied(actor[0], learned):
        assert asked(actor, new) > without + 0.02


def test_the_command_learns_a_start_and_adapts_from_it(tmp_path: Path, capsys) -> None:
    model, processor = tiny()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    clips = [Path("examples/clips").resolve() / f"{name}.mp4" for name in ("happy", "angry")]
    rows = [Example(clip, clip.stem, extra={"annotator": who}) for clip in clips for who in "ab"]
    write_manifest(tmp_path / "few.jsonl", rows)
    how = [str(tmp_path / "few.jsonl"), "--model", str(tmp_path / "base"), "--labels", "happy,angry", "--steps", "1"]
    start, out = str(tmp_path / "start.safetensors"), str(tmp_path / "delta.safetensors")
    assert main(["adapt", *how, "--out", start, "--tasks-by", "annotator"]) == 0
    assert main(["adapt", *how, "--out", out, "--start", start]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "a start from 2 tasks" in said[0] and "4 clips" in said[1]
    asked = ["ask", str(clips[0]), "--no-think", "--model", str(tmp_path / "base"), "--labels", "happy,angry"]
    assert main([*asked, "--delta", out]) == 0
    assert main(["adapt", *how, "--out", out, "--tasks-by", "speaker"]) == 2
    assert "It has: annotator." in capsys.readouterr().err


def test_a_delta_is_asked_with_what_it_learned(actor, tmp_path: Path) -> None:
    path, before = tmp_path / "delta.safetensors", copied(fusion_of(actor[0]))
    write_delta(path, adapt(*actor, task_of(actor, 0), OPTIONS))
    with pytest.raises(ModelError, match="learned calm, loud"):
        put_on(actor[0], path, label_space("happy,sad"))
    for asked_for in ("ekman7", "loud,calm"):
        space = put_on(actor[0], path, label_space(asked_for))
        assert space.labels == (("loud", "calm") if asked_for != "ekman7" else SPACE.labels)
        restore(fusion_of(actor[0]), before)


def test_limits_of_the_model_are_not_those_of_its_delta(capsys, tmp_path: Path) -> None:
    asked_for = ["ask", str(tmp_path / "a.mp4"), "--delta", str(tmp_path / "d.safetensors"), "--max-risk", "0.1"]
    assert main(asked_for) == 2
    assert "--max-risk was fitted without the delta" in capsys.readouterr().err
