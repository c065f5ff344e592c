"""What a GRPO step costs: the plain way and ours, in one process, on the same weights, prompts and completions.

    python benchmarks/bench_grpo.py [--layout default|r1-omni] [--clips 2] [--group 8] [--length 64] [--json]

The plain way is what R1-Omni's trainer does: media are encoded for sampling, and again for every completion of policy
and reference; every completion carries its prompt through `generate` and through both models; the reference is a second
model; logits cover the whole vocabulary at every position. Ours: encoded clips, one run of a prompt for all its
completions, packed weights in sampling, the adapter switched off as reference, logits where completions are predicted.
The policy gradient of both is compared, on the completions that ours sampled; in bfloat16 the difference is rounding,
so give --dtype float32 to see that the two are the same. Ours runs first, since the peak of a process's memory never
falls. The first step of each also pays for memory that the process had not touched before and for kernels that are
compiled for new shapes, so the last of `--steps` is reported, as in the middle of a run.

`r1-omni` has the layout of R1-Omni-0.5B (1.37 B parameters: Qwen2, Whisper-large encoder, SigLIP base, BERT; 892 clip
tokens) with random weights; its clip is random pictures and noise.
"""

import copy
import json
import platform
import resource
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from released_layout import write_released  # beside this script
from torch import Tensor

from omni.clip import Clip
from omni.emotions import EKMAN7
from omni.features import collate, encode_clip
from omni.grpo import precision
from omni.loading import load, new_adapter
from omni.rollout import Sampling, roll_out

CLIPS = Path(__file__).parent.parent / "examples" / "clips"


class Phases:
    """Seconds and CPU-seconds by phase."""

    def __init__(self):
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str):
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = round(time.perf_counter() - wall, 2)
        self.cpu[name] = round(time.process_time() - cpu, 2)


def default_layout(count: int, dtype: str, weights: Path):
    """The default model and bundled clips."""
    model, processor = load("default", adapter=False, merge=False, dtype=dtype, trainable=True)
    names = [p for p in sorted(CLIPS.glob("*.mp4")) if "mute" not in p.name]
    return model, processor, [processor.read(p) for p in names[:count]]


def r1_omni_layout(count: int, dtype: str, weights: Path):
    """The layout of R1-Omni-0.5B with random weights; its clips are random pictures and noise."""
    if not (weights / "model.safetensors").exists():
        write_released(weights)
    model, processor = load(weights, dtype=dtype, trainable=True)
    rng = np.random.default_rng(0)
    clips = [
        Clip(
            frames=rng.integers(0, 255, (8, 224, 224, 3), dtype=np.uint8),
            times=np.linspace(0.3, 4.7, 8),
            wave=rng.normal(0, 0.1, 80_000).astype(np.float32),
            duration=5.0,
            sha256=f"{i:064d}",
        )
        for i in range(count)
    ]
    return model, processor, clips


def autocast(model):
    """What `bf16: true` does in training: LoRA and fusion multiply in the language model's precision."""
    dtype = model.get_base_model().lm_head.weight.dtype
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)


def gradient(model) -> dict[str, Tensor]:
    """What the optimizer would get, and the model without it."""
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def our_step(model, processor, clips, texts, group: int, sampling: Sampling, advantages: Tensor):
    """One step our way: completions, gradient and phases. Clips are encoded before, as after the first epoch."""
    phases = Phases()
    encoded = [encode_clip(model, processor, clip, "said") for clip in clips]
    inputs = processor.ask(encoded, texts)
    copies = [i for i in range(len(clips)) for _ in range(group)]
    with phases("sampling"):
        rows = roll_out(model, inputs, copies, sampling)
    completions = torch.tensor(rows)
    features, times = collate(encoded)
    scored = {
        "input_ids": torch.cat([inputs["input_ids"][copies], completions], 1),
        "attention_mask": torch.cat([inputs["attention_mask"][copies], torch.ones_like(completions)], 1),
        "clip_features": features,
        "clip_times": times,
        "groups": torch.tensor(copies),
        "completion": completions.shape[1],
        **processor.instructions(texts),
    }
    with phases("reference"), torch.no_grad(), model.disable_adapter(), autocast(model):
        model(**scored, entropy=False)
    with phases("policy, forward"), precision(autocast(model), model, model.device):
        log_probs = model(**scored).log_probs
    with phases("policy, backward"):
        (-(log_probs - log_probs.detach()).exp() * advantages[:, None]).mean().backward()
    return completions, gradient(model), phases


def plain_step(model, processor, clips, texts, group: int, length: int, completions: Tensor, advantages: Tensor):
    """One step the plain way, scoring the same completions."""
    phases, inner = Phases(), model.get_base_model()
    inner.set_attn_implementation({"text_config": "sdpa"})  # as the reference, and less memory over whole sequences
    inputs = processor.ask(clips, texts)
    repeated = {k: v.repeat_interleave(group, 0) for k, v in inputs.items()}
    with phases("sampling"), torch.no_grad():
        inner.generate(
            **repeated, max_new_tokens=length, min_new_tokens=length, do_sample=True, top_k=0, pad_token_id=0
        )
    ids = torch.cat([repeated.pop("input_ids"), completions], 1)
    mask = torch.cat([repeated.pop("attention_mask"), torch.ones_like(completions)], 1)
    reference = copy.deepcopy(model)

    def log_probs(net) -> Tensor:
        logits = net(input_ids=ids, attention_mask=mask, **repeated).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return scores[:, -completions.shape[1] :]

    with phases("reference"), torch.no_grad(), reference.disable_adapter(), autocast(model):
        log_probs(reference)
    del reference
    with phases("policy, forward"), autocast(model):
        scores = log_probs(model)
    with phases("policy, backward"):
        (-(scores - scores.detach()).exp() * advantages[:, None]).mean().backward()
    return gradient(model), phases


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    scale = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, 2)


def main(
    layout: Annotated[str, typer.Option(help="default or r1-omni")] = "default",
    weights: Annotated[Path, typer.Option(help="where r1-omni's random weights lie, or are written: 2.75 GB")] = Path(
        "outputs/released"
    ),
    clips: int = 2,
    group: int = 8,
    length: int = 64,
    steps: Annotated[int, typer.Option(help="steps of ours, then of the plain way; the last of each counts")] = 2,
    threads: int = 0,
    dtype: Annotated[str, typer.Option(help="of the language model; gradients compare in float32")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Run both ways and compare."""
    if threads:
        torch.set_num_threads(threads)
    layouts: dict[str, Callable] = {"default": default_layout, "r1-omni": r1_omni_layout}
    model, processor, media = layouts[layout](clips, dtype, weights)
    model.requires_grad_(False)
    model = new_adapter(model, layout, rank=16, alpha=32).eval()
    texts = [processor.prompt(None, EKMAN7)] * len(media)
    rows = len(media) * group
    advantages = torch.linspace(-1, 1, rows)
    torch.manual_seed(0)
    never = tuple(model.config.placeholders.values())
    sampling = Sampling(length, (), never=never)  # no end, so that both ways write equally much
    for _ in range(steps):
        completions, ours, our_phases = our_step(model, processor, media, texts, group, sampling, advantages)
    our_peak = peak()
    for _ in range(steps):
        plain, plain_phases = plain_step(model, processor, media, texts, group, length, completions, advantages)
    worst = max(float((ours[n] - g).norm() / g.norm().clamp(min=1e-12)) for n, g in plain.items())
    result = {
        "layout": layout, "dtype": str(model.get_base_model().lm_head.weight.dtype).removeprefix("torch."),
        "clips": len(media), "group": group, "length": length,
        "prompt": int(processor.ask(media[:1], texts[:1])["input_ids"].shape[1]),
        "cpu_seconds": {"plain": plain_phases.cpu, "ours": our_phases.cpu},
        "seconds": {"plain": plain_phases.wall, "ours": our_phases.wall},
        "ratio": round(sum(plain_phases.cpu.values()) / sum(our_phases.cpu.values()), 2),
        "gradient_difference": worst,
        "peak_gb": {"ours": our_peak, "plain": peak()},
    }  # fmt: skip
    for name in our_phases.cpu:
        typer.echo(f"{name:18} plain {plain_phases.cpu[name]:8.2f} CPU-s   ours {our_phases.cpu[name]:8.2f} CPU-s")
    typer.echo(f"{result['ratio']} x fewer CPU-seconds, peak memory {our_peak} of {peak()} GB")
    typer.echo(f"gradients differ by {worst:.1e} at most, relative to their norm")
    if as_json:
        typer.echo(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
