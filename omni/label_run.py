"""Labelling under way: clips are read ahead, encoded, put into batches and answered; rows come out.

    Run.rows ─► Ahead (a thread reads) ─► encoded, `ENCODED` together ─► Batches ─► answers ─► rows of the journal

What fails becomes the row of that clip, at whichever step: one clip spoils no other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .answer import Answer
from .clip import display_name
from .errors import ClipError, ServerError
from .journal import Row
from .label_journal import Key, Known, Todo, entry
from .label_row import Task, clip_row, error_row, is_memory
from .label_sources import Wanted

ENCODED = 16  # clips that are encoded together, and read ahead of those: their pictures are in memory
BATCH = 32  # clips in a batch that "auto" stands for


class Labeller(NamedTuple):
    """What labelling needs of a model; a test gives its own."""

    read: Callable[[Path], Any]  # a Clip, or what has its `sha256`; called in a thread of its own
    answer: Callable[[Sequence[Any], str | None], Sequence[Answer | Exception]]  # encoded clips, question → one each
    prompt: Callable[[str | None, Answer], str]  # question, answer → the text that the model was asked with
    question: str  # the model's own
    batch_size: int = BATCH  # what "auto" stands for
    encode: Callable[[Sequence[Any]], Sequence[Any]] = tuple  # what is kept of clips until they are answered


class Read(NamedTuple):
    """A clip that waits for its batch, as it was read or encoded, and how long that took."""

    todo: Todo
    clip: Any
    seconds: float


@dataclass
class Run:
    """Labelling under way.

    Attributes:
        known: rows so far.
        start: the labeller, loaded when it is first called.
        stopped: says whether to end before the next batch.
        batches: encoded clips that wait for an answer.
        ahead: clips that are being read.
    """

    known: Known
    task: Task
    start: Callable[[], Labeller]
    stopped: Callable[[], bool]
    batches: Batches
    ahead: Ahead

    def rows(self, clips: Sequence[Wanted]) -> Iterator[list[Row]]:
        """New rows of the journal as they are done, batch by batch; [] for a clip whose row is known already.

        All questions about a clip follow each other, so that it is read once. A copy of a clip that is waiting for its
        answer is put off to a second round: if that was an error, it is tried under its own name. Clips without a hash,
        such as missing files, are no copies of each other.
        """
        left = by_clip(clips)
        while left:
            copies = []
            for clip in left:
                todo = self.known.todo(clip)
                if self.known.row(todo):
                    yield []
                elif todo.key[0] and (self.ahead.hold(todo.key) or self.batches.hold(todo.key)):
                    copies.append(clip)
                elif self.stopped():
                    return
                else:
                    self.batches.size = self.batches.size or self.start().batch_size
                    self.ahead.add(todo, self.start())
                    yield from self._taken(2 * ENCODED)
            yield from self._taken(1)
            yield from self._answered(self.batches.rest())
            left = copies

    def _taken(self, least: int) -> Iterator[list[Row]]:
        """New rows, as long as so many clips are ahead: errors, and batches that have become full."""
        while len(self.ahead.reads) >= least and not self.stopped():
            reads = [self.ahead.take() for _ in range(min(ENCODED, len(self.ahead.reads)))]
            for read in _encoded(reads, self.task, self.start()):
                if not isinstance(read, Read):
                    yield self.known.added([read])
                elif batch := self.batches.add(read):
                    yield from self._answered([batch])

    def _answered(self, full: Iterable[list[Read]]) -> Iterator[list[Row]]:
        for batch in full:
            if self.stopped():
                return
            yield self.known.added(_answer(batch, self.task, self.start(), self.batches.shrink))


def by_clip(clips: Sequence[Wanted]) -> list[Wanted]:
    """In the order of the clips, all questions about one after the other."""
    first = {clip.path: place for place, clip in reversed(list(enumerate(clips)))}
    return sorted(clips, key=lambda clip: first[clip.path])


class Ahead:
    """Clips that are being read, in their order, by a thread of its own."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.reads: deque[tuple[Key, Future[Read | Row]]] = deque()
        self.thread = ThreadPoolExecutor(1)
        self.last: Read | None = None

    def drop(self) -> None:
        """Read no more."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    def add(self, todo: Todo, labeller: Labeller) -> None:
        self.reads.append((todo.key, self.thread.submit(self._read, todo, labeller)))

    def take(self) -> Read | Row:
        """The first clip, or the row that says why there is none."""
        return self.reads.popleft()[1].result()

    def hold(self, key: Key) -> bool:
        """Whether a content with a question is among them."""
        return any(held == key for held, _ in self.reads)

    def _read(self, todo: Todo, labeller: Labeller) -> Read | Row:
        """A clip is not read again for its next question."""
        if self.last is not None and self.last.todo.path == todo.path:
            return Read(todo, self.last.clip, 0.0)
        found = _read(todo, self.task, labeller)
        self.last = found if isinstance(found, Read) else None
        return found


class Batches:
    """Clips that wait for an answer, by question, of which a batch has one."""

    def __init__(self, size: int | None) -> None:
        self.size = size or 0
        self.waiting: dict[str | None, list[Read]] = {}

    def add(self, read: Read) -> list[Read]:
        """A batch that is ready, or []. With many questions the longest one goes when twice a batch waits."""
        same = self.waiting.setdefault(read.todo.key[1], [])
        same.append(read)
        if len(same) >= self.size or sum(map(len, self.waiting.values())) >= 2 * self.size:
            longest = max(self.waiting, key=lambda question: len(self.waiting[question]))
            return self.waiting.pop(longest)
        return []

    def rest(self) -> Iterator[list[Read]]:
        while self.waiting:
            yield self.waiting.popitem()[1]

    def hold(self, key: Key) -> bool:
        """Whether a content with a question waits already."""
        return any(read.todo.key == key for read in self.waiting.get(key[1], ()))

    def shrink(self, size: int) -> None:
        self.size = min(self.size, size)


def _read(todo: Todo, task: Task, labeller: Labeller) -> Read | Row:
    """A clip, or the row that says why there is none."""
    started = time.perf_counter()
    try:
        clip = labeller.read(todo.path)
        if clip.sha256 != todo.key[0]:
            name = display_name(todo.path)
            raise ClipError(f"{name} was changed while it was read. Label it when it is whole.", code="changed")
    except Exception as err:  # the row is the boundary
        return entry(todo, task, error_row(todo.job(labeller.question), task, err, time.perf_counter() - started))
    return Read(todo, clip, time.perf_counter() - started)


def _encoded(reads: Sequence[Read | Row], task: Task, labeller: Labeller) -> list[Read | Row]:
    """Clips as the model takes them, or the rows that say why there are none. One that fails spoils no other."""
    clips = [read for read in reads if isinstance(read, Read)]
    started = time.perf_counter()
    try:
        encoded = labeller.encode([read.clip for read in clips])
    except Exception as err:  # the row is the boundary
        if len(reads) > 1:
            return [done for read in reads for done in _encoded([read], task, labeller)]
        seconds = clips[0].seconds + time.perf_counter() - started
        return [entry(clips[0].todo, task, error_row(clips[0].todo.job(labeller.question), task, err, seconds))]
    share = (time.perf_counter() - started) / max(1, len(clips))
    done = iter([Read(read.todo, x, read.seconds + share) for read, x in zip(clips, encoded, strict=True)])
    return [next(done) if isinstance(read, Read) else read for read in reads]


def _answer(batch: Sequence[Read], task: Task, labeller: Labeller, shrink: Callable[[int], None]) -> list[Row]:
    """Rows of a batch. If it fails as a whole, its halves are tried: one bad clip spoils no other.

    Args:
        shrink: is told the size of a half if memory ran out.
    """
    question, started = batch[0].todo.key[1], time.perf_counter()
    answers: Sequence[Answer | Exception] = ()
    failure: Exception | None = None
    try:
        answers = labeller.answer([read.clip for read in batch], question)
    except ServerError:
        raise
    except Exception as err:  # the row is the boundary
        failure = err.with_traceback(None)  # which would hold what filled the memory
    seconds = (time.perf_counter() - started) / len(batch)
    half = len(batch) // 2
    if failure and half:
        if is_memory(failure):
            shrink(half)
        return [row for part in (batch[:half], batch[half:]) for row in _answer(part, task, labeller, shrink)]
    answers = [failure] if failure else answers
    rows = []
    for read, answer in zip(batch, answers, strict=True):
        job, took = read.todo.job(labeller.question), read.seconds + seconds
        if isinstance(answer, Exception):
            row = error_row(job, task, answer, took)
        else:
            row = clip_row(job, task, answer, took, labeller.prompt(question, answer))
        rows.append(entry(read.todo, task, row))
    return rows
