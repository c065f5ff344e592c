"""GRPO: clips through TRL's shuffle and split, a step that shares prompts, what is skipped, what is refused."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from trl import GRPOConfig

import train_grpo
from omni.clip_writer import write_clip
from omni.emotions import EKMAN7, label_space
from omni.errors import LabelError, TrainingError
from omni.features import encode_clip, write_features
from omni.grpo import (
    OmniGRPOTrainer,
    check_settings,
    distinct_rows,
    grpo_rows,
    shuffle_frames,
    shuffle_groups,
)
from omni.loading import load
from omni.manifest import Example, write_manifest
from omni.model import score_tokens
from omni.tiny import tiny
from tests.clips import make_clip

G = 4
LORA = LoraConfig(
    r=4, lora_alpha=16, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", modules_to_save=["fusion"]
)


def letters(completions, **columns):
    """A reward that random models get now and then: the share of the letter a, and more for long texts."""
    return [c[0]["content"].count("a") + len(c[0]["content"]) / 100 for c in completions]


def constant(completions, **columns):
    return [1.0] * len(completions)


def settings(folder: Path, **changes) -> GRPOConfig:
    chosen = {
        "output_dir": str(folder), "per_device_train_batch_size": 2 * G, "num_generations": G, "max_steps": 1,
        "max_completion_length": 12, "learning_rate": 1e-2, "bf16": False, "use_cpu": True, "report_to": "none",
        "gradient_checkpointing": False, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "seed": 3,
    }  # fmt: skip
    return GRPOConfig(**chosen | changes)


def make_trainer(
    folder: Path,
    reward=letters,
    clips: int = 4,
    lora: bool = True,
    fusion: str = "concat",
    warm: bool = False,
    **changes,
) -> OmniGRPOTrainer:
    torch.manual_seed(0)
    model, processor = tiny(fusion=fusion)
    triples = []
    for i in range(clips):
        encoded = replace(encode_clip(model, processor, make_clip(1.0, i)), sha256=f"clip {i}")
        path = folder / f"{i}.safetensors"
        write_features(path, encoded)
        triples.append((Example(Path(f"{i}.mp4"), EKMAN7[i]), encoded, path))
    rows = grpo_rows(triples, label_space(EKMAN7))
    model.requires_grad_(False)
    if lora:
        model = get_peft_model(model, LORA)
        for parameter in model.parameters():  # as after a cold start
            if warm and parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    else:
        model.model.fusion.requires_grad_(True)
        model.model.language_model.requires_grad_(True)
    args = settings(folder, **changes)
    return OmniGRPOTrainer(model, reward, args, train_dataset=Dataset.from_list(rows), processing_class=processor)


def one_batch(trainer: OmniGRPOTrainer) -> dict:
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def plain_log_probs(trainer: OmniGRPOTrainer, inputs: dict) -> torch.Tensor:
    """Row by row, prompt and completion whole, no padding, no sharing."""
    rows = []
    for i, clip in enumerate(inputs["clips"]):
        keep = torch.cat([inputs["prompt_mask"][i], inputs["completion_mask"][i]]).bool()
        ids = torch.cat([inputs["prompt_ids"][i], inputs["completion_ids"][i]])[keep][None]
        features = {m: x[None] for m, x in clip.features.items()}
        times = {m: t[None] for m, t in clip.times.items()}
        out = trainer.model(input_ids=ids, clip_features=features, clip_times=times)
        length = int(inputs["completion_mask"][i].sum())
        scores = out.logits[0, -length - 1 : -1].float().log_softmax(-1).gather(-1, ids[0, -length:, None])[:, 0]
        rows.append(torch.nn.functional.pad(scores, (0, inputs["completion_mask"].shape[1] - length)))
    return torch.stack(rows)


def ours(trainer: OmniGRPOTrainer, inputs: dict) -> torch.Tensor:
    trainer._clips = inputs["clips"]
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, inputs["completion_ids"].shape[1])[0]


def gradients(trainer: OmniGRPOTrainer, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", [None, (8, 1, 12, 2, 7, 5, 3, 1), (1,) * 8])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_shared_prompts_give_the_log_probabilities_and_gradients_of_whole_rows(tmp_path, lengths, attention):
    trainer = make_trainer(tmp_path)
    trainer.model.set_attn_implementation({"text_config": attention})
    inputs = one_batch(trainer)
    if lengths:
        steps = torch.arange(inputs["completion_mask"].shape[1])
        inputs["completion_mask"] = (steps < torch.tensor(lengths)[:, None]).long()
    weights = torch.randn(inputs["completion_mask"].shape) * inputs["completion_mask"]
    whole, shared = plain_log_probs(trainer, inputs), ours(trainer, inputs)
    assert torch.allclose(whole * inputs["completion_mask"], shared, atol=1e-5)
    expected = gradients(trainer, (plain_log_probs(trainer, inputs) * weights).sum())
    actual = gradients(trainer, (ours(trainer, inputs) * weights).sum())
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert (value - actual[name]).norm() <= 1e-5 * value.norm() + 1e-9, name


def test_what_completions_have_in_common_is_run_once_and_counts_for_each(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    inputs = one_batch(trainer)
    inputs["completion_ids"][1] = inputs["completion_ids"][0]
    inputs["completion_mask"][1] = inputs["completion_mask"][0]
    inputs["completion_ids"][2, :4] = inputs["completion_ids"][0, :4]
    inputs["completion_mask"][2, :4] = 1
    distinct = {
        (clip.sha256, *row[: place + 1])
        for clip, row, kept in zip(
            inputs["clips"], inputs["completion_ids"].tolist(), inputs["completion_mask"].tolist(), strict=True
        )
        for place in range(sum(kept))
    }
    scored, score = [], score_tokens

    def counted(hidden, *rest, **how):
        scored.append(len(hidden))
        return score(hidden, *rest, **how)

    monkeypatch.setattr("omni.model.score_tokens", counted)
    weights = torch.randn(inputs["completion_mask"].shape) * inputs["completion_mask"]
    actual = gradients(trainer, (ours(trainer, inputs) * weights).sum())
    assert scored[0] == len(distinct) < int(inputs["completion_mask"].sum()) - 4
    expected = gradients(trainer, (plain_log_probs(trainer, inputs) * weights).sum())
    for name, value in expected.items():
        assert (value - actual[name]).norm() <= 1e-5 * value.norm() + 1e-9, name


def test_every_row_keeps_its_clip_through_shuffle_and_split(tmp_path):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=G)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(5)
    for step in range(2):
        trainer._step = step
        inputs = trainer._prepare_inputs(batch)
        assert len({clip.sha256 for clip in inputs["clips"]}) == 1  # whole groups
        right, wrong = plain_log_probs(trainer, inputs), ours(trainer, inputs)
        assert torch.allclose(right * inputs["completion_mask"], wrong, atol=1e-5)


def test_another_clip_changes_the_log_probabilities(tmp_path):
    trainer = make_trainer(tmp_path)
    inputs = one_batch(trainer)
    before = ours(trainer, inputs)
    swapped = {**inputs, "clips": inputs["clips"][G:] + inputs["clips"][:G]}
    assert float((ours(trainer, swapped) - before).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_a_step_moves_fusion_and_language_model(tmp_path, lora, beta):
    trainer = make_trainer(tmp_path, lora=lora, beta=beta)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    moved = {
        name for name, p in trainer.model.named_parameters() if name in before and not torch.equal(p, before[name])
    }
    assert any("fusion" in name for name in moved) and any("language_model" in name for name in moved)
    assert not any("tower" in name for name in moved)


def test_the_auxiliary_loss_of_a_fusion_adapter_is_learnt_from_too(tmp_path):
    trainer = make_trainer(tmp_path, lora=False, fusion="bimodal_autoencoder")
    inputs, slopes = one_batch(trainer), {}
    for steps in (1, 2):
        torch.manual_seed(0)  # the adapter switches streams off by chance
        trainer.current_gradient_accumulation_steps = steps
        found = gradients(trainer, trainer._compute_loss(trainer.model, dict(inputs)))
        slopes[steps] = {name: slope for name, slope in found.items() if "fusion" in name and "decode" in name}
    assert slopes[1] and all(float(slope.abs().sum()) > 0 for slope in slopes[1].values())  # no token depends on these
    assert all(torch.allclose(2 * slopes[2][name], slope) for name, slope in slopes[1].items())


def test_the_reference_of_full_training_stays_what_the_model_was(tmp_path):
    trainer = make_trainer(tmp_path, lora=False, beta=0.04, max_steps=2, num_iterations=1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.ref_model.named_parameters())
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert trainer.ref_model.model.vision_tower is trainer.model.model.vision_tower
    kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert kl[0] == 0 and kl[1] > 0


def test_the_reference_of_an_adapter_is_that_adapter_as_it_was(tmp_path):
    trainer = make_trainer(tmp_path, beta=0.04, max_steps=2, warm=True)
    trainer.train()
    kl = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    assert kl[0] == 0 and kl[1] > 0
    warm = make_trainer(tmp_path, beta=0.04, warm=True)
    inputs = one_batch(warm)
    with torch.no_grad(), warm.model.disable_adapter():
        assert (ours(warm, inputs) - inputs["ref_per_token_logps"]).abs().max() > 1e-3


def test_settings_of_sampling_and_order_are_kept(tmp_path):
    trainer = make_trainer(tmp_path, generation_kwargs={"do_sample": False}, shuffle_dataset=False)
    inputs = one_batch(trainer)
    assert [clip.sha256 for clip in inputs["clips"]] in (
        ["clip 0"] * G + ["clip 1"] * G,
        ["clip 1"] * G + ["clip 0"] * G,
    )
    assert len({tuple(row) for row in inputs["completion_ids"].tolist()}) <= 2


def test_rows_without_signal_are_left_out_and_change_nothing(tmp_path):
    results = {}
    for loss_type in ("dapo", "grpo", "bnpo", "dr_grpo"):
        trainer = make_trainer(tmp_path, loss_type=loss_type)
        inputs = one_batch(trainer)
        inputs["advantages"][:G] = 0.0
        inputs["advantages"][G:] = torch.tensor([1.0, -1.0, 0.5, -0.5])
        trainer.current_gradient_accumulation_steps = 1
        skipped = gradients(trainer, trainer._compute_loss(trainer.model, dict(inputs)))
        left_out = trainer._metrics["train"]["rows_without_signal"][-1]
        trainer._entropy_bonus_enabled, trainer.entropy_coef = True, 0.0  # then every row is needed
        full = gradients(trainer, trainer._compute_loss(trainer.model, dict(inputs)))
        results[loss_type] = left_out
        for name, value in full.items():
            assert (value - skipped[name]).norm() <= 1e-5 * value.norm() + 1e-9, (loss_type, name)
    assert set(results.values()) == {0.5}


def test_a_batch_without_any_signal_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path, reward=constant, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_completions_are_written_with_their_rewards(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.save_completions = 1
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * G and {row["step"] for row in rows} == {0, 1}
    for row in rows:
        said = [[{"role": "assistant", "content": row["completion"]}]]
        assert row["rewards"] == {"letters": pytest.approx(letters(said)[0], abs=1e-5)}


def test_interrupted_and_resumed_is_the_same_as_uninterrupted(tmp_path):
    def losses(trainer) -> list:
        return [(h["step"], h["loss"], h["grad_norm"], h["reward"]) for h in trainer.state.log_history if "loss" in h]

    # two steps are an epoch, so the checkpoint lies between two epochs
    whole = make_trainer(tmp_path, max_steps=4, beta=0.04)
    whole.train()
    half = make_trainer(tmp_path, max_steps=4, beta=0.04, save_strategy="steps", save_steps=2)
    half.train()
    resumed = make_trainer(tmp_path, max_steps=4, beta=0.04)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(whole) == losses(half) == losses(resumed)


def test_a_reward_that_fails_stops_the_run(tmp_path):
    def broken(completions, **columns):
        raise RuntimeError("no such column")

    with pytest.raises(RuntimeError, match="no such column"):
        make_trainer(tmp_path, reward=broken).train()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_inputs(tmp_path):
    trainer = make_trainer(tmp_path)
    inputs = one_batch(trainer)
    inputs["advantages"][0] = torch.nan
    trainer.current_gradient_accumulation_steps = 1
    with pytest.raises(TrainingError, match="not finite at step 0"):
        trainer._compute_loss(trainer.model, inputs)
    assert (tmp_path / "not_finite_step0.safetensors").exists()


def test_settings_that_would_not_do_what_they_say_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="gradient_checkpointing: false"):
        check_settings(settings(tmp_path, gradient_checkpointing=True))
    with pytest.raises(TrainingError, match=r"entropy_coef: 0\.0"):
        check_settings(settings(tmp_path, entropy_coef=0.01))
    with pytest.raises(TrainingError, match="Leave out chat_template_kwargs"):
        check_settings(settings(tmp_path, chat_template_kwargs={"enable_thinking": False}))
    with pytest.raises(TrainingError, match="temperature above 0"):
        check_settings(settings(tmp_path, temperature=0.0))
    saved = {"save_strategy": "steps", "gradient_accumulation_steps": 4, "steps_per_generation": 6}
    with pytest.raises(TrainingError, match="save_steps: 3"):  # a step ends where a batch does every third time
        check_settings(settings(tmp_path, **saved, save_steps=1))
    with pytest.raises(TrainingError, match="share of the run"):
        check_settings(settings(tmp_path, **saved, save_steps=0.25))
    with pytest.raises(TrainingError, match="save_steps: 8"):
        check_settings(
            settings(tmp_path, steps_per_generation=4, num_iterations=2, save_strategy="steps", save_steps=9)
        )
    check_settings(settings(tmp_path, steps_per_generation=4, num_iterations=2, save_strategy="steps", save_steps=16))


def test_a_label_outside_the_space_is_refused_at_the_start():
    model, processor = tiny()
    clip = encode_clip(model, processor, make_clip(1.0, 0))
    with pytest.raises(LabelError, match="'bored' is not in the label space"):
        grpo_rows([(Example(Path("a.mp4"), "bored"), clip, Path("a"))], label_space(EKMAN7))
    row = grpo_rows([(Example(Path("a.mp4"), "joy"), clip, Path("a"))], label_space(EKMAN7))[0]
    assert row["label"] == "happy"  # a synonym


def test_rewards_get_the_share_of_right_answers_to_shuffled_frames(tmp_path):
    seen = {}

    def reward(completions, clip, shuffled_accuracy, **columns):
        seen.update(zip(clip, shuffled_accuracy, strict=True))
        return [0.0] * len(completions)

    trainer = make_trainer(tmp_path, reward=reward, clips=2)
    trainer.shuffled = True
    answer = trainer.processing_class.tokenizer(f"<answer>{EKMAN7[0]}</answer>").input_ids  # right for the first clip
    trainer._write = lambda prompts, copies: [answer for _ in copies]
    one_batch(trainer)
    assert seen == {"0.mp4": 1.0, "1.mp4": 0.0}


def test_shuffled_frames_keep_what_is_seen_together_and_all_of_it():
    clip = encode_clip(*tiny(), make_clip(1.0, 0))
    steps = torch.arange(8.0)[:, None]
    times = torch.arange(8.0)
    clip = replace(clip, features={"expression": steps, "video": -steps}, times={"expression": times, "video": times})
    torch.manual_seed(1)
    other = shuffle_frames(clip)
    assert torch.equal(other.features["expression"], -other.features["video"])
    assert sorted(other.features["video"].flatten().tolist()) == sorted(clip.features["video"].flatten().tolist())
    assert not torch.equal(other.features["video"], clip.features["video"])
    assert torch.equal(other.times["video"], clip.times["video"])


def test_rows_ask_for_what_rewards_need():
    clip = encode_clip(*tiny(), make_clip(1.0, 0))
    example = Example(Path("a.mp4"), "sad", extra={"openset": "sad, tired"})
    row = grpo_rows([(example, clip, Path("a"))], label_space(EKMAN7), think=False, request="State a number.")[0]
    text = row["prompt"][0]["content"][1]["text"]
    assert row["openset"] == "sad, tired" and row["think"] is False and row["truth"] is None
    assert "State a number." not in text and "<think>" not in text  # there are no reasons to state it in
    given = {"action_units": {"AU12": {"intensity": 1.0}}}
    shown = replace(example, extra=given)
    row = grpo_rows([(shown, clip, Path("a"))], label_space(EKMAN7), request="State a number.", longest=96)[0]
    assert "State a number." in row["prompt"][0]["content"][1]["text"] and json.loads(row["truth"]) == given
    assert row["max_completion_length"] == 96


def test_groups_are_told_by_prompt_and_clip():
    model, processor = tiny()
    clip = encode_clip(model, processor, make_clip(1.0, 0))
    other = replace(clip)
    ids = torch.tensor([[1, 2], [1, 2], [1, 3], [1, 2]])
    first, groups = distinct_rows(ids, [clip, clip, clip, other])
    assert first.tolist() == [0, 2, 3] and groups.tolist() == [0, 0, 1, 2]
    batch = {"x": torch.arange(6), "y": list("aabbcc"), "n": torch.tensor(6)}
    torch.manual_seed(1)
    mixed = shuffle_groups(batch, [0, 0, 1, 1, 2, 2])
    assert sorted(mixed["x"].tolist()) == list(range(6)) and mixed["x"].tolist() != list(range(6))
    assert all(mixed["y"][i] == mixed["y"][i + 1] for i in (0, 2, 4))
    assert ["abc".index(y) for y in mixed["y"]] == (mixed["x"] // 2).tolist()


@pytest.mark.parametrize("learns", [True, False])
def test_chunks_change_nothing(learns):
    torch.manual_seed(0)
    hidden, head = torch.randn(15, 8, requires_grad=True), torch.nn.Linear(8, 11, bias=False)
    ids = torch.randint(11, (15,))
    weights, wanted = torch.randn(15), [hidden, head.weight] if learns else [hidden]
    expected = (head(hidden) / 0.7).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    slopes = torch.autograd.grad((weights * expected).sum(), wanted)
    entropy = torch.distributions.Categorical(logits=head(hidden) / 0.7).entropy()
    head.requires_grad_(learns)
    scores, spreads = score_tokens(hidden, head, ids, temperature=0.7, chunk=2)
    assert torch.allclose(scores, expected, atol=1e-6)
    assert torch.allclose(spreads, entropy, atol=1e-5)
    assert score_tokens(hidden, head, ids, entropy=False)[1] is None
    for slope, ours in zip(slopes, torch.autograd.grad((weights * scores).sum(), wanted), strict=True):
        assert torch.allclose(slope, ours, atol=1e-6)


def test_the_script_trains_leaves_out_what_cannot_be_read_and_resumes(tmp_path, monkeypatch, capsys):
    """Real data files, the real script, TRL's own trainer and our rewards; the model is random and tiny."""
    model, processor = tiny()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    examples = [Example(tmp_path / "missing.mp4", "happy")]
    for i, label in enumerate(("happy", "angry")):
        frames = rng.integers(0, 255, (4, 48, 48, 3), dtype=np.uint8)
        wave = rng.normal(0, 0.1, 16000).astype(np.float32)
        write_clip(tmp_path / f"{i}.mp4", frames=frames, fps=4.0, wave=wave)
        examples.append(Example(tmp_path / f"{i}.mp4", label))
    write_manifest(tmp_path / "train.jsonl", examples)
    command = [
        sys.executable, "train_grpo.py", "--config", "configs/grpo_default.yaml",
        "--train", str(tmp_path / "train.jsonl"), "--model", str(tmp_path / "base"),
        "--features", str(tmp_path / "features"), "--output_dir", str(tmp_path / "out"),
        "--rewards", "format", "length", "--per_device_train_batch_size", "8", "--num_generations", "4",
        "--max_completion_length", "8", "--save_steps", "1", "--bf16", "false", "--disable_tqdm", "true",
        "--save_completions", "1", "--mode", "both",
    ]  # fmt: skip
    done = subprocess.run([*command, "--max_steps", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    monkeypatch.setattr(sys, "argv", [*command[1:], "--max_steps", "2", "--resume_from_checkpoint", "true"])
    train_grpo.main()  # in this process, which has imported everything already
    for out, err in ((done.stdout, done.stderr), capsys.readouterr()):
        assert "missing.mp4" in err and "2 clips, 1 left out, 4 prompts" in out
    assert json.loads((tmp_path / "out/checkpoint-2/trainer_state.json").read_text())["global_step"] == 2
    adapted, _ = load(tmp_path / "out", merge=False)
    assert "fusion" in str([n for n, _ in adapted.named_parameters() if "modules_to_save" in n])
    monkeypatch.setattr(sys, "argv", [*command[1:], "--rewards", "kindness"])
    with pytest.raises(SystemExit, match="kindness"):
        train_grpo.main()


def test_four_bits_keep_the_gradient_after_a_forward_in_eval_mode(tmp_path):
    """bitsandbytes 0.50.2 loses it on processors with avx512_bf16 unless it is told not to repack."""
    base, processor = tiny()
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model, processor = load(tmp_path / "base", four_bit=True)
    assert type(model.model.language_model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    model = get_peft_model(model, LORA)
    clip = encode_clip(model, processor, make_clip(1.0, 0))
    inputs = processor.ask([clip], ["What is it?"])

    def reached() -> set[str]:
        model.zero_grad()
        model.train()
        model(**inputs).logits.float().square().mean().backward()
        return {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0}

    before = reached()
    with torch.no_grad():
        model.eval()(**inputs)
    assert reached() == before and any("fusion" in name for name in before)

    write_features(tmp_path / "0.safetensors", clip)
    rows = grpo_rows([(Example(Path("0.mp4"), "sad"), clip, tmp_path / "0.safetensors")], label_space(EKMAN7))
    args = settings(tmp_path, per_device_train_batch_size=G)
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": processor}
    trainer = OmniGRPOTrainer(model, letters, args, **data)
    learning = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(p.dtype == torch.float32 for p in learning.values())
    assert any(not torch.equal(after[name], p) for name, p in learning.items() if "fusion" in name)


@pytest.mark.parametrize("name", ["zero3.json", "fsdp2.yaml"])
def test_the_configurations_for_many_gpus_parse(name):
    path = Path(__file__).parent.parent / "configs" / name
    if name.endswith("json"):
        config = HfDeepSpeedConfig(json.loads(path.read_text()))
        assert config.is_zero3() and config.get_value("bf16.enabled") == "auto"
    else:
        config = load_config_from_file(str(path))
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=config.fsdp_config["fsdp_version"],
            auto_wrap_policy=config.fsdp_config["fsdp_auto_wrap_policy"],
            state_dict_type=config.fsdp_config["fsdp_state_dict_type"],
            reshard_after_forward=config.fsdp_config["fsdp_reshard_after_forward"],
        )
        assert config.distributed_type == "FSDP" and plugin.fsdp_version == 2


def test_two_processes_give_the_gradient_of_one(tmp_path):
    worker, environment = str(Path(__file__).parent / "grpo_worker.py"), os.environ | {"OMP_NUM_THREADS": "1"}
    one = [sys.executable, worker, str(tmp_path / "a"), str(tmp_path / "one.safetensors"), str(2 * G)]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    two = [sys.executable, *launch, worker, str(tmp_path / "b"), str(tmp_path / "two.safetensors"), str(G)]
    for command, count in ((one, 1), (two, 2)):
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment | {"ACCELERATE_USE_CPU": "true"}, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"processes {count}" in done.stdout
    alone, together = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert alone.keys() == together.keys() and len(alone) > 10
    for name, value in alone.items():
        assert (value - together[name]).norm() <= 1e-5 * value.norm() + 1e-9, name
    for folder, clips in (("a/0", 2), ("b/0", 1)):  # of its own rows the main process writes what they got
        written = [json.loads(line) for line in (tmp_path / folder / "completions.jsonl").read_text().splitlines()]
        given = {
            name: [row["rewards"]["uneven"] for row in written if row["clip"] == name] for name in ("0.mp4", "1.mp4")
        }
        assert len(written) == clips * G
        assert all(rewards == UNEVEN[name] for name, rewards in given.items() if rewards)


UNEVEN = {"0.mp4": [0.0, 2.0, 1.0, 1.0], "1.mp4": [0.0, 1.0, 2.0, 3.0]}  # rewards of the completions of two clips


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
