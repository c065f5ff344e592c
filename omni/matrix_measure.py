"""What one row of the technical matrix measures, of an adapter that was trained (`matrix.py`).

    accuracy        WAR and UAR of the most probable label
    conditions      the change of UAR when the clip is changed: without sound, without picture, under noise, sound
                    shifted by 0.5, 1 and 2 s, another clip's sound; where there is a gate, with even or shuffled gates
    modality gap    |mean y_v - mean y_a| / mean distance from the own mean; y: the mean token of picture or sound alone
    agreement       rank correlation over clips of g_a - g_v with d_a - d_v; d_m: loss of log p(answer) without m
    deletion        loss of log p(answer) without the `DELETED` share of steps that the maps weigh most, less the loss
                    without as many steps drawn by lot; above zero, the maps say what matters

A clip is scored by one pass: the prompt ends with "<answer>", and p(label) is that of the label's first token among
those of all labels. `answer` is the label that the unchanged clip gets. All draws are seeded, the same for every row.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .emotions import LabelSpace
from .errors import LabelError
from .features import STREAMS, ClipFeatures, collate, to_device
from .fusion import Fusion
from .looks import MODALITY
from .metrics import interval, resample, uar, war

QUESTION = "Emotion?"  # short: the matrix asks thousands of times, and every row the same
SHIFTS = (0.5, 1.0, 2.0)  # seconds
DELETED = 0.3  # share of the steps of every stream
BATCH = 40
TIMED = 5  # passes, of which the quickest counts
MEGABYTE = 2**20
Clips = Sequence[ClipFeatures]


def prompts(model, processor, clips: Clips, texts: Sequence[str] | None = None) -> dict:
    """Model inputs that end where the label begins, asked with these texts or with `QUESTION`."""
    inputs = dict(processor.ask(clips, texts or [QUESTION] * len(clips)))
    opened = processor.tokenizer("<answer>", add_special_tokens=False, return_tensors="pt").input_ids
    opened = opened.expand(len(clips), -1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], opened], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(opened)], 1)
    device = next(model.parameters()).device
    return {name: to_device(value, device) for name, value in inputs.items()}


def first_tokens(tokenizer, space: LabelSpace) -> Tensor:
    """The id that each label begins with, (labels,).

    Raises:
        LabelError: two labels begin alike, so that one pass cannot tell them apart.
    """
    ids = [tokenizer(label, add_special_tokens=False).input_ids[0] for label in space.labels]
    for label, other in zip(space.labels, ids, strict=True):
        same = [name for name, one in zip(space.labels, ids, strict=True) if one == other]
        if len(same) > 1:
            raise LabelError(
                f"The labels {' and '.join(same)} begin with the same token, so one pass cannot tell them apart. "
                f"Give other words for {label} with --labels.",
                code="label",
            )
    return torch.tensor(ids)


@torch.inference_mode()
def score(model, processor, clips: Clips, first: Tensor, texts: Sequence[str] | None = None) -> np.ndarray:
    """Log-probabilities of the labels, (clips, labels)."""
    found = []
    for i in range(0, len(clips), BATCH):
        asked = texts and texts[i : i + BATCH]
        logits = model(**prompts(model, processor, clips[i : i + BATCH], asked), logits_to_keep=1).logits[:, 0]
        found.append(logits[:, first.to(logits.device)].float().log_softmax(-1).cpu())
    return torch.cat(found).numpy().astype(float)


# ---- changed clips ----


def shifted(clip: ClipFeatures, seconds: float) -> ClipFeatures:
    """The clip with its sound so much later."""
    return replace(clip, times=clip.times | {m: clip.times[m] + seconds for m in STREAMS["audio"] if m in clip.times})


def noisy(clips: Clips, fusion: Fusion, seed: int) -> list[ClipFeatures]:
    """Clips with noise on every feature, as large as its spread over the training set."""
    generator = torch.Generator().manual_seed(seed)

    def drowned(clip: ClipFeatures) -> ClipFeatures:
        noise = {m: torch.randn(x.shape, generator=generator) for m, x in clip.features.items()}
        spread = {m: getattr(fusion, f"{m}_std").cpu() for m in noise}
        return replace(clip, features={m: x + spread[m] * noise[m] for m, x in clip.features.items()})

    return [drowned(clip) for clip in clips]


def swapped(clips: Clips, seed: int) -> list[ClipFeatures]:
    """Every clip with the sound of another one, but what is said of it stays: its senses and its words."""
    ring = np.random.default_rng(seed).permutation(len(clips))
    donor = np.empty_like(ring)
    donor[ring] = np.roll(ring, 1)  # one cycle through all, so that no clip keeps its own

    return [
        replace(clip.with_sound_of(clips[int(i)]), modalities=clip.modalities, transcript=clip.transcript)
        for clip, i in zip(clips, donor, strict=True)
    ]


def without_steps(clip: ClipFeatures, weights: dict[str, Tensor]) -> ClipFeatures:
    """The clip without the steps of each stream that weigh most, (T,)."""
    times = dict(clip.times)
    for name, weight in weights.items():
        there = (~times[name].isnan()).nonzero()[:, 0]
        count = int(len(there) * DELETED)
        times[name] = times[name].index_fill(0, there[weight[there].argsort(descending=True)[:count]], torch.nan)
    return replace(clip, times=times)


def conditions(clips: Clips, fusion: Fusion, seed: int) -> dict[str, Clips]:
    """All ways in which clips are changed."""
    return {
        "without sound": [clip.mute() for clip in clips],
        "without picture": [clip.blind() for clip in clips],
        "noise": noisy(clips, fusion, seed),
        **{f"sound {s:g} s late": [shifted(clip, s) for clip in clips] for s in SHIFTS},
        "another clip's sound": swapped(clips, seed),
    }


def even(gates: Tensor) -> Tensor:
    """The same share for every stream that is there: (B, M) to (B, M)."""
    there = (gates > 0).to(gates.dtype)
    return there / there.sum(1, keepdim=True).clamp(min=1)


def shuffled(gates: Tensor) -> Tensor:
    """The gate of the clip before, without the streams that are not there: (B, M) to (B, M)."""
    other = gates.roll(1, 0) * (gates > 0)
    return other / other.sum(1, keepdim=True).clamp(min=1e-6)


CONTROLS: dict[str, Callable[[Tensor], Tensor]] = {"even gates": even, "shuffled gates": shuffled}


# ---- a row ----


def measure(
    model, processor, clips: Clips, truth: Sequence[str], space: LabelSpace, seed: int, *, rest: bool = True
) -> dict:
    """All measurements of a trained row but its cost, as JSON values; without `rest` only its accuracy."""
    fusion, first = model.model.fusion, first_tokens(processor.tokenizer, space)
    full = score(model, processor, clips, first)
    base = uar(truth, named(full, space), space)
    accuracy = {
        "war": round(war(truth, named(full, space), space), 4),
        "uar": round(base, 4),
        "predicted": named(full, space),
    }
    if not rest:
        return accuracy
    changed = conditions(clips, fusion, seed)
    scores = {name: score(model, processor, others, first) for name, others in changed.items()}
    gates, looks = read_adapter(model, processor, clips)
    for name, control in CONTROLS.items() if gates is not None else ():
        fusion.regate = control
        scores[name] = score(model, processor, clips, first)
    fusion.regate = None
    answer = full.argmax(1)
    sound, picture = scores["without sound"], scores["without picture"]
    return accuracy | {
        "changes": {name: round(uar(truth, named(s, space), space) - base, 4) for name, s in scores.items()},
        "modality_gap": modality_gap(fusion, clips),
        "agreement": agreement(fusion, gates, lost(full, sound, answer) - lost(full, picture, answer)),
        "deletion": deletion(model, processor, clips, looks, full, first, seed) if looks[0] else None,
    }


def named(scores: np.ndarray, space: LabelSpace) -> list[str]:
    """The most probable label of every clip."""
    return [space.labels[i] for i in scores.argmax(1)]


def lost(full: np.ndarray, changed: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """How much log p(answer) falls, (clips,)."""
    rows = np.arange(len(answer))
    return full[rows, answer] - changed[rows, answer]


@torch.inference_mode()
def read_adapter(model, processor, clips: Clips) -> tuple[Tensor | None, list[dict[str, Tensor]]]:
    """Gates (clips, M), or None, and for every clip the weights of the steps of its streams."""
    gates: list[Tensor] = []
    looks: list[dict[str, Tensor]] = []
    for i in range(0, len(clips), BATCH):
        batch = clips[i : i + BATCH]
        inputs = prompts(model, processor, batch)
        asked = model.model.instruction(inputs.get("instruction_ids"), inputs.get("instruction_mask"))
        fused = model.model.fusion(inputs["clip_features"], inputs["clip_times"], asked)
        gates += [] if fused.gates is None else [fused.gates.cpu()]
        looks += [
            {m: w[row, : len(clip.times[m])].cpu() for m, w in fused.looks.items() if m in clip.times}
            for row, clip in enumerate(batch)
        ]
    return (torch.cat(gates) if gates else None), looks


@torch.inference_mode()
def modality_gap(fusion: Fusion, clips: Clips) -> float | None:
    """How far the tokens of picture alone are from those of sound alone, in their own spread."""
    device = next(fusion.parameters()).device
    means = []
    for part in ([clip.mute() for clip in clips], [clip.blind() for clip in clips]):
        features, times = (to_device(x, device) for x in collate(part))
        if not features:
            return None
        means.append(fusion(features, times).tokens.mean(1))  # (clips, E)
    centres = [x.mean(0) for x in means]
    spread = torch.stack([(x - c).norm(dim=-1).mean() for x, c in zip(means, centres, strict=True)]).mean()
    return round(float((centres[0] - centres[1]).norm() / spread.clamp(min=1e-6)), 3)


def agreement(fusion: Fusion, gates: Tensor | None, difference: np.ndarray) -> float | None:
    """Rank correlation of what the gate prefers with what the answer needs; None without a gate that varies."""
    if gates is None:
        return None
    sign = {"audio": 1.0, "video": -1.0}
    signs = torch.tensor([sign.get(MODALITY.get(m, m), 0.0) for m in fusion.streams])
    preferred = (gates * signs).sum(1).numpy()
    return None if np.ptp(preferred) < 1e-5 else round(rank_correlation(preferred, difference), 3)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's correlation of values without ties.

    >>> round(rank_correlation(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.5, 0.6])), 6)
    1.0
    """
    return float(np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1])


def deletion(
    model, processor, clips: Clips, looks: list[dict[str, Tensor]], full: np.ndarray, first: Tensor, seed: int
) -> dict[str, float]:
    """By how much more log p(answer) falls without the steps that the maps weigh most, and its 95 % interval."""
    generator = torch.Generator().manual_seed(seed)
    lots = [{m: torch.rand(w.shape, generator=generator) for m, w in look.items()} for look in looks]
    answer = full.argmax(1)
    chosen, drawn = (
        lost(full, score(model, processor, list(map(without_steps, clips, weights)), first), answer)
        for weights in (looks, lots)
    )
    more = chosen - drawn
    low, high = interval(resample(lambda rows: more[rows].mean(), len(more), seed=seed))
    return {"value": round(float(more.mean()), 4), "low": round(low, 4), "high": round(high, 4)}


# ---- what it costs ----


def cost(fusion: Fusion, clips: Clips) -> dict:
    """Parameters, time and memory of the adapter; the language model's share is the same for all."""
    shared = ("project.", "absent.", "output.")
    sizes = {name: p.numel() for name, p in fusion.named_parameters()}
    features, times = collate(clips)
    device = next(fusion.parameters()).device
    features, times = to_device(features, device), to_device(times, device)
    return {
        "parameters": sum(sizes.values()),
        "own_parameters": sum(size for name, size in sizes.items() if not name.startswith(shared)),
        "width": fusion.width,
        "tokens": fusion.tokens,
        "ms_a_clip": round(1000 * quickest(fusion, features, times) / len(clips), 2),
        "training_mb": round(kept_bytes(fusion, features, times) / MEGABYTE, 1),
    }


@torch.inference_mode()
def quickest(fusion: Fusion, features: dict[str, Tensor], times: dict[str, Tensor]) -> float:
    """Seconds of one pass."""
    found = []
    for _ in range(TIMED):
        began = time.perf_counter()
        fusion(features, times)
        found.append(time.perf_counter() - began)
    return min(found)


def kept_bytes(fusion: Fusion, features: dict[str, Tensor], times: dict[str, Tensor]) -> int:
    """Memory at its peak in a training step: what a pass keeps for the gradients, and four copies of the weights."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        fusion(features, times)
    weights = sum(p.numel() * p.element_size() for p in fusion.parameters())
    return sum(kept.values()) + 3 * weights  # weights are among what is kept; gradients and Adam's two moments
