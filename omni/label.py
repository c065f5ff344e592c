"""Many clips in, one table out: a row for every clip and question.

    sources ─► clips, questions ─► sha256 ─► known? ─► read, encode ─► batches ─► answers ─► rows ─► OUT.journal, synced
                                                                     all there? ─► OUT, in the order of the sources

Clips are read by a process of their own (`clip_reader.py`), ahead of the model: while it answers one batch the next is
decoded. A clip is encoded as soon as its turn comes, so that no more pictures are kept than of the clips ahead.

The journal beside the table, a JSON object a line, is where the work is safe: the rows of a batch are on the disk
before the next batch starts, so a run that is killed at any time loses one batch at most, and the same command goes on.
The table is made of the journal when all its rows are there, and appears under its name in one step.

A row is known by the sha256 of the clip's bytes and the question, not by the path: a renamed clip is not labelled
again, and a copy of a clip gets the answer of the first at no cost. A clip that cannot be read or answered becomes a
row with its error (known by its path too, as the message names the file) and stops nothing; `retry_errors` tries these
again.

A journal holds answers of one model, label space, way of asking and seed; others are refused. Journals of shards are
put together by writing one after the other into one file: lines are all there is to them.

How clips become rows: `label_run.py`. What is in a row: `label_row.py`. What a source is: `label_sources.py`. At the
end the rows of all clips are in memory.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .answer import Answer
from .calibration import UNCERTAIN, leading
from .clip import Clip, Limits
from .emotions import LabelSpace, label_space
from .errors import ManifestError, OmniError
from .journal import Row, appending, printable, replace_file
from .label_journal import Key, Known, journal_of, read_journal
from .label_parts import new_rows, parts_of, remove_parts
from .label_progress import progress as progressing
from .label_row import COLUMNS, Task, asked_text
from .label_run import Ahead, Batches, Labeller, Run
from .label_sources import Shard, Wanted, find_clips
from .label_table import check_format, decode_table, encode_table
from .lock import locked
from .predictions import OPEN, ModelId, fingerprint

TOLD = 3  # errors that are printed at the end
KEPT = 64  # clips whose encoding is kept for another question: some 100 kB each
TIMEOUT = 90.0  # s for reading one clip: the 30 s of `Limits` and a tenth of its 600 s
STOPPING = b"\nomni: finishing the batch in flight. Ctrl-C once more stops at once.\n"


class LabelSummary(NamedTuple):
    """What became of the clips: answered now, errors (old and new), answered before, not reached (interrupted)."""

    ok: int
    errors: int
    known: int
    left: int = 0
    messages: tuple[str, ...] = ()  # of the errors


class Work(NamedTuple):
    """What other processes need to know to label clips of a run."""

    task: Task
    limits: Limits
    timeout: float  # s for reading a clip
    batch_size: int | None
    parts: Path  # the folder where they write what is done
    folder: Path  # where relative paths start
    is_offline: bool  # a model is to be loaded without any request


Engine = Callable[[Task, Limits, float], AbstractContextManager[Labeller]]  # the float: s for reading a clip
Rows = Callable[[Sequence[Wanted]], Iterator[list[Row]]]  # as `Run.rows`
Spread = Callable[[Work, Known, Callable[[], bool]], AbstractContextManager[Rows]]  # the last: whether to stop


def label(
    sources: Iterable[str | Path],
    out: str | Path,
    *,
    model: str = "default",
    labels: LabelSpace | str | Sequence[str] = "ekman7",
    open_vocabulary: bool = False,
    think: bool = True,
    question: str | None = None,
    batch_size: int | None = None,
    shard: Shard | None = None,
    limit: int | None = None,
    retry_errors: bool = False,
    seed: int = 0,
    dtype: str = "auto",
    limits: Limits | None = None,
    clip_timeout: float = TIMEOUT,
    report: str | Path | None = None,
    abstain_below: float = 0.0,
    progress: bool = True,
    labeller: Labeller | None = None,
    engine: Engine | None = None,
    spread: Spread | None = None,
) -> LabelSummary:
    """Label clips into a table; call it again to resume.

    Args:
        sources: as `find_clips` takes them.
        out: the table, .jsonl, .csv or .parquet; beside it come OUT.journal, and OUT.lock while it runs.
        model: as `omni.loading.load` takes it; loaded only if a clip is left to label.
        labels: the label space, unless `open_vocabulary` lets the model choose its words.
        think: ask for reasons before the answer.
        question: in place of the model's own; a question in a manifest goes first.
        batch_size: clips that go through the model together; None is `label_run.BATCH`. Halved when memory runs out.
        shard: take only a part of the clips.
        limit: take only the first so many clips of the sources, before the shard is taken.
        retry_errors: try clips again whose row has an error.
        seed: of sampling. Decoding is greedy, so it changes nothing yet; it is written down.
        dtype: as `omni.loading.load` takes it.
        limits: what a clip may cost.
        clip_timeout: seconds for reading one clip.
        report: a page of HTML about the table, written after it.
        abstain_below: the table says "uncertain" where the best label is less probable; the journal keeps the label, so
            that the same command with another limit makes another table without asking again.
        progress: say on stderr how far it is.
        labeller: in place of the model.
        engine: what answers in place of a model in this process, which then has no hash: `label_openai.remote`.
        spread: what has the clips labelled by other processes: `label_ray.actors`.

    Raises:
        ClipError: a source without clips.
        LabelError: an unknown label space.
        ManifestError: the table, its journal or a manifest is not as it should be, or another process writes it.
        ModelError: the model cannot be loaded; as `ServerError`, the server of an engine cannot be used.
    """
    out = Path(out)
    check_format(out)
    if batch_size is not None and batch_size < 1:
        raise OmniError(f"The batch size is {batch_size}. Give 1 or more, or auto.", code="bad_argument")
    space = OPEN if open_vocabulary else label_space(labels)
    clips = find_clips(sources, question)[:limit]
    clips = shard.of_these(clips) if shard else clips
    model_id = ModelId(str(model), "") if engine else fingerprint(str(model))
    task = Task(space, model_id, think, seed, dtype)
    limits = limits or Limits()
    with locked(out), ExitStack() as stack:
        known = read_journal(out, task, retry_errors, limits.file_bytes)
        advance = stack.enter_context(progressing(len(clips), progress))
        stopped = stack.enter_context(_interruptible())
        write = stack.enter_context(appending(journal_of(out)))
        if found := new_rows(out, task, known, retry_errors):
            write(found)
        before = set(known.answers)

        ahead = Ahead(task)

        @cache
        def start() -> Labeller:
            found = labeller or stack.enter_context((engine or loaded)(task, limits, clip_timeout))
            stack.callback(ahead.drop)  # called first, so that no clip is begun when the reader is ended
            return found

        rows_of: Rows = Run(known, task, start, stopped, Batches(batch_size), ahead).rows
        if spread:
            places = parts_of(out).absolute(), Path.cwd()
            work = Work(task, limits, clip_timeout, batch_size, *places, "HF_HUB_OFFLINE" in os.environ)
            rows_of = stack.enter_context(spread(work, known, stopped))
        for rows in rows_of(clips):
            if rows:
                write(rows)
            advance(max(1, len(rows)), len(rows), sum(row["status"] == "error" for row in rows))
        summary = _summary(clips, known, before)
        if not summary.left:
            _finish(out, clips, known, Path(report) if report else None, limits, clip_timeout, abstain_below)
            remove_parts(out)
    return summary


def parse_batch_size(text: str) -> int | None:
    """What "auto" or "8" means.

    >>> parse_batch_size("auto"), parse_batch_size("8")
    (None, 8)
    """
    if text == "auto":
        return None
    if text.isdecimal() and int(text):
        return int(text)
    raise OmniError(f"The batch size is '{text}'. Give 1 or more, or auto.", code="bad_argument")


def told(summary: LabelSummary, out: Path) -> list[str]:
    """What a run has done, in lines.

    >>> told(LabelSummary(2, 1, 4, 0, ("a.mp4 is damaged.",)), Path("t.csv"))
    ['error: a.mp4 is damaged.', '2 labelled, 1 errors, 4 in the table already: t.csv']
    """
    lines = [f"error: {message}" for message in summary.messages[:TOLD]]
    more = summary.errors - TOLD
    lines += [f"and {more} more, see {out}"] if more > 0 else []
    left = f", {summary.left} left" if summary.left else ""
    counts = f"{summary.ok} labelled, {summary.errors} errors, {summary.known} in the table already{left}: {out}"
    return [*lines, counts]


def clip_limits(seconds: float | None, pixels: int | None, file_bytes: int | None, timeout: float) -> Limits:
    """`Limits` with other numbers for what they are mostly asked for; None keeps the usual one.

    What grows with the length of a clip (pictures, packets, sound) is allowed in proportion.
    """
    usual = Limits()
    seconds = usual.seconds if seconds is None else seconds
    more = max(1.0, seconds / usual.seconds)
    return Limits(
        file_bytes=file_bytes or usual.file_bytes,
        seconds=seconds,
        pixels=pixels or usual.pixels,
        image_pixels=pixels or usual.image_pixels,
        frames=round(usual.frames * more),
        audio_bytes=round(usual.audio_bytes * more),
        packets=round(usual.packets * more),
        wall_seconds=timeout,
    )


# ---- answers ----


@contextmanager
def loaded(task: Task, limits: Limits, timeout: float) -> Iterator[Labeller]:
    """The model and a process that reads clips for it. Its errors are not those of a clip: they end the run."""
    from .clip_reader import ClipReader
    from .generate import as_features, reason_batch
    from .loading import load

    model, processor = load(task.model.name, dtype=task.dtype)
    encoded: dict[str, Any] = {}  # sha256 → ClipFeatures

    def encode(clips: Sequence[Clip]) -> Sequence[Any]:
        new = {clip.sha256: clip for clip in clips if clip.sha256 not in encoded}
        encoded.update(zip(new, as_features(model, processor, list(new.values())), strict=True))
        found = [encoded[clip.sha256] for clip in clips]
        for sha256 in list(encoded)[:-KEPT]:
            del encoded[sha256]
        return found

    def answer(clips: Sequence[Any], question: str | None) -> Sequence[Answer]:
        options = {"labels": task.space, "think": task.think, "seed": task.seed}
        answers: list[Answer] = reason_batch(model, processor, clips, question=question, **options)
        return answers

    def prompt(question: str | None, answer: Answer) -> str:
        return asked_text(processor, question, task, answer)

    how = {"frames": processor.frames, "sampling": processor.sampling, "limits": limits, "timeout": timeout}
    with ClipReader(**how) as reader:
        yield Labeller(reader.read, answer, prompt, processor.question, encode=encode)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether to stop, after Ctrl-C or a request to end; the second of them stops at once."""
    stop = threading.Event()

    def note(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(OSError):
            os.write(2, STOPPING)  # print is not safe here: it may be what was interrupted

    in_main = threading.current_thread() is threading.main_thread()  # no other may set handlers
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if in_main}
    try:
        yield stop.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


# ---- the end ----


def _summary(clips: Sequence[Wanted], known: Known, before: set[Key]) -> LabelSummary:
    reached = [known.todo(clip) for clip in clips if clip.path in known.hashes]  # to hash the others would take long
    found = [(todo, row) for todo in reached if (row := known.row(todo))]
    good = [todo for todo, row in found if row["status"] == "ok"]
    old = sum(todo.key in before for todo in good)
    messages = tuple(row["error"]["message"] for _, row in found if row["status"] == "error")
    return LabelSummary(len(good) - old, len(messages), old, len(clips) - len(found), messages)


def _finish(
    out: Path,
    clips: Sequence[Wanted],
    known: Known,
    report: Path | None,
    limits: Limits,
    timeout: float,
    abstain_below: float,
) -> None:
    """Put the table in its place, and the page about it."""
    rows = []
    for clip in clips:
        row = known.row(known.todo(clip))
        assert row is not None
        sure = row["confidence"] is None or row["confidence"] >= abstain_below
        said = {} if sure else {"label": UNCERTAIN, "leading": list(leading(row["labels"]))}
        rows.append({name: row.get(name) for name in COLUMNS} | said | {"clip": printable(clip.path)} | clip.extra)
    replace_file(out, _encoded(rows, out))
    if report:
        from .clip_reader import ClipReader
        from .label_report import report as page

        report.parent.mkdir(parents=True, exist_ok=True)
        with ClipReader(limits=limits, timeout=timeout) as reader:
            replace_file(report, page(rows, [clip.path for clip in clips], reader.read).encode())


def _encoded(rows: Sequence[Row], out: Path) -> bytes:
    """The bytes of a table, which have been read back.

    Raises:
        ManifestError: they cannot be: a column that passes through holds what the format does not.
    """
    suffix = out.suffix.lower()
    failure: Exception | None = None
    try:
        content = encode_table(rows, suffix)
        if len(decode_table(content, suffix)) == len(rows):
            return content
    except Exception as err:  # the boundary to csv, json and pyarrow, whose errors have no class in common
        failure = err
    raise ManifestError(
        f"{out} could not be read back and is not written; its rows are in {journal_of(out)}. Give another format.",
        code="unreadable",
    ) from failure
