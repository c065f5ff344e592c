"""Sampling: equal to `generate` in float32, for left-padded prompts, LoRA, biases, and rows that end early."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, Qwen2Config

from omni.config import OmniConfig
from omni.features import encode_clip
from omni.generate import build_inputs
from omni.model import OmniForConditionalGeneration
from omni.rollout import Branches, Sampling, can_roll_out, draw, generate_shared, roll_out
from omni.tiny import tiny
from tests.clips import CLIPS

PROMPTS = ["What is it?", "Which emotion does the person in this clip express?"]
LORA = LoraConfig(r=4, lora_alpha=16, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)")


def prompts_of(model, processor, count=2):
    clips = [encode_clip(model, processor, clip) for clip in CLIPS[:count]]
    return build_inputs(model, processor, clips, PROMPTS[:count])


def generated(model, inputs, length, **how):
    ids = model.generate(**inputs, max_new_tokens=length, do_sample=False, pad_token_id=0, **how)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def with_lora(model):
    """LoRA that changes what the model says: fresh adapters are zero."""
    torch.manual_seed(1)
    model = get_peft_model(model, LORA).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def test_greedy_tokens_are_those_of_generate():
    model, processor = tiny()
    inputs = prompts_of(model, processor)
    sampling = Sampling(24, (), temperature=0)
    rows = roll_out(model, inputs, [0, 0, 1, 1, 0], sampling)
    first, second = generated(model, inputs, 24, eos_token_id=None)
    assert rows == [first, first, second, second, first]


def test_lora_is_merged_and_can_be_switched_off():
    plain, processor = tiny()
    inputs = prompts_of(plain, processor)
    sampling = Sampling(16, (), temperature=0)
    before = roll_out(plain, inputs, [0, 1], sampling)
    model = with_lora(plain)
    inner = model.base_model.model
    with_adapter = roll_out(inner, inputs, [0, 1], sampling)
    assert with_adapter == generated(model, inputs, 16, eos_token_id=None) != before
    with model.disable_adapter():
        assert roll_out(inner, inputs, [0, 1], sampling) == before


def test_elsewhere_generate_writes_the_same_after_one_run_of_each_prompt():
    """What a GPU or another decoder than Llama's does."""
    plain, processor = tiny()
    inputs = prompts_of(plain, processor)
    model = with_lora(plain)
    whole = roll_out(model, inputs, [0, 1], Sampling(20, (), temperature=0))
    ends = (whole[0][4], whole[1][11])
    how = GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
    expected = roll_out(model, inputs, [1, 0, 1], Sampling(20, ends, temperature=0))
    assert generate_shared(model, inputs, [1, 0, 1], how) == expected and len(expected[1]) < 20


def test_a_decoder_with_biases():
    base, processor = tiny()
    text = Qwen2Config(**{k: v for k, v in base.config.text_config.to_dict().items() if k != "model_type"})
    config = OmniConfig(**{**base.config.to_dict(), "text_config": text})
    torch.manual_seed(3)
    model = OmniForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("proj.bias"):
            torch.nn.init.normal_(weight)
    inputs = prompts_of(model, processor)
    assert roll_out(model, inputs, [0, 1], Sampling(16, (), temperature=0)) == generated(
        model, inputs, 16, eos_token_id=None
    )


def test_rows_end_where_they_end_and_leave_the_batch():
    model, processor = tiny()
    inputs = prompts_of(model, processor)
    whole = roll_out(model, inputs, [0, 1], Sampling(20, (), temperature=0))
    ends = (whole[0][4], whole[1][11])
    expected = [ids[: next(i for i, t in enumerate(ids) if t in ends) + 1] for ids in whole]
    assert roll_out(model, inputs, [0, 1], Sampling(20, ends, temperature=0)) == expected
    assert len(expected[0]) < 20


def test_sampling_follows_the_probabilities_and_the_seed():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits, Sampling(1, (), temperature=2.0), generator)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(shares, (logits[0] / 2).softmax(-1), atol=0.015)
    again = draw(logits, Sampling(1, (), temperature=2.0), torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("temperature", [1e-40, 1e-9, 1e-5])
def test_a_tiny_temperature_takes_the_most_probable_token(temperature):
    logits = torch.tensor([[0.0, 3e4, 2e4, -torch.inf], [-9e37, -8e37, -7e37, -6e37]])
    assert draw(logits, Sampling(1, (), temperature=temperature)).tolist() == [1, 3]


def test_what_is_drawn_is_a_token_whatever_the_logits():
    drawn = draw(torch.full((50, 4), torch.nan), Sampling(1, (), temperature=1.0))
    assert int(drawn.min()) >= 0 and int(drawn.max()) < 4


@pytest.mark.parametrize(
    ("how", "possible"),
    [
        ({"top_k": 2}, {2, 3}),
        ({"top_p": 0.5}, {3}),
        ({"top_p": 0.8}, {2, 3}),
        ({"min_p": 0.3}, {2, 3}),
        ({"never": (3, 2)}, {0, 1}),
    ],
)
def test_what_is_never_drawn(how, possible):
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(2000, 4)  # 3 % 9 % 24 % 64 %
    assert set(draw(logits, Sampling(1, (), **how), torch.Generator().manual_seed(0)).tolist()) == possible


def test_completions_that_agree_so_far_are_one_row(monkeypatch):
    model, processor = tiny()
    inputs, rows = prompts_of(model, processor), []
    step = Branches.step
    monkeypatch.setattr(Branches, "step", lambda self, tokens: rows.append(len(tokens)) or step(self, tokens))
    roll_out(model, inputs, [0] * 8 + [1] * 8, Sampling(6, (), temperature=0))
    assert rows == [2] * 5
    rows.clear()
    written = roll_out(model, inputs, [0] * 8 + [1] * 8, Sampling(6, ()), torch.Generator().manual_seed(0))
    prompt = [0] * 8 + [1] * 8
    assert rows == [len({(i, *ids[: n + 1]) for i, ids in zip(prompt, written, strict=True)}) for n in range(5)]


def test_rows_that_part_follow_the_probabilities_of_the_model():
    model, processor = tiny()
    inputs = prompts_of(model, processor, 1)
    words = range(40, 52)  # few, so that a sample can be held against them
    never = tuple(word for word in range(model.config.text_config.vocab_size) if word not in words)
    how = Sampling(2, (), temperature=0.3, never=never)
    shares, expected = torch.zeros(12, 12), torch.zeros(12, 12)
    for first, second in roll_out(model, inputs, [0] * 6000, how, torch.Generator().manual_seed(0)):
        shares[first - 40, second - 40] += 1 / 6000

    def chances(ids):
        whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return (model(**whole).logits[0, -1, list(words)] / 0.3).softmax(-1)

    with torch.no_grad():
        start = chances(inputs["input_ids"])
        for number, word in enumerate(words):
            longer = torch.cat([inputs["input_ids"], torch.tensor([[word]])], 1)
            expected[number] = start[number] * chances(longer)
    assert float((shares - expected).abs().max()) < 0.02 and float((expected - expected.mean()).abs().max()) > 0.02


def test_weights_that_are_shared_out_write_what_whole_ones_write(tmp_path):
    worker = Path(__file__).parent / "fsdp_worker.py"
    done = subprocess.run([sys.executable, str(worker), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert "equal True gradients True" in done.stdout, done.stderr[-2000:]


def test_what_it_cannot_do_is_known():
    model, _ = tiny()
    assert can_roll_out(model)
    model.config.text_config.model_type = "gpt2"
    assert not can_roll_out(model)
