"""`omni adapt`: a model fitted to k clips of a new label set, corpus or annotator; what was learned is a small file.

    adapt      θ' = θ₀ after a few steps on the k clips               delta = θ' - θ, in half precision
    reptile    θ₀ ← θ₀ + ε · mean over tasks (θ'_task - θ₀)           a start from which few steps go far
    apply      θ + delta; removing it puts back the very weights that were there

θ are the weights of the fusion adapter; towers and language model stay as they are. A step lowers -log p(first token of
the label | clip, the model's own question without thinking, "<answer>"). Reptile is first-order: it needs no gradient
through the steps (Nichol et al. 2018, arXiv 1803.02999). Its tasks are groups of one manifest, by a column such as
`speaker` or `annotator`. A delta belongs to the weights that it was made on, and names them by a hash.

Whether any of this is worth it, `docs/adapt.md` measures: against plain fine-tuning on the same clips (`adapt` from the
model's own weights) and against the same clips shown in the prompt.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .collate import true_label
from .emotions import LabelSpace, label_space
from .errors import ManifestError, ModelError
from .features import ClipFeatures, FeatureCache, encode_clip
from .generate import ask_text
from .import_weights import open_weights
from .manifest import read_manifest
from .matrix_measure import first_tokens, prompts
from .rollout import unwrapped

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class AdaptOptions:
    """How one adapts.

    Attributes:
        steps, batch, rate: of the steps on the clips of a task (Adam).
        shots: clips of a task that Reptile learns from at a time.
        rounds, tasks: of Reptile: how often θ₀ moves, and over how many tasks each move is a mean.
        pace: ε of the first round; it falls to zero in a line.
    """

    steps: int = 8
    batch: int = 8
    rate: float = 5e-4
    shots: int = 16
    rounds: int = 10
    tasks: int = 2
    pace: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """Clips with their labels, words of `space`."""

    clips: Sequence[ClipFeatures]
    labels: Sequence[str]
    space: LabelSpace


@dataclass(frozen=True)
class Delta:
    """What was learned.

    Attributes:
        weights: differences by name of parameter, in half precision.
        base: hash of the weights that they are added to.
        labels: the label space that was learned; empty for a start.
    """

    weights: Weights
    base: str
    labels: tuple[str, ...] = ()


def adapt(model, processor, task: Task, options: AdaptOptions = AdaptOptions(), start: Delta | None = None) -> Delta:
    """Learn from the clips of a task; the model is left as it was.

    Args:
        start: what `reptile` learned; without it the model's own weights.

    Raises:
        ModelError: the start belongs to other weights.
        LabelError: two labels begin with the same token.
    """
    fusion = fusion_of(model)
    before = copied(fusion)
    if start is not None:
        apply(model, start)
    try:
        learn(model, processor, task, options)
        return difference(fusion, before, task.space.labels)
    finally:
        restore(fusion, before)


def reptile(model, processor, tasks: Sequence[Task], options: AdaptOptions = AdaptOptions()) -> Delta:
    """Learn a start from many tasks; the model is left as it was."""
    fusion, generator = fusion_of(model), torch.Generator().manual_seed(options.seed)
    before = copied(fusion)
    try:
        for index in range(options.rounds):
            here = copied(fusion)
            moved = {name: torch.zeros_like(value) for name, value in here.items()}
            for chosen in torch.randint(len(tasks), (options.tasks,), generator=generator).tolist():
                learn(model, processor, some(tasks[chosen], options.shots, generator), options)
                for name, value in fusion.named_parameters():
                    moved[name] += (value.detach() - here[name]) / options.tasks
                restore(fusion, here)
            pace = options.pace * (1 - index / options.rounds)
            restore(fusion, {name: value + pace * moved[name] for name, value in here.items()})
        return difference(fusion, before, ())
    finally:
        restore(fusion, before)


def read_tasks(
    manifest: str | Path,
    model,
    processor,
    *,
    labels: LabelSpace | str = "ekman7",
    column: str | None = None,
    features: str | Path | None = None,
) -> list[Task]:
    """The tasks of a manifest: one for each value of a column, or one of all rows.

    Args:
        features: folder of a `FeatureCache`; without it every clip is encoded once and forgotten.

    Raises:
        OmniError: there is no row, or one has no such column, no label of the space, or a clip that cannot be read.
    """
    space, cache = label_space(labels), None if features is None else FeatureCache(features, model, processor)
    groups: dict[str, list[tuple[ClipFeatures, str]]] = {}
    for example in read_manifest(manifest):
        if column is not None and column not in example.extra:
            raise ManifestError(
                f"{manifest}: {example.clip} has no column {column!r}. It has: {', '.join(example.extra) or 'none'}.",
                code="bad_row",
            )
        name, label = str(example.extra[column]) if column else "", true_label(example, space)
        clip = processor.read(example.clip)
        groups.setdefault(name, []).append((cache(clip) if cache else encode_clip(model, processor, clip), label))
    if not groups:
        raise ManifestError(f"{manifest} has no rows. Give it a row with clip and label for each clip.", code="empty")
    return [Task([c for c, _ in rows], [label for _, label in rows], space) for rows in groups.values()]


def some(task: Task, count: int, generator: torch.Generator) -> Task:
    """So many clips of a task, drawn by lot."""
    rows = torch.randperm(len(task.clips), generator=generator)[:count].tolist()
    return Task([task.clips[i] for i in rows], [task.labels[i] for i in rows], task.space)


def learn(model, processor, task: Task, options: AdaptOptions) -> None:
    """A few steps on the clips of a task, in place. Batches go through all clips before one comes again."""
    fusion, first = fusion_of(model), first_tokens(processor.tokenizer, task.space)
    model.requires_grad_(False)
    fusion.requires_grad_(True)
    optimizer = torch.optim.Adam(fusion.parameters(), options.rate)
    generator = torch.Generator().manual_seed(options.seed)
    order: list[int] = []
    for _ in range(options.steps):
        while len(order) < min(options.batch, len(task.clips)):
            order += torch.randperm(len(task.clips), generator=generator).tolist()
        rows, order = order[: options.batch], order[options.batch :]
        clips = [task.clips[i] for i in rows]
        inputs = prompts(unwrapped(model), processor, clips, questions(processor, clips, task.space))
        truth = first[[task.space.labels.index(task.labels[i]) for i in rows]]
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, 0].float()
        loss = nn.functional.cross_entropy(logits, truth.to(logits.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fusion.requires_grad_(False)


def questions(processor, clips: Sequence[ClipFeatures], space: LabelSpace) -> list[str]:
    """What the model is asked about each clip: its own question, without thinking."""
    return [ask_text(processor, clip, None, space, think=False) for clip in clips]


# ---- deltas ----


def apply(model, delta: Delta) -> Weights:
    """Add a delta to a model; returns the weights that were there, for `restore`.

    Raises:
        ModelError: the delta was made on other weights.
    """
    fusion = fusion_of(model)
    before = copied(fusion)
    if delta.base != weights_hash(before):
        raise ModelError(
            "The delta was made on other weights. Load the model that it was made on, or adapt this one anew.",
            code="delta",
        )
    restore(fusion, {name: value + delta.weights[name].to(value) for name, value in before.items()})
    return before


def put_on(model, path: str | Path, space: LabelSpace) -> LabelSpace:
    """Add the delta of a file to a model; the label space to ask with is the one that was learned.

    Args:
        space: what was asked for; `ekman7`, as nothing else is said, gives way.

    Raises:
        ModelError: there is no such delta, or it was made on other weights or for other labels.
    """
    delta = read_delta(path)
    others = bool(delta.labels) and set(delta.labels) != set(space.labels)
    if others and space.name != "ekman7":
        raise ModelError(
            f"{path} learned {', '.join(delta.labels)}. Give these as --labels, or leave --labels out.", code="delta"
        )
    apply(model, delta)
    return label_space(delta.labels) if others else space


@torch.no_grad()
def restore(fusion: nn.Module, weights: Weights) -> None:
    """Put weights into a fusion adapter, bit for bit."""
    for name, value in fusion.named_parameters():
        value.copy_(weights[name])


@contextmanager
def applied(model, delta: Delta) -> Iterator[None]:
    """The model with a delta, and afterwards as it was."""
    before = apply(model, delta)
    try:
        yield
    finally:
        restore(fusion_of(model), before)


def difference(fusion: nn.Module, before: Weights, labels: Sequence[str]) -> Delta:
    """What a fusion adapter has learned since."""
    after = copied(fusion)
    return Delta({n: (after[n] - before[n]).half() for n in before}, weights_hash(before), tuple(labels))


def writable(path: str | Path) -> None:
    """Make the folder of a delta; learning takes longer than finding out that nothing can be written there.

    Raises:
        ModelError: nothing can.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ModelError(f"{path.parent} cannot be made ({err}). Give another --out.", code="out") from err
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ModelError(f"{path} is a folder, or its folder cannot be written. Give another --out.", code="out")


def write_delta(path: str | Path, delta: Delta) -> None:
    """Write a delta as safetensors.

    Raises:
        ModelError: nothing can be written there.
    """
    writable(path)
    facts = {"base": delta.base, "labels": list(delta.labels)}
    save_file({n: w.cpu().contiguous() for n, w in delta.weights.items()}, path, {"omni_delta": json.dumps(facts)})


def read_delta(path: str | Path) -> Delta:
    """Inverse of `write_delta`.

    Raises:
        ModelError: there is no such file, or it holds no delta or is damaged.
    """
    if not Path(path).is_file():
        raise ModelError(f"There is no delta at {path}. Make one with omni adapt.", code="not_found")
    with open_weights(Path(path)) as file:
        facts = (file.metadata() or {}).get("omni_delta")
        if facts is None:
            raise ModelError(f"{path} holds weights, but no delta. Make one with omni adapt.", code="delta")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    known = json.loads(facts)
    return Delta(weights, known["base"], tuple(known["labels"]))


def fusion_of(model) -> nn.Module:
    """The fusion adapter of a model."""
    return unwrapped(model).model.fusion


def copied(fusion: nn.Module) -> Weights:
    """The weights of a fusion adapter, by name."""
    return {name: value.detach().clone() for name, value in fusion.named_parameters()}


def weights_hash(weights: Weights) -> str:
    """Sixteen hex digits that tell weights from others."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
