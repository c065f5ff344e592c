"""Labelling clips with rationales: the plain loop and ours, in one process, on the same weights and clips.

    python benchmarks/bench_label.py [--clips 32] [--batch-size 8] [--threads 1] [--json]

The plain loop is what R1-Omni's evaluation script does: a clip at a time is decoded, goes through the towers, and
`generate` writes the answer after a run of the prompt with the logits of the whole vocabulary at every position; the
label is what the text says. Ours is `omni label`, journal and table included: clips decoded ahead in a process of their
own, packed weights, answers written together, where one that ends makes room for the next; beside the text it gives a
probability of every label, which the plain loop does not. The towers are the same for both, at the sound's own length.
Both write the same label for every clip, which is asserted.

The clips are those of examples/clips, as often as needed, each with other bytes behind its end, so that none is a copy.
Ours runs first, since the peak of a process's memory never falls. CPU-seconds include those of the decoding process.
The limit of the machine is given for writing: a step reads every weight once, whatever the number of rows.

    seconds >= tokens / rows * bytes of weights / bytes a second of this machine's memory
"""

import json
import os
import platform
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from omni import generate, label
from omni.answer import parse_answer
from omni.emotions import EKMAN7, canonical
from omni.features import encode_clip
from omni.label_run import BATCH
from omni.label_table import decode_table
from omni.loading import load

CLIPS = sorted(p for p in (Path(__file__).parent.parent / "examples" / "clips").iterdir() if p.suffix != ".json")
PHASES = {"prefill": "prefill", "_write": "generation", "score_labels": "label probabilities"}  # of generate.py


class Phases:
    """Seconds and CPU-seconds of this process and its children by phase."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    @contextmanager
    def __call__(self, name: str):
        wall, cpu = time.perf_counter(), cpu_seconds()
        yield
        self.wall[name] += time.perf_counter() - wall
        self.cpu[name] += cpu_seconds() - cpu

    def around(self, name: str, call: Callable) -> Callable:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return call(*args, **kwargs)

        return timed


def cpu_seconds() -> float:
    """Of this process and the children that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def write_clips(folder: Path, count: int) -> list[Path]:
    """The bundled clips, again and again, each with a box of its own behind its end, which no reader looks at."""
    paths = []
    for i in range(count):
        source = CLIPS[i % len(CLIPS)]
        tail = (16).to_bytes(4, "big") + b"free" + i.to_bytes(8, "big")
        paths.append(folder / f"{i:03d}{source.suffix}")
        paths[-1].write_bytes(source.read_bytes() + tail)
    return paths


@torch.inference_mode()
def plain(model, processor, paths: list[Path], phases: Phases) -> list[str | None]:
    """The labels that are written, a clip at a time."""
    labels = []
    for path in paths:
        with phases("decode"):
            clip = processor.read(path)
        with phases("towers"):
            encoded = encode_clip(model, processor, clip)
        text = generate.ask_text(processor, encoded, None, EKMAN7, True)
        inputs = generate.build_inputs(model, processor, [encoded], [text])
        how = {"max_new_tokens": generate.MAX_NEW_TOKENS, "do_sample": False, "logits_to_keep": 0}
        with phases("generation"):
            out = model.generate(**inputs, **how, pad_token_id=processor.tokenizer.pad_token_id)
        new = out[0, inputs["input_ids"].shape[1] :]
        labels.append(written(processor.tokenizer.decode(new, skip_special_tokens=True)))
    return labels


def ours(folder: Path, out: Path, batch_size: int, phases: Phases) -> list[str | None]:
    """The labels that `omni label` writes, and the table where it was asked to put it."""
    kept = {name: getattr(generate, name) for name in (*PHASES, "as_features")}
    for name, phase in PHASES.items():
        setattr(generate, name, phases.around(phase, kept[name]))
    generate.as_features = phases.around("towers", kept["as_features"])
    label.label([folder], out, batch_size=batch_size, progress=False)
    for name, call in kept.items():
        setattr(generate, name, call)
    return [written(text) for text in written_texts(out)]


def written_texts(table: Path) -> list[str]:
    """What `omni label` wrote."""
    return [row["text"] for row in decode_table(table.read_bytes(), table.suffix)]


def written(text: str) -> str | None:
    """The label of the space that a text gives."""
    return canonical(parse_answer(text).label or "", EKMAN7)


def bytes_a_second() -> float:
    """How fast this process reads memory: a sum over 256 MB, the best of five."""
    block = torch.ones(2**28, dtype=torch.uint8).view(torch.int64)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - start)
    return 2**28 / min(times)


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    scale = 1 if platform.system() == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, 2)


def main(
    clips: int = 32,
    batch_size: int = BATCH,
    threads: int = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last")] = False,
) -> None:
    """Run both ways and compare."""
    if threads:
        torch.set_num_threads(threads)
    our_phases, plain_phases = Phases(), Phases()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clips"
        folder.mkdir()
        paths = write_clips(folder, clips)
        with our_phases("all"):
            found = ours(folder, Path(temporary) / "table.jsonl", batch_size, our_phases)
        our_peak = peak()
        with plain_phases("all"):
            model, processor = load("default")
            expected = plain(model, processor, paths, plain_phases)
        tokens = len(processor.tokenizer("".join(written_texts(Path(temporary) / "table.jsonl")))["input_ids"])
    weights = sum(weight.nbytes for weight in model.model.language_model.parameters())  # the head's are the embeddings
    reads = tokens / min(clips, batch_size, generate.TOGETHER)  # of all weights, if no row ever waited
    limit = reads * weights / bytes_a_second()
    result = {
        "clips": clips, "batch_size": batch_size, "threads": torch.get_num_threads(),
        "cpu_seconds": {"plain": rounded(plain_phases.cpu), "ours": rounded(our_phases.cpu)},
        "seconds": {"plain": rounded(plain_phases.wall), "ours": rounded(our_phases.wall)},
        "clips_per_minute": {"plain": rate(clips, plain_phases), "ours": rate(clips, our_phases)},
        "ratio": round(plain_phases.wall["all"] / our_phases.wall["all"], 2),
        "cpu_ratio": round(plain_phases.cpu["all"] / our_phases.cpu["all"], 2),
        "labels_equal": found == expected,
        "generation_limit_seconds": round(limit, 2),
        "peak_gb": {"ours": our_peak, "both": peak()},
    }  # fmt: skip
    for name in {**our_phases.cpu, **plain_phases.cpu}:
        share = our_phases.cpu[name] / our_phases.cpu["all"]
        typer.echo(
            f"{name:20} plain {plain_phases.cpu[name]:7.2f} CPU-s   ours {our_phases.cpu[name]:7.2f} CPU-s {share:5.0%}"
        )
    typer.echo(
        f"generation           {our_phases.wall['generation']:.2f} s; reading the weights alone takes {limit:.2f} s"
    )
    typer.echo(
        f"{result['ratio']} x as fast, {result['cpu_ratio']} x fewer CPU-seconds; labels equal: {found == expected}"
    )
    if as_json:
        typer.echo(json.dumps(result))
    if found != expected:
        raise SystemExit("The labels differ.")


def rate(clips: int, phases: Phases) -> float:
    return round(60 * clips / phases.wall["all"], 1)


def rounded(counts: Counter[str]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in counts.items()}


if __name__ == "__main__":
    typer.run(main)
