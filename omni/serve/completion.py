"""One chat completion: a request to a `Job`, and what the model's thread tells of it to OpenAI's JSON.

thought  ─► reasoning_content        answer ─► content, or the record of `response_format`
the probabilities and all else that `Answer` has ─► emotion
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from ..answer import Answer, format_answer
from ..chat import Piece, Said
from ..decoding import Token
from ..generate import MAX_NEW_TOKENS
from ..rollout import Sampling
from .media import Source
from .model_thread import Finished, Line
from .refusal import Refusal, refusal
from .schema import ChatRequest, FilePart, Message, Part, SoundPart, TextPart
from .schema import space_of as named_space
from .structured import Plan, plan_of

SENSES = {"video_url": ("video", "audio"), "audio_url": ("audio",), "image_url": ("video",)}
Chunk = dict[str, Any]


class Completion:
    """A chat completion of one request.

    Args:
        asked: the request, valid by its types.
        limit: `max_tokens` at most.

    Raises:
        Refusal: it asks for what cannot be done.
    """

    def __init__(self, asked: ChatRequest, limit: int) -> None:
        self.asked, self.id, self.created = asked, f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self.plan: Plan | None = plan_of(asked.response_format)
        if self.plan and self.plan.space and asked.labels is not None:
            message = "The schema has a label space of its own. Leave labels out."
            raise Refusal(400, message, code="two_label_spaces", param="labels")
        self.space = (self.plan and self.plan.space) or named_space(asked.labels)
        self.think = asked.think if asked.think is not None else asked.reasoning_effort != "none"
        self.said, self.sources = taken_apart(asked.messages)
        if asked.top_logprobs is not None and not asked.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs: true.", code="needs_logprobs", param="top_logprobs")
        self.top = (asked.top_logprobs or 0) if asked.logprobs else None
        wanted = asked.max_completion_tokens or asked.max_tokens or min(MAX_NEW_TOKENS, limit)
        if wanted > limit:
            raise Refusal(400, f"max_tokens is at most {limit}.", code="max_tokens_too_large", param="max_tokens")
        self.length = wanted
        self.stop = tuple([asked.stop] if isinstance(asked.stop, str) else asked.stop or ())

    def sampling(self, tokenizer: Any) -> Sampling:
        """How the tokens are drawn."""
        asked = self.asked
        cut = 1.0 if asked.top_p is None else asked.top_p
        return Sampling(self.length, (tokenizer.eos_token_id,), asked.temperature or 0.0, top_p=cut)

    def whole(self, pieces: Sequence[Piece], end: Finished, tokenizer: Any) -> Chunk:
        """The completion as one object."""
        thought = "".join(piece.text for piece in pieces if piece.kind == "thought")
        content = self.plan.text(end.answer) if self.plan else "".join(p.text for p in pieces if p.kind == "answer")
        message = {"role": "assistant", "content": content, "reasoning_content": thought or None, "refusal": None}
        tokens = [token for piece in pieces for token in piece.tokens]
        choice = {
            "index": 0,
            "message": message | {"emotion": emotion(end.answer)},
            "logprobs": None if self.top is None else logprobs(tokens, tokenizer),
            "finish_reason": end.ended,
        }
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.asked.model}
        return head | {"choices": [choice], "usage": usage(end)}

    async def streamed(self, first: Piece | Finished, line: Line, tokenizer: Any) -> AsyncIterator[str]:
        """The completion as server-sent events, the first event given."""
        try:
            yield self._event({"role": "assistant", "content": ""})
            event = first
            while isinstance(event, Piece):
                if chunk := self._delta(event):
                    logs = logprobs(event.tokens, tokenizer) if self.top is not None and event.tokens else None
                    yield self._event(chunk, logprobs=logs)
                event = await line.next()
            if self.plan:
                yield self._event({"content": self.plan.text(event.answer)})
            yield self._event({"emotion": emotion(event.answer)}, finish=event.ended)
            if self.asked.stream_options and self.asked.stream_options.include_usage:
                yield _sse(self._chunk() | {"choices": [], "usage": usage(event)})
        except Exception as err:  # a boundary: the answer has begun, so the error is its last event
            yield _sse(refusal(err).body())
        else:
            yield "data: [DONE]\n\n"
        finally:
            line.gone = True

    def _delta(self, piece: Piece) -> Chunk | None:
        if piece.kind == "thought":
            return {"reasoning_content": piece.text}
        return None if self.plan else {"content": piece.text}

    def _chunk(self) -> Chunk:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.asked.model,
        }

    def _event(self, delta: Chunk, finish: str | None = None, logprobs: Chunk | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return _sse(self._chunk() | {"choices": [choice]})


def taken_apart(messages: Sequence[Message]) -> tuple[list[Said], list[Source]]:
    """What was said, and what was sent of the clip.

    Raises:
        Refusal: the conversation does not end with a question, or has none.
    """
    said: list[Said] = []
    sources: list[Source] = []
    for message in messages:
        content = message.content
        parts: Iterable[Part] = [TextPart(type="text", text=content)] if isinstance(content, str) else content
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        found = [_source(part) for part in parts if not isinstance(part, TextPart)]
        if found and message.role != "user":
            raise Refusal(400, "Only the user's messages can hold a clip.", code="bad_role", param="messages")
        sources += found
        text = _clean("\n".join(texts))
        if message.role == "assistant":
            text = _written(text, _clean(message.reasoning_content or ""))
        said.append(Said("system" if message.role == "developer" else message.role, text))
    if said[-1].role != "user":
        raise Refusal(400, "The last message must be the user's.", code="no_question", param="messages")
    return said, sources


def _written(content: str, thought: str) -> str:
    """An answer that comes back from a client, as the model wrote it; of a record, its label."""
    try:
        record = json.loads(content) if content.startswith("{") else {}
    except (ValueError, RecursionError):
        record = {}
    label = record.get("label") if isinstance(record, dict) else None
    try:
        return format_answer(label.lower() if isinstance(label, str) else content, thought)
    except ValueError:  # blank, or with tags of its own
        return content


def _source(part: Part) -> Source:
    if isinstance(part, FilePart):
        url = part.file.file_id or part.file.file_data
        if not url:
            raise Refusal(400, "A file needs file_id or file_data.", code="no_file", param="messages")
        if part.file.file_id and not url.startswith("file-"):
            raise Refusal(404, "There is no such file. Upload it first.", code="file_not_found", param="messages")
        return Source(url)
    if isinstance(part, SoundPart):
        return Source(f"data:audio/any;base64,{part.input_audio.data}", ("audio",))
    return Source(getattr(part, part.type).url, SENSES[part.type])


def _clean(text: str) -> str:
    """Text that can be encoded: JSON may hold halves of characters."""
    return text.encode("utf-8", "replace").decode()


def emotion(answer: Answer) -> Chunk:
    """The record of an answer: its fields but the text."""
    return {name: value for name, value in answer.to_dict().items() if name != "text"}


def usage(end: Finished) -> Chunk:
    """Counts of tokens; `cached_tokens` are those of the prompt that were not run again."""
    return {
        "prompt_tokens": end.prompt,
        "completion_tokens": end.written,
        "total_tokens": end.prompt + end.written,
        "prompt_tokens_details": {"cached_tokens": end.reused},
        "completion_tokens_details": {"reasoning_tokens": end.thought},
    }


def logprobs(tokens: Iterable[Token], tokenizer: Any) -> Chunk:
    """Log-probabilities of the tokens of the answer."""

    def one(token: int, logprob: float) -> Chunk:
        text = tokenizer.decode([token])
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    return {
        "content": [one(t.id, t.logprob) | {"top_logprobs": [one(*pair) for pair in t.top]} for t in tokens],
        "refusal": None,
    }


def _sse(chunk: Chunk) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
