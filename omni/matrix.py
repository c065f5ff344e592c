"""`omni matrix`: the same omni model with every fusion mechanism, trained and measured alike; one row each.

    manifest ─► encoded clips (cached) ─► for each row: align ─► cold start ─► measure ─► rows.jsonl
                                                                             ─► matrix.md, matrix.json, matrix.svg

What is the same in all rows: clips and their order, which senses are dropped in training, steps, learning rate, soft
tokens, bins, LoRA rank, and the parameters of the adapter within a tenth (the width is searched for). What differs is
the mechanism. Each is trained twice, with LoRA on the language model and with the language model frozen: if a gap
between mechanisms closes with LoRA only, the language model did the fusing.

The cold start is a short one. The prompt is one word, and the loss is that of the label's first token after
"<answer>", -log p(token | clip), over the whole vocabulary: what `train_sft.py` teaches beyond that, reasons and
prompts, costs ten times as much and is the same for every mechanism. What is measured: `matrix_measure.py`.

A row is written when it is done and belongs to its run, a hash of the options, the clips and the model. A run that was
killed goes on with the rows that are missing.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from .align import AlignOptions, align
from .collate import align_rows, true_label, vocabulary
from .emotions import label_space
from .errors import ManifestError, OmniError
from .features import ClipFeatures, FeatureCache
from .fusion import AUX, MECHANISMS
from .fusion.placement import choose, width_for
from .journal import Row, appending, recover
from .loading import load, new_adapter
from .manifest import Example, read_manifest
from .matrix_measure import cost, first_tokens, measure, prompts
from .predictions import fingerprint
from .rollout import unwrapped

COLUMNS = frozenset(("run", "mechanism", "language_model"))
DECODERS = ("lora", "frozen")  # what becomes of the language model
WARMUP = 0.1  # share of the steps
HELD_OUT = 4  # without a manifest of its own, a fourth is for testing
Encoded = tuple[Example, ClipFeatures]


@dataclass(frozen=True)
class MatrixOptions:
    """How every row is trained.

    Attributes:
        steps, batch: of the cold start.
        rate: learning rate; it falls to zero as a cosine after a short warm-up.
        align_epochs: passes of the alignment before it.
        parameters: budget of the adapter.
        tokens, bins: of the adapter.
        lora_rank, lora_alpha: of the language model's LoRA.
        drop: chance that a sense of a training clip is left out.
        labels: the label space.
    """

    steps: int = 60
    batch: int = 8
    rate: float = 6e-4
    align_epochs: int = 8
    parameters: int = 1_000_000
    tokens: int = 16
    bins: int = 16
    lora_rank: int = 16
    lora_alpha: int = 128
    drop: float = 0.15
    labels: str = "ekman7"
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """Encoded clips to train and to test on; all have picture and sound."""

    train: list[Encoded]
    test: list[Encoded]
    sha256: str


@dataclass(frozen=True)
class Matrix:
    """What a run has: its options and facts, its rows, and the true labels of its test clips."""

    facts: Row
    rows: list[Row]
    truth: list[str]


def matrix(
    manifest: str | Path,
    out: str | Path,
    *,
    test: str | Path | None = None,
    model: str = "default",
    only: Sequence[str] = (),
    features: str | Path | None = None,
    limit: int | None = None,
    test_limit: int | None = None,
    options: MatrixOptions = MatrixOptions(),
    say: Callable[[str], None] = lambda text: None,
) -> Matrix:
    """Train and measure the rows that are missing; call it again to go on, or to add other mechanisms.

    Args:
        out: folder of rows.jsonl, and of encoded clips unless `features` names another.
        test: a manifest of clips to measure on; without it, every fourth clip of the first is kept for that.
        model: as `omni.loading.load` takes it; rows start from its base, without its adapters.
        only: mechanisms; all, if none is named. `concat` comes along, since the others are compared with it.
        limit, test_limit: only the first so many rows of the manifests.
        say: is told what is being done.

    Raises:
        OmniError: an unknown mechanism or one that cannot have so few or many parameters, a manifest with too few
            clips, a label that is not in the space, or two that begin alike; all before the first row is made.

    Returns:
        All rows of the run, also those of earlier calls.
    """
    unknown = [name for name in only if name not in MECHANISMS]
    if unknown:
        raise OmniError(f"Unknown fusion {unknown[0]!r}. Choose of: {', '.join(MECHANISMS)}.", code="fusion")
    chosen = [name for name in MECHANISMS if not only or name in only or name == "concat"]
    examples = read_manifest(manifest)[:limit]
    others = None if test is None else read_manifest(test)[:test_limit]
    net, processor = load(model, adapter=False)
    check(net, processor, chosen, options)
    say("encoding clips")
    corpus = encode(examples, others, FeatureCache(features or Path(out) / "features", net, processor), options)
    facts: Row = {"model": model, "model_sha256": fingerprint(model).sha256, "clips_sha256": corpus.sha256}
    facts |= {"train_clips": len(corpus.train), "test_clips": len(corpus.test), **asdict(options)}
    run = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    table = Path(out) / "rows.jsonl"
    rows = {key_of(row): row for row in recover(table, COLUMNS, lambda row: False) if row["run"] == run}
    wanted = [(name, decoder) for decoder in DECODERS for name in chosen]
    with appending(table) as write:
        for name, decoder in wanted:
            if (name, decoder) not in rows:
                say(f"{name}, language model {decoder}")
                row = {"run": run, **make_row(name, decoder, model, corpus, options)}
                write([row])
                rows[name, decoder] = row
    return Matrix({"run": run, **facts}, list(rows.values()), truth_of(corpus, options))


def key_of(row: Row) -> tuple[str, str]:
    """What a row is about."""
    return row["mechanism"], row["language_model"]


def check(net, processor, chosen: Sequence[str], options: MatrixOptions) -> None:
    """Find out what cannot be done before hours have gone into what can."""
    widths, embedding = net.config.stream_widths, net.config.text_config.hidden_size
    for name in chosen:
        width_for(name, widths, embedding, options.parameters, tokens=options.tokens, bins=options.bins)
    first_tokens(processor.tokenizer, label_space(options.labels))


def encode(
    examples: list[Example], others: list[Example] | None, cache: FeatureCache, options: MatrixOptions
) -> Corpus:
    """Encode the clips of both manifests, or keep some of the first for testing.

    Raises:
        ManifestError: fewer than `options.batch` training clips or two test clips have picture and sound.
    """
    space = label_space(options.labels)

    def encoded(chosen: list[Example]) -> list[Encoded]:
        found = []
        for example in track(chosen, "encoding clips", disable=not sys.stderr.isatty()):
            true_label(example, space)
            asked = cache.processor.read(example.clip), example.extra.get("text")
            cache(*asked)
            found.append((example, cache(*asked)))  # as it is kept, so that a resumed run sees the same
        return [(example, clip) for example, clip in found if len(clip.modalities) == 2]

    train = encoded(examples)
    if others is None:
        train, tested = held_out(train)
    else:
        tested = encoded(others)
    if both := {clip.sha256 for _, clip in train} & {clip.sha256 for _, clip in tested}:
        raise ManifestError(
            f"{len(both)} clips are to train and to test on. Leave them out of one of the manifests.", code="overlap"
        )
    if len(train) < options.batch or len(tested) < 2:
        raise ManifestError(
            f"There are {len(train)} clips to train and {len(tested)} to test on that have picture and sound; "
            f"{options.batch} and 2 are needed. Give a longer manifest.",
            code="too_few",
        )
    facts = [[e.label or "", clip.sha256] for part in (train, tested) for e, clip in part]
    return Corpus(train, tested, hashlib.sha256(json.dumps(facts).encode()).hexdigest())


def held_out(rows: list[Encoded]) -> tuple[list[Encoded], list[Encoded]]:
    """What to train and to test on: all clips of every fourth person where each row names one, else every fourth clip.

    Persons are told by the column `speaker`, or `actor`.
    """
    for column in ("speaker", "actor"):
        people = sorted({str(example.extra.get(column) or "") for example, _ in rows})
        if "" not in people and len(people) >= HELD_OUT:
            tested = people[::HELD_OUT]
            parts: tuple[list[Encoded], list[Encoded]] = ([], [])
            for row in rows:
                parts[str(row[0].extra[column]) in tested].append(row)
            return parts
    return [row for i, row in enumerate(rows) if i % HELD_OUT], rows[::HELD_OUT]


def make_row(name: str, decoder: str, model: str, corpus: Corpus, options: MatrixOptions) -> Row:
    """Train one mechanism and measure it; the same numbers every time but for the times."""
    began = time.process_time()
    torch.manual_seed(options.seed)
    net, processor = load(model, adapter=False, trainable=True)
    net.requires_grad_(False)
    o = options
    choose(net, processor, name, parameters=o.parameters, tokens=o.tokens, bins=o.bins, gated=())
    fusion, space = net.model.fusion.requires_grad_(True), label_space(options.labels)
    known = align_rows([(e, clip, Path()) for e, clip in corpus.train], space)
    how = AlignOptions(epochs=options.align_epochs, batch=min(64, len(known)), seed=options.seed)
    align(fusion, known, *vocabulary(net, processor, space), how)
    taught = [clip for _, clip in corpus.train]
    row: Row = {"mechanism": name, "language_model": decoder} | cost(fusion, taught[: options.batch])
    if decoder == "lora":
        net = new_adapter(net, model, options.lora_rank, options.lora_alpha)
    loss = cold_start(net, processor, taught, [true_label(e, space) for e, _ in corpus.train], options)
    net = net.merge_and_unload() if decoder == "lora" else net
    asked = [clip for _, clip in corpus.test]
    rest = decoder == "lora"  # of the control only accuracy is asked
    found = measure(net.eval(), processor, asked, truth_of(corpus, options), space, options.seed, rest=rest)
    return row | {"loss": round(loss, 4), **found, "cpu_seconds": round(time.process_time() - began)}


def truth_of(corpus: Corpus, options: MatrixOptions) -> list[str]:
    """The labels of the test clips, as the label space spells them."""
    space = label_space(options.labels)
    return [true_label(example, space) for example, _ in corpus.test]


def cold_start(net, processor, clips: list[ClipFeatures], labels: list[str], options: MatrixOptions) -> float:
    """Train what has gradients, in place; returns the mean loss of the last tenth of the steps."""
    space, rng = label_space(options.labels), np.random.default_rng(options.seed)
    first = first_tokens(processor.tokenizer, space)
    order = np.concatenate(
        [rng.permutation(len(clips)) for _ in range(options.steps * options.batch // len(clips) + 1)]
    )
    parameters = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, options.rate, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR
    schedule = rate(optimizer, options.rate, total_steps=options.steps + 1, pct_start=WARMUP)
    torch.manual_seed(options.seed)
    losses = []
    net.train()
    for step in range(options.steps):
        chosen = order[step * options.batch : (step + 1) * options.batch]
        batch = [dropped(clips[i], rng, options.drop) for i in chosen]
        truth = first[[space.labels.index(labels[i]) for i in chosen]]
        losses.append(train_step(net, prompts(unwrapped(net), processor, batch), truth, parameters, optimizer))
        schedule.step()
    net.eval()
    return float(np.mean(losses[-max(1, options.steps // 10) :]))


def train_step(net, inputs: dict, truth: Tensor, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> float:
    """One step; returns the loss without the auxiliary one."""
    out = net(**inputs, use_cache=False, logits_to_keep=1)
    loss = torch.nn.functional.cross_entropy(out.logits[:, 0].float(), truth.to(out.logits.device))
    total = loss if out.aux_loss is None else loss + AUX * out.aux_loss
    optimizer.zero_grad()
    total.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return float(loss.detach())


def dropped(clip: ClipFeatures, rng: np.random.Generator, chance: float) -> ClipFeatures:
    """The clip, sometimes without its sound or its picture."""
    lot = rng.random()
    if lot < chance:
        return clip.mute() if lot < chance / 2 else clip.blind()
    return clip
