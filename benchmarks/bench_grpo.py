"""What a GRPO step costs: the plain way and ours, in one process, on the same weights, prompts and completions.

    python benchmarks/bench_grpo.py [--layout default|r1-omni] [--clips 4] [--group 8] [--no-think] [--json]

The plain way is what R1-Omni's trainer does: media are encoded for sampling, and again for every completion of policy
and reference; every completion carries its prompt through `generate` and through both models; the reference is a second
model; logits cover the whole vocabulary at every position. Ours: encoded clips, one run of a prompt for all its
completions and of what completions have in common, packed weights in sampling, the adapter switched off as reference,
logits where completions are predicted. The policy gradient of both is compared, on the completions that ours sampled;
in bfloat16 the difference is rounding, so give --dtype float32 to see that the two are the same. Ours runs first, since
the peak of a process's memory never falls. The first step of each also pays for memory that the process had not touched
before and for kernels that are compiled for new shapes, so the last of `--steps` is reported, as within a run.

`default` is the shipped model, from which GRPO goes on; its answers end by themselves, so both ways are given answers
of the same lengths to score but sample their own. `r1-omni` has the layout of R1-Omni-0.5B (1.37 B parameters: Qwen2,
Whisper-large encoder, SigLIP base, BERT; 892 clip tokens) with random weights; its clip is random pictures and noise,
and its completions run to their full length.
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
from torch.nn.utils.rnn import pad_sequence

from omni.clip import Clip
from omni.emotions import EKMAN7
from omni.features import encode_clip
from omni.grpo import precision, score_completions
from omni.loading import load, new_adapter, trains_in_bf16
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
    model, processor = load("default", merge=False, dtype=dtype, trainable=True)
    names = [p for p in sorted(CLIPS.glob("*.mp4")) if "mute" not in p.name]
    return model, processor, [processor.read(p) for p in names[:count]]


def r1_omni_layout(count: int, dtype: str, weights: Path):
    """The layout of R1-Omni-0.5B with random weights; its clips are random pictures and noise."""
    if not (weights / "model.safetensors").exists():
        write_released(weights)
    model, processor = load(weights, dtype=dtype, trainable=True)
    model.requires_grad_(False)
    model = new_adapter(model, "r1-omni", rank=16, alpha=32).eval()
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


def loss_of(log_probs: Tensor, mask: Tensor, advantages: Tensor) -> Tensor:
    """The policy gradient's loss on policy: ratios of one, with their slopes (dapo's mean over tokens)."""
    ratios = (log_probs - log_probs.detach()).exp()
    return -(ratios * advantages[:, None] * mask).sum() / mask.sum()


def our_step(model, processor, clips, texts, group: int, sampling: Sampling, advantages: Tensor):
    """One step our way: completions, their mask, gradient and phases. Clips are encoded before, as after an epoch."""
    phases = Phases()
    encoded = [encode_clip(model, processor, clip, "said") for clip in clips]
    inputs = processor.ask(encoded, texts)
    copies = [i for i in range(len(clips)) for _ in range(group)]
    with phases("sampling"):
        rows = [torch.tensor(row) for row in roll_out(model, inputs, copies, sampling)]
    completions = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    ids, seen = inputs["input_ids"][copies], inputs["attention_mask"][copies]
    scored = torch.cat([ids, completions], 1), torch.cat([seen, mask], 1)
    asked = [encoded[i] for i in copies], [texts[i] for i in copies]
    with phases("reference"), torch.no_grad(), model.disable_adapter(), autocast(model):
        score_completions(model, processor, *scored, *asked, completion=mask.shape[1])
    with phases("policy, forward"), precision(autocast(model), model, model.device):
        out = score_completions(model, processor, *scored, *asked, completion=mask.shape[1])
        loss = loss_of(out.log_probs, mask, advantages)
    with phases("policy, backward"):
        loss.backward()
    return completions, mask, gradient(model), phases


def plain_step(model, processor, clips, texts, group: int, sampling: Sampling, written, advantages: Tensor):
    """One step the plain way, scoring the same completions."""
    phases, inner, (completions, own) = Phases(), model.get_base_model(), written
    inner.set_attn_implementation({"text_config": "sdpa"})  # as the reference, and less memory over whole sequences
    inputs = processor.ask(clips, texts)
    repeated = {k: v.repeat_interleave(group, 0) for k, v in inputs.items()}
    how = {"max_new_tokens": sampling.length, "eos_token_id": list(sampling.ends) or None, "pad_token_id": 0}
    with phases("sampling"), torch.no_grad():
        inner.generate(**repeated, **how, do_sample=True, top_k=0)
    ids = torch.cat([repeated.pop("input_ids"), completions], 1)
    mask = torch.cat([repeated.pop("attention_mask"), own], 1)
    reference = copy.deepcopy(model)

    def log_probs(net) -> Tensor:
        logits = net(input_ids=ids, attention_mask=mask, **repeated).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return scores[:, -completions.shape[1] :]

    with phases("reference"), torch.no_grad(), reference.disable_adapter(), autocast(model):
        log_probs(reference)
    del reference
    with phases("policy, forward"), autocast(model):
        loss = loss_of(log_probs(model), own, advantages)
    with phases("policy, backward"):
        loss.backward()
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
    clips: int = 4,
    group: int = 8,
    length: Annotated[int, typer.Option(help="most tokens of a completion")] = 96,
    think: Annotated[bool, typer.Option(help="ask for reasons before the answer")] = True,
    steps: Annotated[int, typer.Option(help="steps of ours, then of the plain way; the last of each counts")] = 2,
    threads: int = 0,
    dtype: Annotated[str, typer.Option(help="of the language model; auto is what trains faster here")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Run both ways and compare."""
    if threads:
        torch.set_num_threads(threads)
    layouts: dict[str, Callable] = {"default": default_layout, "r1-omni": r1_omni_layout}
    chosen = "float32" if dtype == "auto" and not trains_in_bf16() else dtype
    model, processor, media = layouts[layout](clips, chosen, weights)
    texts = [processor.prompt(None, EKMAN7, think=think, modalities=clip.modalities) for clip in media]
    advantages = torch.linspace(-1, 1, len(media) * group)
    torch.manual_seed(0)
    ends = (processor.tokenizer.eos_token_id,) if layout == "default" else ()
    sampling = Sampling(length, ends, never=tuple(model.config.placeholders.values()))
    for _ in range(steps):
        *written, ours, our_phases = our_step(model, processor, media, texts, group, sampling, advantages)
    our_peak = peak()
    for _ in range(steps):
        plain, plain_phases = plain_step(model, processor, media, texts, group, sampling, written, advantages)
    worst = max(float((ours[n] - g).norm() / g.norm().clamp(min=1e-12)) for n, g in plain.items())
    result = {
        "layout": layout, "dtype": str(model.get_base_model().lm_head.weight.dtype).removeprefix("torch."),
        "clips": len(media), "group": group, "think": think,
        "length": {"most": written[1].shape[1], "mean": round(float(written[1].sum(1).float().mean()), 1)},
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
