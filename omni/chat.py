"""Talk about one clip: it is encoded and run once, and asked about many times.

    chat = Chat(model, processor, "clip.mp4")
    chat.ask("How does she feel?")        # an Answer, as of `reason`
    chat.ask("Why?")                      # runs the words of this question alone

The first question is put as the model was taught to be asked (`processor.prompt`), after the clip; later ones leave out
what was said of the clip and the labels. When the conversation outgrows the model's context, the oldest turns are
dropped from what the model sees, never the clip; `dropped` says how many.

The functions below are what `Chat` and the server share: `conversation` (said → messages), `Splitter` (text as it is
written → thought and answer), `Writing` (one answer while it is written), `settle` (what was written → `Answer`).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from .answer import SENSES, TAG, Answer, parse_answer
from .decoding import Past, Row, Rows, Token, advance
from .emotions import EKMAN7, LabelSpace, label_space
from .errors import ModelError
from .features import ClipFeatures, collate, to_device
from .generate import MAX_NEW_TOKENS, SOURCES, Written, answer_head, answer_of, as_features, rate_labels, warned
from .looks import Looks, looks_of
from .rollout import Sampling

TAG_LENGTH = 12  # characters of the longest tag, with room for a space or two
KINDS = ("thought", "answer")


class Said(NamedTuple):
    """One message: a question of the user as it was typed, or what the assistant wrote. Roles as in ChatML."""

    role: str
    text: str


class Piece(NamedTuple):
    """Some of a text as it is written: a part of the "thought" or of the "answer", with the tokens that are whole."""

    kind: str
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A question as it was asked, and the answer to it."""

    question: str | None
    answer: Answer


class Chat:
    """A conversation about one clip.

    Args:
        model: as `load` gives it.
        processor: as `load` gives it.
        clip: a path, a `Clip`, or `ClipFeatures`.
        labels: the label space of the probabilities.
        think: ask for the reasons before each answer.
        temperature: 0 is greedy; above 0 the text is sampled with `seed`.

    Attributes:
        turns: all questions and answers.
        dropped: how many of them, the oldest, the model no longer sees.
        reused: tokens of the last prompt that were not run again.

    >>> from omni.tiny import tiny
    >>> from omni.clip import Clip
    >>> import numpy as np
    >>> clip = Clip(wave=np.sin(np.arange(8000) / 9).astype(np.float32), duration=0.5)
    >>> chat = Chat(*tiny(), clip, max_new_tokens=4)
    >>> len(chat.ask("Is he calm?").labels), len(chat.ask("Why?").labels), len(chat.turns)
    (7, 7, 2)
    """

    def __init__(
        self,
        model,
        processor,
        clip: SOURCES,
        *,
        labels: LabelSpace | Sequence[str] | str = EKMAN7,
        think: bool = True,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        seed: int = 0,
    ):
        self.model, self.processor, self.think, self.seed = model, processor, think, seed
        self.space = label_space(labels)
        self.sampling = Sampling(max_new_tokens, (processor.tokenizer.eos_token_id,), temperature)
        self.clip = watch(model, processor, clip)
        self.turns: list[Turn] = []
        self.dropped = self.reused = 0
        self.rows = Rows(model)
        self.past: Past | None = None
        self.looks: Looks | None = None  # of the clip with the first question

    def ask(self, question: str | None = None) -> Answer:
        """The answer to one more question; None asks the model's own.

        Raises:
            ModelError: the question alone is too long, or the model puts out NaN.
        """
        for _ in self.stream(question):
            pass
        return self.turns[-1].answer

    def stream(self, question: str | None = None) -> Iterator[Piece]:
        """Pieces of the text of `ask` as it is written; afterwards its answer is the last of `turns`."""
        said, inputs = self._prompt(question)
        name = clip_name(self.processor, self.clip, said, self.space, self.think)
        ran = advance(self.model, inputs, name, self.past)
        self.past, self.reused = ran.past, ran.reused
        row = self.rows.join(ran, self.sampling, seed=self.seed + len(self.turns))
        try:
            writing = Writing(self.processor.tokenizer, row)
            while True:
                yield from writing.take()
                if writing.ended:
                    break
                self.rows.step()
        finally:
            self.past = self.rows.leave(row)
        self.looks = self.looks or looks_of(self.model, inputs)[0]
        how = (self.space, self.think, self.looks)
        answer = settle(self.model, self.processor, self.clip, ran.past.ids, writing, self.past, *how)
        self.turns.append(Turn(question, answer))

    def save(self, path: str | Path) -> None:
        """Write the conversation as JSON: {"clip": sha256, "labels": […], "turns": [{"question", "answer"}, …]}."""
        turns = [{"question": turn.question, "answer": turn.answer.to_dict()} for turn in self.turns]
        facts = {"clip": self.clip.sha256, "labels": list(self.space.labels), "turns": turns}
        Path(path).write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def _prompt(self, question: str | None) -> tuple[list[Said], dict]:
        """What was said up to the next question and its inputs, with as many of the last turns as the context holds."""
        while True:
            said = [
                message
                for turn in self.turns[self.dropped :]
                for message in (Said("user", turn.question or ""), Said("assistant", turn.answer.text))
            ]
            said.append(Said("user", question or ""))
            inputs = prompt_inputs(self.model, self.processor, self.clip, said, self.space, self.think)
            room = context(self.model) - inputs["input_ids"].shape[1] - self.sampling.length
            if room >= 0:
                return said, inputs
            if self.dropped == len(self.turns):
                raise ModelError(
                    f"The question is {-room} tokens too long for this model. Shorten it.",
                    code="context_length_exceeded",
                )
            self.dropped += 1


# ---- a conversation as the model reads it ----


@torch.no_grad()
def watch(model, processor, clip: SOURCES) -> ClipFeatures:
    """The streams of a clip, with the warnings about them: all that is done with it once."""
    found = as_features(model, processor, [clip])[0]
    features, times = (to_device(x, next(model.parameters()).device) for x in collate([found]))
    return warned(model, [found], {"clip_features": features, "clip_times": times})[0]


def clip_name(processor, clip: ClipFeatures, said: Sequence[Said], space: LabelSpace, think: bool) -> str:
    """What tells the tokens of one clip from those of another: its content, the streams that are left of it, and the
    instruction where fusion reads it."""
    asked = instruction(conversation(processor, clip, said, space, think)) if processor.instructed else ""
    return f"{clip.sha256 or id(clip)} {'+'.join(sorted(clip.features))} {asked}"


def context(model) -> int:
    """Tokens that the decoder was made for."""
    return model.config.get_text_config().max_position_embeddings


def conversation(processor, clip: ClipFeatures, said: Sequence[Said], space: LabelSpace, think: bool) -> list[dict]:
    """Messages for the processor: the clip and the words heard in the user's first turn, every question as taught."""
    first = next(index for index, message in enumerate(said) if message.role == "user")
    messages: list[dict] = []
    for index, (role, text) in enumerate(said):
        if role == "user":
            heard = clip.transcript if index == first else None
            text = processor.prompt(text, space, think=think, modalities=clip.modalities, transcript=heard)
            text = text if index == first else _later(text, space)
        parts: list[dict] = [{"type": "text", "text": text}]
        messages.append(
            {"role": role, "content": [{"type": "video", "video": clip}, *parts] if index == first else parts}
        )
    return messages


def _later(text: str, space: LabelSpace) -> str:
    """The prompt of a later question: without the lines that repeat what stands in the first."""
    known = {*SENSES.values(), f"Emotions: {', '.join(space.labels)}"}
    return "\n".join(line for line in text.split("\n") if line not in known)


def instruction(messages: Sequence[dict]) -> str:
    """What fusion reads that reads what is asked: the first question, so that the clip's tokens stay what they are."""
    text: str = next(message for message in messages if message["role"] == "user")["content"][-1]["text"]
    return text


def prompt_inputs(model, processor, clip: ClipFeatures, said: Sequence[Said], space: LabelSpace, think: bool) -> dict:
    """Model inputs of one conversation."""
    messages = conversation(processor, clip, said, space, think)
    inputs = {**processor.inputs([messages]), **processor.instructions([instruction(messages)])}
    return {name: to_device(value, next(model.parameters()).device) for name, value in inputs.items()}


# ---- an answer while it is written, and when it is done ----


class Splitter:
    """Text as it is written, parted into thought and answer.

    Tags are left out, and so is white space beside them; what may become a tag is held back until it is known.

    >>> splitter = Splitter()
    >>> splitter.feed("<think>A sm"), splitter.feed("ile. </th"), splitter.feed("ink>\\n<answer>happy")
    ([('thought', 7, 11)], [('thought', 11, 15)], [('answer', 33, 38)])
    >>> splitter.feed("</answer>", last=True), splitter.text[33:38]
    ([], 'happy')
    """

    def __init__(self) -> None:
        self.text, self.at, self.kind, self.begun = "", 0, "answer", False

    def feed(self, text: str, last: bool = False) -> list[tuple[str, int, int]]:
        """Take more text; gives (kind, start, end) of what is certain now. All before `at` is decided."""
        self.text += text
        spans: list[tuple[str, int, int]] = []
        while True:
            tag = TAG.search(self.text, self.at)
            end = tag.start() if tag else len(self.text) if last else self._certain()
            self._span(spans, end, closed=bool(tag) or last)
            if tag is None:
                return spans
            self.kind = KINDS[0] if re.match(r"<\s*think", tag[0], re.IGNORECASE) else KINDS[1]
            self.at, self.begun = tag.end(), False

    def _certain(self) -> int:
        """Where what may become a tag begins."""
        opened = self.text.rfind("<", max(self.at, len(self.text) - TAG_LENGTH))
        return opened if opened >= 0 and ">" not in self.text[opened:] else len(self.text)

    def _span(self, spans: list[tuple[str, int, int]], end: int, closed: bool) -> None:
        part = self.text[self.at : end]
        start = self.at if self.begun else end - len(part.lstrip())
        stop = max(start, self.at + len(part.rstrip()))
        if stop > start:
            spans.append((self.kind, start, stop))
            self.begun = True
        self.at = end if closed else stop


class Writing:
    """What a row writes: its text, parted, until it ends.

    Args:
        tokenizer: the language model's.
        row: that writes.
        stop: texts before which the answer is cut off.

    Attributes:
        text: as far as its characters are whole.
        ended: why it ended, "stop" or "length"; None while it is written.
        thought_tokens: tokens before the answer.
    """

    def __init__(self, tokenizer, row: Row, stop: Sequence[str] = ()):
        self.tokenizer, self.row, self.stop = tokenizer, row, tuple(stop)
        self.splitter = Splitter()
        self.ended: str | None = None
        self.answer, self.sent, self.thought_tokens = "", 0, 0
        self.waiting: list[tuple[int, Token]] = []  # where the text of a token ends, and the token
        self.spans: list[tuple[int, int]] = []  # of the answer

    @property
    def text(self) -> str:
        return self.splitter.text

    def take(self) -> list[Piece]:
        """The pieces that the row's newest token makes certain."""
        row = self.row
        if row.written[-1] in row.sampling.ends:
            self.ended = "stop"
        elif len(row.written) == row.sampling.length:
            self.ended = "length"
        whole = self.tokenizer.decode(row.written, skip_special_tokens=True)
        if not self.ended and whole.endswith("\ufffd"):  # a character of several tokens
            whole = self.text
        spans = self.splitter.feed(whole[len(self.text) :], last=bool(self.ended))
        self.waiting.append((len(self.text), row.token))
        self.thought_tokens += self.splitter.kind == "thought"
        thought = "".join(self.text[start:end] for kind, start, end in spans if kind == "thought")
        mine = [(start, end) for kind, start, end in spans if kind == "answer"]
        self.spans += mine
        self.answer += "".join(self.text[start:end] for start, end in mine)
        return [Piece("thought", thought)] * bool(thought) + self._answered()

    def _answered(self) -> list[Piece]:
        """What is certain of the answer and was not given yet: not a part that may become a stop."""
        found = [at for stop in self.stop if (at := self.answer.find(stop)) >= 0]
        end = min(found, default=len(self.answer) if self.ended else len(self.answer) - self._held())
        if found:
            self.ended = "stop"
        text, tokens = self.answer[self.sent : end], tuple(self._tokens())
        self.sent = max(self.sent, end)
        return [Piece("answer", text, tokens)] if text or tokens else []

    def _held(self) -> int:
        lengths = (n for stop in self.stop for n in range(len(stop) - 1, 0, -1) if self.answer.endswith(stop[:n]))
        return max(lengths, default=0)

    def _tokens(self) -> Iterator[Token]:
        """Tokens whose text is decided and lies in the answer."""
        while self.waiting and (self.waiting[0][0] <= self.splitter.at or self.ended):
            end, token = self.waiting.pop(0)
            start = end - len(self.tokenizer.decode([token.id], skip_special_tokens=True))
            if any(a < end and start < b for a, b in self.spans):
                yield token


def settle(
    model,
    processor,
    clip: ClipFeatures,
    prompt: Sequence[int],
    writing: Writing,
    past: Past,
    space: LabelSpace,
    think: bool,
    looks: Looks,
) -> Answer:
    """The answer with the probabilities of all labels, as `reason_batch` gives it.

    Args:
        prompt: ids of the prompt.
        past: what was run of prompt and text.
        looks: of the clip, as of `looks_of`.
    """
    text = writing.text.strip()
    parsed = parse_answer(text)
    head = answer_head(parsed, text, think)
    rated = rate_labels(model, processor, [Written(list(prompt), past)], [head], [parsed], space, think)[0]
    return answer_of(clip, text, head, parsed, rated, space, looks)
