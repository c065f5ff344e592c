"""What a fusion mechanism computes by itself: small tasks without a language model, on synthetic streams.

    streams -> fusion adapter (d = 32, 4 tokens) -> mean token -> linear layer -> classes

The language model's own attention is a fusion mechanism too and can hide what an adapter does; here there is none. A
*cue* is a fixed vector put on one step of a stream of noise:

    interaction   a picture cue b in {0, 1} and a sound cue c in {0, 1} at independent times; label b XOR c
    synchrony     one picture cue and one sound cue; label 1 if they come at the same time; their own times tell nothing
    dominance     the picture shows one of four classes, the sound another one; a cue in a third stream, `physio`, says
                  which of the two is the label
    redundancy    picture and sound show the same of four classes; streams are left out in training at times. Measured:
                  accuracy with one stream under noise of ten times its own, and with one left out

Why a model that does not relate streams is at chance, 0.5, on the first two: y = ±1 is independent of the picture
alone and of the sound alone, so for an additive score s = f(picture) + g(sound) the mean of y s is zero, and by Jensen
the mean of log(1 + exp(-y s)) is at least log 2, which s = 0 attains: training leads such a model to a coin. (Scores
set by hand can get three of the four cells of XOR right; the loss does not reward that.) In dominance a sum knows at
best the pair of classes: 0.5 again; the flag must multiply.

*Accuracy* is that of answers drawn from the model's probabilities, the mean probability of the true class. That of the
most probable class is nearly the same where a task is solved, but for a model that has learned to be unsure it follows
the sign of scores of a hundredth, and wanders by 0.07 from seed to seed.

Training draws new clips at every step, with one thread, one optimiser and one schedule for all mechanisms, and stops
early when two measurements in a row are at least `DONE`. *Steps to 95 %* is the first of two such measurements of 0.95.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import fmean, pstdev

import torch
from torch import Tensor, nn

from .errors import OmniError
from .fusion import AUX, MECHANISMS

WIDTHS = {"video": 12, "audio": 16, "physio": 6}
STEPS = {"video": 6, "audio": 8, "physio": 10}  # of a stream, over the whole clip
SECONDS = 3.0  # of a clip
NOISE = 0.3  # standard deviation of all streams
CUE = 2.0  # size of a cue's entries, in standard deviations of their own
FAINT = 0.5  # the same for what stands on every step
LOUD = 10.0  # noise of a stream that is drowned, in units of `NOISE`
GOOD, DONE = 0.95, 0.98  # accuracy that counts as reached; accuracy at which training stops
DROP = 0.15  # chance that a stream is left out in training, where the task wants it
INTERACTIONS = ("interaction", "synchrony", "dominance")
COLUMNS = (*INTERACTIONS, "noise", "missing")


@dataclass(frozen=True)
class Clips:
    """B clips of a task: streams {m: (B, T, D)}, their times {m: (B, T)}, labels (B,).

    trusted: which of the streams holds the label, (B,), where the task says so.
    """

    features: dict[str, Tensor]
    times: dict[str, Tensor]
    labels: Tensor
    trusted: Tensor | None = None

    def without(self, name: str, rows: Tensor | None = None) -> "Clips":
        """The same clips, a stream of them (all, or the rows chosen) gone."""
        gone = torch.full_like(self.times[name], torch.nan)
        there = self.times[name] if rows is None else torch.where(rows[:, None], gone, self.times[name])
        return replace(self, times=self.times | {name: gone if rows is None else there})


@dataclass(frozen=True)
class Task:
    """A task: how B clips of it are drawn, its classes, its streams, whether streams are left out in training."""

    draw: Callable[[int], Clips]
    classes: int
    streams: tuple[str, ...] = ("video", "audio")
    drop: float = 0.0


@dataclass(frozen=True)
class ProbeOptions:
    """How a mechanism is trained.

    Attributes:
        steps: at most so many.
        batch: clips in a step.
        rate: learning rate after a short warm-up; it falls to zero as a cosine.
        every: steps between measurements, which are on 256 clips.
        measured: fresh clips that accuracy is measured on at the end.
        width, tokens, embedding, bins: of the adapter.
    """

    steps: int = 800
    batch: int = 64
    rate: float = 3e-3
    every: int = 20
    measured: int = 1024
    width: int = 32
    tokens: int = 4
    embedding: int = 32
    bins: int = 8


@dataclass(frozen=True)
class Outcome:
    """One mechanism on one task from one seed: {column: accuracy}, steps to 95 % (None: not reached), its gate."""

    mechanism: str
    task: str
    seed: int
    scores: dict[str, float]
    steps: int | None
    gate: float | None
    seconds: float


def cues(name: str, count: int = 4) -> Tensor:
    """Fixed vectors of a stream, (count, D)."""
    seed = 7 + list(WIDTHS).index(name)
    return torch.randn(count, WIDTHS[name], generator=torch.Generator().manual_seed(seed))


def quiet(count: int, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Streams of noise, and their times: the middles of equal parts of the clip."""
    features = {m: NOISE * torch.randn(count, STEPS[m], WIDTHS[m]) for m in names}
    return features, {m: ((torch.arange(STEPS[m]) + 0.5) * SECONDS / STEPS[m]).repeat(count, 1) for m in names}


def put(features: dict[str, Tensor], name: str, which: Tensor, at: Tensor) -> None:
    """Add cue number `which` (B,) to a stream at steps `at` (B,), in place."""
    features[name][torch.arange(len(at)), at] += CUE * cues(name)[which]


def interaction(count: int) -> Clips:
    """XOR of a picture cue and a sound cue at independent times."""
    features, times = quiet(count, ("video", "audio"))
    b, c = torch.randint(2, (2, count))
    for name, which in (("video", b), ("audio", c)):
        put(features, name, which, torch.randint(STEPS[name], (count,)))
    return Clips(features, times, b ^ c)


def synchrony(count: int) -> Clips:
    """Whether two cues coincide. Each one's time is uniform for both labels."""
    features, times = quiet(count, ("video", "audio"))
    label, seen = torch.randint(2, (count,)), torch.randint(STEPS["video"], (count,))
    other = (seen + torch.randint(1, STEPS["video"], (count,))) % STEPS["video"]
    heard = torch.where(label.bool(), seen, other)  # in frames
    cue = torch.zeros(count, dtype=torch.long)
    put(features, "video", cue, seen)
    put(features, "audio", cue, ((heard + 0.5) * STEPS["audio"] / STEPS["video"]).long())
    return Clips(features, times, label)


def dominance(count: int) -> Clips:
    """Picture and sound show different classes, and the third stream says which one counts."""
    features, times = quiet(count, ("video", "audio", "physio"))
    shown = torch.randint(4, (count,))
    said = (shown + torch.randint(1, 4, (count,))) % 4
    trusted = torch.randint(2, (count,))
    features["video"] += FAINT * cues("video")[shown][:, None]
    features["audio"] += FAINT * cues("audio")[said][:, None]
    put(features, "physio", trusted, torch.randint(STEPS["physio"], (count,)))
    return Clips(features, times, torch.where(trusted.bool(), said, shown), trusted)


def redundancy(count: int) -> Clips:
    """Picture and sound show the same class."""
    features, times = quiet(count, ("video", "audio"))
    label = torch.randint(4, (count,))
    for name in features:
        features[name] += FAINT * cues(name)[label][:, None]
    return Clips(features, times, label)


TASKS = {
    "interaction": Task(interaction, 2),
    "synchrony": Task(synchrony, 2),
    "dominance": Task(dominance, 4, ("video", "audio", "physio")),
    "redundancy": Task(redundancy, 4, drop=DROP),
}


class Probe(nn.Module):
    """A fusion mechanism with a linear layer on its mean token.

    Args:
        mechanism: a key of `MECHANISMS`.
        task: a key of `TASKS`.
    """

    def __init__(self, mechanism: str, task: str, options: ProbeOptions = ProbeOptions()):
        super().__init__()
        widths = {m: WIDTHS[m] for m in TASKS[task].streams}
        o = options
        self.fusion = MECHANISMS[mechanism](widths, o.embedding, o.tokens, width=o.width, bins=o.bins)
        self.classify = nn.Linear(o.embedding, TASKS[task].classes)

    def forward(self, clips: Clips) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """Logits (B, classes), the auxiliary loss, and the gate."""
        fused = self.fusion(clips.features, clips.times)
        return self.classify(fused.tokens.mean(1)), fused.aux, fused.gates


def accuracy(model: nn.Module, clips: Clips) -> float:
    """Expected share of right answers, each drawn from the model's probabilities."""
    return float(model(clips)[0].softmax(-1).gather(1, clips.labels[:, None]).mean())


def train(model: nn.Module, task: Task, options: ProbeOptions) -> int | None:
    """Train in place; returns the steps to 95 %, or None if they were not enough."""
    rate = torch.optim.lr_scheduler.OneCycleLR
    optimizer = torch.optim.AdamW(model.parameters(), options.rate, weight_decay=1e-3)
    schedule = rate(optimizer, options.rate, total_steps=options.steps, pct_start=0.1)
    check, found = task.draw(256), [0.0]
    for step in range(1, options.steps + 1):
        clips = dropped(task.draw(options.batch), task)
        logits, aux, _ = model.train()(clips)
        loss = nn.functional.cross_entropy(logits, clips.labels) + AUX * aux
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % options.every == 0:
            with torch.no_grad():
                found.append(accuracy(model.eval(), check))
            if min(found[-2:]) >= DONE:
                break
    model.eval()
    return next((i * options.every for i in range(1, len(found) - 1) if min(found[i : i + 2]) >= GOOD), None)


def dropped(clips: Clips, task: Task) -> Clips:
    """Clips with one stream left out of some, where the task says so."""
    lot = torch.rand(len(clips.labels))
    for i, name in enumerate(task.streams if task.drop else ()):
        clips = clips.without(name, (lot >= i * task.drop) & (lot < (i + 1) * task.drop))
    return clips


@torch.no_grad()
def measure(model: nn.Module, task: str, count: int = 1024) -> tuple[dict[str, float], float | None]:
    """Accuracy on fresh clips by column, and the gate's mean weight of the stream that holds the label."""
    clips = TASKS[task].draw(count)
    if task != "redundancy":
        gates = model(clips)[2]
        trust = None if gates is None or clips.trusted is None else gates.gather(1, clips.trusted[:, None])
        return {task: accuracy(model, clips)}, None if trust is None else float(trust.mean())
    names = TASKS[task].streams
    noise = {m: LOUD * NOISE * torch.randn_like(clips.features[m]) for m in names}
    drowned = [replace(clips, features=clips.features | {m: clips.features[m] + noise[m]}) for m in names]
    scores = {
        "clean": accuracy(model, clips),
        "noise": fmean(accuracy(model, c) for c in drowned),
        "missing": fmean(accuracy(model, clips.without(m)) for m in names),
    }
    return scores, None


def run(mechanism: str, task: str, seed: int, options: ProbeOptions = ProbeOptions()) -> Outcome:
    """Train and measure one mechanism on one task from one seed; the same numbers every time."""
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Probe(mechanism, task, options)
        steps = train(model, TASKS[task], options)
        torch.manual_seed(1_000 + seed)
        scores, gate = measure(model, task, options.measured)
    return Outcome(mechanism, task, seed, scores, steps, gate, time.perf_counter() - started)


def outcomes(
    mechanisms: Sequence[str] = (), seeds: int = 3, options: ProbeOptions = ProbeOptions(), jobs: int | None = None
) -> Iterator[Outcome]:
    """Every mechanism on every task from every seed, as they are done.

    Args:
        mechanisms: keys of `MECHANISMS`; all, if none is named.
        jobs: processes of one thread each; None: one for each core.

    Raises:
        OmniError: a mechanism is unknown, or there are no seeds.
    """
    unknown = [name for name in mechanisms if name not in MECHANISMS]
    if unknown:
        raise OmniError(f"Unknown fusion {unknown[0]!r}. Choose of: {', '.join(MECHANISMS)}.", code="fusion")
    if seeds < 1:
        raise OmniError(f"Got {seeds} seeds. Give one or more.", code="seeds")
    work = [(m, task, seed) for m in mechanisms or MECHANISMS for task in TASKS for seed in range(seeds)]
    jobs = min(jobs or os.cpu_count() or 1, len(work))
    if jobs == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield from (run(*item, options) for item in work)
        torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(run, *zip(*work, strict=True), [options] * len(work))


def rows(found: Sequence[Outcome]) -> list[dict]:
    """One row for each mechanism: means over seeds, their spread (standard deviation), steps to 95 % of each seed."""
    return [row([o for o in found if o.mechanism == name]) for name in dict.fromkeys(o.mechanism for o in found)]


def row(found: Sequence[Outcome]) -> dict:
    """The row of one mechanism."""
    kind = MECHANISMS[found[0].mechanism]
    scores = {c: [o.scores[c] for o in found if c in o.scores] for c in COLUMNS}
    gates = [o.gate for o in found if o.gate is not None]
    return {
        "mechanism": found[0].mechanism,
        "stage": kind.stage,
        **{c: round(fmean(values), 4) for c, values in scores.items()},
        "spread": {c: round(pstdev(values), 4) for c, values in scores.items()},
        "steps": {task: [o.steps for o in found if o.task == task] for task in TASKS},
        "gate": round(fmean(gates), 4) if gates else None,
        "seeds": len({o.seed for o in found}),
        "seconds": round(sum(o.seconds for o in found), 1),
    }


def table(found: Sequence[dict]) -> str:
    """Rows as a Markdown table: accuracy ± spread over seeds, and the mean steps to 95 % (–: not from every seed)."""
    heads = ["mechanism", *COLUMNS, "steps to 95 %: " + " / ".join(INTERACTIONS), "gate"]
    lines = [heads, ["---"] * len(heads), *(cells(r) for r in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(found: dict) -> list[str]:
    """The cells of one row."""
    scores = [f"{found[c]:.2f} ± {found['spread'][c]:.2f}" for c in COLUMNS]
    taken = [found["steps"][task] for task in INTERACTIONS]
    steps = " / ".join("–" if None in each else f"{fmean(each):.0f}" for each in taken)
    return [f"`{found['mechanism']}`", *scores, steps, "–" if found["gate"] is None else f"{found['gate']:.2f}"]
