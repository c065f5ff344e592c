"""The one thread in which the model runs, for all requests at once.

    jobs ─► a queue ─► prompt run, but for what is known of it ─► a row of `Rows` ─► one step for all rows, and again
         ◄─ pieces of text, as they are written ◄─ … ◄─ the answer with its probabilities, when a row ends

Between two steps one more job may join and rows may leave, so a short answer never waits for a long one, and an answer
whose client has gone is dropped at the next step. Prompts that were run are kept, the last ones up to `PAST_BYTES`: a
conversation that is sent again with one more question runs that question alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ..answer import Answer, format_answer
from ..chat import Piece, Said, Writing, clip_name, context, prompt_inputs, settle
from ..decoding import Past, Row, Rows, advance, best_past, shared
from ..emotions import LabelSpace
from ..errors import ModelError, OmniError
from ..features import ClipFeatures
from ..generate import LABEL_AT, Written, score_labels, temperature_of
from ..looks import Looks, looks_of
from ..rollout import Sampling
from .metrics import Metrics
from .settings import MB, Settings

PAST_BYTES = 256 * MB  # of keys and values that are kept for conversations that may go on
CHARACTERS = 16  # of a token at most, on average: a longer conversation is refused before its tokens are counted
log = logging.getLogger("omni.serve")


@dataclass(frozen=True)
class Finished:
    """The end of an answer.

    Attributes:
        answer: what was written, with the probabilities.
        ended: "stop" or "length".
        prompt, reused, written, thought: counts of tokens.
    """

    answer: Answer
    ended: str
    prompt: int
    reused: int
    written: int = 0
    thought: int = 0


class Gone(Exception):
    """The client has left."""


Event = Piece | Finished | Exception


class Line:
    """Between one request in the event loop and the model's thread.

    Attributes:
        gone: the client has left; the answer is given up.
        is_streamed: the answer goes on after the request was handled.
    """

    def __init__(self) -> None:
        self.gone = self.is_streamed = False
        self.started = time.monotonic()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event) -> None:
        """From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def hang_up(self) -> None:
        """Nobody listens any more."""
        self.gone = True
        self._events.put_nowait(Gone())

    async def next(self) -> Piece | Finished:
        """The next event; an error is raised."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


@dataclass(eq=False)
class Job:
    """One question.

    Attributes:
        said: the conversation, its last message the question.
        sampling: how the answer is written; None for the probabilities alone.
        top: most probable tokens to give with each; None for no log-probabilities.
    """

    line: Line
    clip: ClipFeatures
    said: Sequence[Said]
    space: LabelSpace
    think: bool
    sampling: Sampling | None
    seed: int = 0
    stop: tuple[str, ...] = ()
    top: int | None = None


@dataclass(eq=False)
class _Active:
    """A job that is being written."""

    job: Job
    writing: Writing
    prompt: list[int]
    reused: int
    looks: Looks


@dataclass
class ModelThread:
    """Runs the model for jobs until it is stopped."""

    model: Any
    processor: Any
    settings: Settings
    metrics: Metrics
    inbox: SimpleQueue[Job | None] = field(default_factory=SimpleQueue)
    active: dict[Row, _Active] = field(default_factory=dict)
    pasts: list[Past] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = Rows(self.model)
        self.thread = Thread(target=self.run, name="omni-model", daemon=True)

    def submit(self, job: Job) -> None:
        """Queue a job; its line is told what becomes of it."""
        self.metrics.queue.inc()
        self.inbox.put(job)

    def stop(self) -> None:
        """Give up what is left, and end the thread."""
        self.inbox.put(None)
        self.thread.join()

    def run(self) -> None:
        """What the thread does."""
        while True:
            if len(self.active) < self.settings.rows:
                try:
                    job = self.inbox.get(block=not self.active)
                except Empty:
                    pass
                else:
                    if job is None:
                        return
                    self._begin(job)
            try:
                self._step()
            except Exception as err:  # a boundary: the jobs under way fail, later ones are taken
                self._fail(err)

    def _begin(self, job: Job) -> None:
        self.metrics.queue.dec()
        if job.line.gone:
            self.metrics.cancelled.inc()
            return
        try:
            self._join(job)
        except Exception as err:  # a boundary: this job fails, the others go on
            job.line.tell(_logged(err))

    def _join(self, job: Job) -> None:
        most = CHARACTERS * context(self.model)
        if sum(len(message.text) for message in job.said) > most:
            message = f"The conversation has more than {most} characters. Leave out its oldest turns."
            raise ModelError(message, code="context_length_exceeded")
        inputs = prompt_inputs(self.model, self.processor, job.clip, job.said, job.space, job.think)
        ids = inputs["input_ids"][0].tolist()
        length = job.sampling.length if job.sampling else 0
        over = len(ids) + length - context(self.model)
        if over > 0:
            message = f"The conversation is {over} tokens too long. Leave out its oldest turns, or lower max_tokens."
            raise ModelError(message, code="context_length_exceeded")
        name = clip_name(self.processor, job.clip, job.said, job.space, job.think)
        ran = advance(self.model, inputs, name, best_past(self.pasts, name, ids))
        looks = looks_of(self.model, inputs)[0]
        self.metrics.prompt_tokens.inc(len(ids))
        self.metrics.reused_tokens.inc(ran.reused)
        if job.sampling is None:
            prompt, warmth = [Written(ids, ran.past)], temperature_of(self.model, job.think)
            found = score_labels(self.model, self.processor, prompt, [LABEL_AT], job.space, warmth)[0]
            self._keep(ran.past)
            job.line.tell(Finished(_scored(job, found, looks), "stop", len(ids), ran.reused))
            self.metrics.whole.observe(time.monotonic() - job.line.started)
            return
        try:
            row = self.rows.join(ran, job.sampling, seed=job.seed, top=job.top)
        except Exception as err:
            self._fail(err)  # the rows may be half changed
            raise
        self.active[row] = _Active(job, Writing(self.processor.tokenizer, row, job.stop), ids, ran.reused, looks)
        self.metrics.first.observe(time.monotonic() - job.line.started)
        self._pass_on(row)

    def _step(self) -> None:
        """One more token in every row whose client is there."""
        for row in [row for row, active in self.active.items() if active.job.line.gone]:
            self.metrics.cancelled.inc()
            self._keep(self.rows.leave(row))
            del self.active[row]
        self.metrics.running.set(len(self.active))
        if not self.active:
            return
        self.rows.step()
        self.metrics.steps.inc()
        for row in list(self.active):
            self._pass_on(row)

    def _pass_on(self, row: Row) -> None:
        """Tell what a row's newest token makes certain, and the answer if it was the last."""
        active = self.active[row]
        line = active.job.line
        self.metrics.written_tokens.inc()
        for piece in active.writing.take():
            line.tell(piece)
        if not active.writing.ended:
            return
        del self.active[row]
        past = self.rows.leave(row)
        try:
            line.tell(self._finished(active, past, len(row.written)))
        except Exception as err:  # a boundary, as above
            line.tell(_logged(err))
        self._keep(past)
        self.metrics.whole.observe(time.monotonic() - line.started)

    def _finished(self, active: _Active, past: Past, written: int) -> Finished:
        job, writing = active.job, active.writing
        how = (job.space, job.think, active.looks)
        answer = settle(self.model, self.processor, job.clip, active.prompt, writing, past, *how)
        return Finished(
            answer, writing.ended or "stop", len(active.prompt), active.reused, written, writing.thought_tokens
        )

    def _fail(self, err: Exception) -> None:
        for active in self.active.values():
            active.job.line.tell(_logged(err))
        self.active.clear()
        self.rows = Rows(self.model)

    def _keep(self, past: Past) -> None:
        """Remember what was run, in place of what it continues, and the last ones of all."""
        mine = [p for p in self.pasts if p.clip == past.clip and shared(p.ids, past.ids) == len(p.ids)]
        self.pasts = [p for p in self.pasts if not any(p is other for other in mine)] + [past]
        while len(self.pasts) > 1 and sum(p.size for p in self.pasts) > PAST_BYTES:
            del self.pasts[0]


def _scored(job: Job, found: dict[str, float], looks: Looks) -> Answer:
    """An answer of probabilities alone."""
    best = max(found, key=found.__getitem__)
    clip = job.clip
    facts: dict[str, Any] = {"warnings": clip.warnings, "duration_s": clip.duration, "transcript": clip.transcript}
    facts |= looks._asdict()
    return Answer(best, found[best], found, "", format_answer(best), True, clip.modalities, **facts)


def _logged(err: Exception) -> Exception:
    """The same error; one of ours to put right is logged with its traceback."""
    if not isinstance(err, OmniError):
        log.error("The model's thread met a fault.", exc_info=err)
    return err
