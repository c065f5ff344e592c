"""k clips of something new: fine-tuning, Reptile's start and examples in the prompt. Numbers of `docs/adapt.md`.

    python benchmarks/bench_adapt.py TRAIN.jsonl TEST.jsonl --emodb EMODB.jsonl --features DIR

Three things are new to the default model: an annotator who believes the face where face and voice of a synthetic actor
conflict; a label set of four words in which emotions are lumped together; a corpus of real voices (EmoDB's speaker 15,
and 16 to test on; no clip of the two was in training). Reptile learns its start from other lumpings and an annotator
who believes the voice, on other actors.

    as it is      the model, asked with the new labels
    in context    four of the k clips with their labels in the prompt, as earlier turns
    fine-tuned    `adapt` from the model's own weights
    start         Reptile's start, before it sees the k clips
    from start    `adapt` from there, the same clips and steps
"""

import copy
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import DynamicCache

from omni.adapt import AdaptOptions, Delta, Task, adapt, applied, questions, reptile
from omni.answer import format_answer
from omni.emotions import EKMAN7, LabelSpace, label_space
from omni.features import ClipFeatures, FeatureCache
from omni.fusion import Fused
from omni.loading import load
from omni.manifest import Example, read_manifest
from omni.matrix_measure import BATCH, first_tokens, prompts, score
from omni.metrics import uar

SHOWN = 4  # clips in the prompt
FEW, TESTED = "15", "16"  # speakers of EmoDB that the default has not heard
LUMPED = {"happy": "good", "surprise": "good", "neutral": "plain", "angry": "hard", "disgust": "hard"}
LUMPED |= {"fear": "low", "sad": "low"}
WORDS = ("bright", "quiet", "sharp", "dark", "open", "tense")  # of the lumpings that the start is learned from
METHODS = ("as it is", "in context", "fine-tuned", "start", "from start")
Encoded = list[tuple[Example, ClipFeatures]]


@dataclass(frozen=True)
class New:
    """Something new: the few clips, and others to test on."""

    name: str
    few: Task
    test: Task


def encoded(cache: FeatureCache, examples: Sequence[Example]) -> Encoded:
    """Examples with their encoded clips, words left out, so that all prompts are of one length."""
    found = [(e, cache(cache.processor.read(e.clip), e.extra.get("text"))) for e in examples]
    return [(e, replace(clip, transcript=None)) for e, clip in found]


def task(rows: Encoded, labels: Sequence[str], space: LabelSpace) -> Task:
    """Rows as a task."""
    return Task([clip for _, clip in rows], list(labels), space)


def split(name: str, rows: Encoded, labels: Sequence[str], space: LabelSpace, shots: int, rng: random.Random) -> New:
    """The few clips, as evenly over the labels as they go, and the rest."""
    order = list(range(len(rows)))
    rng.shuffle(order)
    seen: dict[str, int] = {}
    rank = {}
    for i in order:
        rank[i] = seen[labels[i]] = seen.get(labels[i], 0) + 1
    order.sort(key=rank.__getitem__)
    parts = [([rows[i] for i in part], [labels[i] for i in part]) for part in (order[:shots], order[shots:])]
    return New(name, *(task(*part, space) for part in parts))


def voices(heard: list[Encoded], space: LabelSpace, shots: int, rng: random.Random) -> New:
    """The few clips of one speaker, and all of another."""
    few, tested = ([str(e.label) for e, _ in rows] for rows in heard)
    return New("corpus", split("", heard[0], few, space, shots, rng).few, task(heard[1], tested, space))


def learned_tasks(rows: Encoded, count: int, rng: random.Random) -> list[Task]:
    """Tasks for Reptile: every second one a lumping, every second one an annotator who believes the voice."""
    tasks = []
    for i in range(count):
        some = rng.sample(rows, 32)
        if i % 2:
            words = rng.sample(WORDS, 4)
            lumping = {label: words[j % 4] for j, label in enumerate(rng.sample(EKMAN7, 7))}
            tasks.append(task(some, [lumping[e.label] for e, _ in some], LabelSpace("new", tuple(words))))
        else:
            tasks.append(task(some, [e.extra["voice"] for e, _ in some], label_space(EKMAN7)))
    return tasks


@torch.inference_mode()
def in_context(model, processor, shown: Task, asked: Task) -> list[str]:
    """The most probable label of each clip, after turns about other clips with their labels."""
    messages = []
    texts = questions(processor, shown.clips, shown.space)
    for clip, text, label in zip(shown.clips, texts, shown.labels, strict=True):
        messages += [
            {"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": text}]},
            {"role": "assistant", "content": [{"type": "text", "text": format_answer(label)}]},
        ]
    said = processor.apply_chat_template([messages], tokenize=True, return_dict=True, return_tensors="pt")
    backbone, ids = model.model, said["input_ids"]
    tokens = backbone.fusion(said["clip_features"], said["clip_times"]).tokens  # (shown, N, E)
    words = backbone.get_input_embeddings()(ids)
    embeds = backbone.merge(ids, words, Fused({"clip": tokens.flatten(0, 1)[None]}))
    cache = DynamicCache(config=model.config.get_text_config())
    backbone.language_model(inputs_embeds=embeds, cache=cache, use_cache=True)
    first, found = first_tokens(processor.tokenizer, asked.space), []
    for i in range(0, len(asked.clips), BATCH):
        clips = asked.clips[i : i + BATCH]
        inputs = prompts(model, processor, clips, questions(processor, clips, asked.space))
        past = copy.deepcopy(cache)
        past.batch_repeat_interleave(len(clips))
        before = torch.ones(len(clips), ids.shape[1], dtype=torch.long)
        inputs["attention_mask"] = torch.cat([before, inputs["attention_mask"]], 1)
        logits = model(**inputs, cache=past, use_cache=True, logits_to_keep=1).logits[:, 0]
        found += [asked.space.labels[j] for j in logits[:, first].argmax(1).tolist()]
    return found


def answers(model, processor, asked: Task) -> list[str]:
    """The most probable label of each clip."""
    first = first_tokens(processor.tokenizer, asked.space)
    scores = score(model, processor, asked.clips, first, questions(processor, asked.clips, asked.space))
    return [asked.space.labels[j] for j in scores.argmax(1)]


def compare(model, processor, new: New, start: Delta, options: AdaptOptions) -> dict[str, float]:
    """UAR of every method."""
    found = {"as it is": answers(model, processor, new.test)}
    shown = Task(new.few.clips[:SHOWN], new.few.labels[:SHOWN], new.few.space)
    found["in context"] = in_context(model, processor, shown, new.test)
    with applied(model, start):
        found["start"] = answers(model, processor, new.test)
    for name, begin in (("fine-tuned", None), ("from start", start)):
        with applied(model, adapt(model, processor, new.few, options, begin)):
            found[name] = answers(model, processor, new.test)
    return {name: round(uar(new.test.labels, found[name], new.test.space), 4) for name in METHODS}


def main(
    train: Path,
    test: Path,
    emodb: Annotated[Path, typer.Option(help="manifest of EmoDB, with its speakers")],
    features: Path = Path("features"),
    out: Path = Path("bench_adapt.json"),
    shots: int = 16,
    clips: Annotated[int, typer.Option(help="of the actors that are tested on")] = 60,
    learned: Annotated[int, typer.Option(help="clips of other actors that the start is learned from")] = 120,
    rounds: int = 6,
    seeds: int = 1,
) -> None:
    """Measure, print a table and write one JSON file."""
    began = time.process_time()
    model, processor = load("default", trainable=True)
    cache, space = FeatureCache(features, model, processor), label_space(EKMAN7)
    both = [e for e in read_manifest(test) if e.extra["modalities"] == ["video", "audio"]]
    conflict = encoded(cache, [e for e in both if e.extra["conflict"]][: shots + clips])
    plain = encoded(cache, both[: shots + clips])
    heard = [encoded(cache, [e for e in read_manifest(emodb) if e.extra["speaker"] == s]) for s in (FEW, TESTED)]
    taught = encoded(cache, [e for e in read_manifest(train) if e.extra["modalities"] == ["video", "audio"]][:learned])
    options = AdaptOptions(rounds=rounds, shots=shots)
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(seeds):
        rng = random.Random(seed)
        start = reptile(model, processor, learned_tasks(taught, 12, rng), replace(options, steps=4, seed=seed))
        lumped = LabelSpace("lumped", tuple(dict.fromkeys(LUMPED.values())))
        news = [
            split("annotator", conflict, [e.extra["face"] for e, _ in conflict], space, shots, rng),
            split("label set", plain, [LUMPED[str(e.label)] for e, _ in plain], lumped, shots, rng),
            voices(heard, space, shots, rng),
        ]
        for new in news:
            results.setdefault(new.name, []).append(compare(model, processor, new, start, replace(options, seed=seed)))
            typer.echo(f"{new.name}, seed {seed}, {len(new.test.clips)} test clips: {results[new.name][-1]}", err=True)
            out.write_text(json.dumps({"uar": results, "cpu_seconds": round(time.process_time() - began)}, indent=1))
    typer.echo(f"| new | {' | '.join(METHODS)} |\n|{'---|' * (len(METHODS) + 1)}")
    for name, found in results.items():
        typer.echo(f"| {name} | {' | '.join(f'{np.mean([f[m] for f in found]):.3f}' for m in METHODS)} |")


if __name__ == "__main__":
    typer.run(main)
