"""Labelling through a server of OpenAI's API: the clips are here, the model is elsewhere.

    clip, read here as ever ─► its file as a data: URL ─► POST {base URL}/chat/completions ─► Answer ─► the same rows

The server is asked once who it is (GET {base URL}/models). One that says it is owned by "omni" is ours: it is sent the
question, the label space and whether to think, and the answer is the record `emotion` of its message, with the
probabilities of all labels. Any other (vLLM that serves an omni model) is sent the text of `answer.prompt`, and what
it writes is read by `answer.parse_answer`; it gives no probabilities, since those of the tokens that happened to be
written are not those of the labels.

    429                                   waits as long as Retry-After says, then tries again
    5xx, a connection that breaks         tries again after 0.5, 1, 2 … 30 s, less up to a half by chance
    any other refusal of a clip           the row is an error, at once; so it is after `TRIES` tries
    no connection at all, 401, 403, 404   the run ends: it would be the same for all clips

Only the base URL is spoken to: no proxy of the environment is used and no redirect is followed. A clip is decoded here
although the server does it again, so that a bad file gives the same row as without a server and is never sent.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .answer import QUESTION, Answer, Look, format_answer, parse_answer, prompt
from .clip import Clip, Limits, display_name
from .emotions import canonical
from .errors import ClipError, ModelError, OmniError, ServerError
from .evidence import Evidence
from .label import Engine
from .label_row import Task
from .label_run import Labeller
from .predictions import OPEN

if TYPE_CHECKING:
    import httpx

TRIES = 6  # some 15 s without an answer
FIRST, MOST = 0.5, 30.0  # s before the second try, and before any
PATIENCE = 120.0  # s that a Retry-After is believed
SECONDS = 600.0  # for one answer
TOKENS = 160  # `omni.generate.MAX_NEW_TOKENS`, which is behind torch
OVERFULL = 4  # batches hold so many clips per connection, so that few connections wait for the last of a batch
ENDING = {401: "wants another API key", 403: "does not allow this", 404: "does not have this page or model"}
FIELDS = ("label", "confidence", "labels", "thought", "well_formed", "duration_s", "transcript", "gates")


class Sent(NamedTuple):
    """A clip that was read here and can be sent; its pictures and sound are not kept."""

    path: Path
    sha256: str
    kind: str  # of the part of a message
    modalities: tuple[str, ...]
    warnings: tuple[str, ...]
    duration: float  # s


def remote(base_url: str, *, api_key_env: str | None = None, concurrency: int = 8) -> Engine:
    """What `omni.label.label` takes as its engine, for a server.

    Args:
        base_url: up to and with `/v1`.
        api_key_env: the variable of the environment that holds the API key.
        concurrency: requests under way at once.

    Raises:
        OmniError: the extra is missing, or an argument cannot be used.
    """
    if find_spec("httpx") is None:
        raise OmniError("--engine openai needs one more package: pip install 'omni-emotion[client]'", code="no_extra")
    if not _is_address(base_url):
        raise OmniError(f"--base-url is '{base_url}'. Give one like http://127.0.0.1:8000/v1.", code="bad_argument")
    key = os.environ.get(api_key_env, "") if api_key_env else ""
    if api_key_env and not key:
        raise OmniError(f"The variable {api_key_env} is not set. Put the API key into it.", code="bad_argument")

    @contextmanager
    def engine(task: Task, limits: Limits, timeout: float) -> Iterator[Labeller]:
        from .clip_reader import ClipReader

        with ExitStack() as stack:
            server = stack.enter_context(_server(base_url, key, task, concurrency))
            reader = stack.enter_context(ClipReader(limits=limits, timeout=timeout))
            pool = ThreadPoolExecutor(concurrency)
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)

            def answer(clips: Sequence[Sent], question: str | None) -> Sequence[Answer | Exception]:
                return list(pool.map(lambda clip: server.answer(clip, question), clips))

            def read(path: Path) -> Sent:
                return _sent(path, reader.read(path))

            yield Labeller(read, answer, server.prompt, QUESTION, OVERFULL * concurrency)

    return engine


def _is_address(url: str) -> bool:
    """
    >>> [_is_address(url) for url in ("http://127.0.0.1:8000/v1", "127.0.0.1:8000", "https://", "http://host:port/v1")]
    [True, False, False, False]
    """
    import httpx

    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return found.scheme in ("http", "https") and bool(found.host)


class Server:
    """A server that answers for a model.

    Args:
        http: a client whose base is the server's.
        task: what is the same for all clips; `task.model.name` is the name that the server knows.
    """

    def __init__(self, http: httpx.Client, task: Task) -> None:
        self.http, self.task = http, task
        found = {model.get("id"): model.get("owned_by") for model in self._models()}
        if task.model.name not in found:
            names = ", ".join(map(str, found)) or "none"
            raise ServerError(f"The server has no model {task.model.name}. Give --model one of: {names}.")
        self.is_ours = found[task.model.name] == "omni"
        if self.is_ours and task.space == OPEN:
            raise ServerError("omni serve answers with labels of a list. Label with --open on this machine.")

    def answer(self, sent: Sent, question: str | None) -> Answer | Exception:
        """The answer about one clip, or why there is none.

        Raises:
            ServerError: it would be the same for every clip.
        """
        try:
            reply = self._asked("POST", "chat/completions", self._request(sent, question))
            message = reply["choices"][0]["message"]
            return self._ours(message) if self.is_ours else self._other(message, sent)
        except (KeyError, IndexError, TypeError, ValueError) as err:
            return ModelError(f"The server's reply is not as expected ({type(err).__name__}: {err}).", code="bad_reply")
        except ServerError:
            raise
        except (OmniError, OSError) as err:
            return err

    def prompt(self, question: str | None, answer: Answer) -> str:
        """The text that a model of ours is asked with beside the clip."""
        task = self.task
        senses, words = answer.modalities, answer.transcript
        return prompt(question, task.space, think=task.think, modalities=senses, transcript=words)

    def _models(self) -> list[dict[str, Any]]:
        try:
            reply = self._asked("GET", "models")
        except ValueError:  # no JSON
            reply = None
        found = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(found, list) or not all(isinstance(model, dict) for model in found):
            raise ServerError(f"{self.http.base_url} is no OpenAI-style server. Give its --base-url with /v1.")
        return found

    def _request(self, sent: Sent, question: str | None) -> dict[str, Any]:
        task = self.task
        text, more = question or QUESTION, {"labels": list(task.space.labels), "think": task.think}
        if not self.is_ours:
            text, more = prompt(question, task.space, think=task.think, modalities=sent.modalities), {}
        content = [_part(sent), {"type": "text", "text": text}]
        how = {"max_tokens": TOKENS, "temperature": 0, "seed": task.seed}
        return {"model": task.model.name, "messages": [{"role": "user", "content": content}]} | how | more

    def _ours(self, message: dict[str, Any]) -> Answer:
        """The record of our server. The tags are put around its text again."""
        record = message["emotion"]
        if set(record["labels"]) != set(self.task.space.labels):
            raise ValueError("its labels are others")
        content = message["content"] or ""
        try:
            text = format_answer(content, message.get("reasoning_content") or "")
        except ValueError:  # blank, or with tags of its own
            text = content
        return Answer(
            text=text,
            modalities=tuple(record["modalities"]),
            warnings=tuple(record["warnings"]),
            evidence=tuple(Evidence(**claim) for claim in record["evidence"]),
            maps=tuple(Look(**look) for look in record["maps"]),
            **{name: record[name] for name in FIELDS},
        )

    def _other(self, message: dict[str, Any], sent: Sent) -> Answer:
        """What is to be read from text alone; without `labels`, which a row then has as null."""
        text = message["content"] or ""
        if thought := message.get("reasoning_content"):
            text = f"<think>{thought}</think>\n{text}"
        parsed = parse_answer(text)
        label = parsed.label and (parsed.label if self.task.space == OPEN else canonical(parsed.label, self.task.space))
        if not label:
            raise ValueError(f"no label in {text[:80]!r}")
        thought, is_well = parsed.thought, parsed.well_formed
        return Answer(label, 0.0, {}, thought, text, is_well, sent.modalities, sent.warnings, sent.duration)

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of a reply, after as many tries as it needs.

        Raises:
            ModelError: refused, or no whole answer after `TRIES` tries.
            ServerError: it would be the same for every request.
        """
        import httpx

        for tried in range(1, TRIES + 1):
            last = tried == TRIES
            try:
                reply = self.http.request(method, path, json=body)
            except httpx.ConnectError as err:
                if last:
                    message = f"There is no server at {self.http.base_url}. Start it, and run the same command again."
                    raise ServerError(message, code="unreachable") from err
                wait = _pause(tried)
            except httpx.TransportError as err:
                if last:
                    what = f"The connection broke {TRIES} times ({type(err).__name__})"
                    raise ModelError(f"{what}. Look at the server, and give --retry-errors.", code="broken") from err
                wait = _pause(tried)
            else:
                if reply.is_success:
                    return reply.json()
                if last or not (reply.status_code == 429 or reply.status_code >= 500):
                    raise _refused(reply)
                wait = _pause(tried, reply.headers.get("retry-after"))
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


@contextmanager
def _server(base_url: str, key: str, task: Task, concurrency: int) -> Iterator[Server]:
    import httpx

    with httpx.Client(
        base_url=base_url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(SECONDS, connect=10),
        limits=httpx.Limits(max_connections=concurrency),
        trust_env=False,
        follow_redirects=False,
    ) as http:
        yield Server(http, task)


def _sent(path: Path, clip: Clip) -> Sent:
    moving = "video_url" if clip.duration else "image_url"
    kind = "input_audio" if clip.frames is None else moving
    return Sent(path, clip.sha256, kind, clip.modalities, clip.warnings, clip.duration)


def _part(sent: Sent) -> dict[str, Any]:
    """A clip as a part of a message.

    Raises:
        ClipError: it is another file than the one that was read.
    """
    content = sent.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sent.sha256:
        name = display_name(sent.path)
        raise ClipError(f"{name} was changed while it was sent. Label it when it is whole.", code="changed")
    data = base64.b64encode(content).decode()
    if sent.kind == "input_audio":
        form = sent.path.suffix[1:].lower() or "wav"
        return {"type": "input_audio", "input_audio": {"data": data, "format": form}}
    usual = "image/png" if sent.kind == "image_url" else "video/mp4"
    url = f"data:{mimetypes.guess_type(sent.path.name)[0] or usual};base64,{data}"
    return {"type": sent.kind, sent.kind: {"url": url}}


def _pause(tried: int, retry_after: str | None = None) -> float:
    """Seconds to wait: twice as long each time, less up to a half by chance, or longer if the server asks for it.

    >>> 0.25 <= _pause(1) <= 0.5 and 2 <= _pause(4) <= 4 and _pause(99) <= 30
    True
    >>> _pause(1, "7"), _pause(1, "86400")
    (7.0, 120.0)
    """
    usual = min(MOST, FIRST * 2.0 ** (tried - 1)) * random.uniform(0.5, 1)
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    return max(usual, min(asked, PATIENCE))


def _refused(reply: httpx.Response) -> ModelError:
    """The error of a reply; what the server says of it is quoted in short."""
    said = reply.text
    with suppress(ValueError, KeyError, TypeError):  # a page of some proxy
        said = reply.json()["error"]["message"]
    said = " ".join(str(said).split())[:200]
    status = reply.status_code
    if status in ENDING or reply.is_redirect:
        what = ENDING.get(status, "sends on to another address, which is not followed")
        return ServerError(f"The server at {reply.url.host} {what} ({status}): {said}", code=f"http_{status}")
    return ModelError(f"The server refused this ({status}): {said}", code=f"http_{status}")
