"""What stands before every route: who may ask, and how much and how fast. Plain ASGI, so that nothing is read before.

    Host       with no API key, only names of this machine: a page whose name is rebound to 127.0.0.1 is refused
    Origin     a page of another origin is refused, unless --cors names it: "no key needed here" is not for web pages
    key        `Authorization: Bearer …`, compared in constant time, on every path but /health and the page's own files
    type       bodies are JSON, for uploads multipart, and not compressed
    body       at most so many bytes, announced or counted, within so many seconds
    place      at most so many requests at once (those being answered, and a queue); then 429 with Retry-After

A refusal is sent at once. What the client is still sending is read and thrown away for a few seconds, since a
connection that is closed with unread bytes takes the answer along.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from .metrics import Metrics
from .page import PAGE
from .refusal import Refusal, busy, refusal
from .settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = "/health"
UPLOADS = "/v1/files"
DRAIN_SECONDS = 5.0
ROUTES = ("/v1/chat/completions", "/v1/labels", "/v1/models", UPLOADS, "/metrics", "/openapi.json", "/health", "/")
log = logging.getLogger("omni.serve")


class Guard:
    """ASGI middleware around the routes.

    Args:
        app: what is guarded.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.places = settings.rows + settings.waiting
        self.taken, self.mean = 0, 1.0  # requests under way; seconds that one takes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        is_post = scope["method"] == "POST"
        try:
            self.admit(scope["path"], headers, is_post)
        except Refusal as err:
            await exchange.refuse(err, drain=is_post)
            return
        started = time.monotonic()
        self.taken += is_post
        try:
            await exchange.run(self.app)
        finally:
            self.taken -= is_post
            if is_post:
                self.mean += 0.1 * (time.monotonic() - started - self.mean)

    def admit(self, path: str, headers: dict[str, str], is_post: bool) -> None:
        """Let a request pass by its head.

        Raises:
            Refusal: it may not.
        """
        settings = self.settings
        if not settings.api_key and not self._is_ours(headers.get("host", "")):
            raise Refusal(403, "This server answers to names of its own machine only. Use 127.0.0.1.", code="bad_host")
        self._check_origin(headers)
        if settings.api_key and path != OPEN and path not in PAGE:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(key.strip().encode("utf-8", "replace"), settings.api_key.encode())
            if not right or scheme.lower() != "bearer":
                raise Refusal(401, "Give the API key as a bearer token.", code="invalid_api_key")
        if is_post:
            self._check_body(path, headers)
            if self.taken >= self.places:
                waits = self.mean * max(1, self.taken - settings.rows) / settings.rows
                raise busy(max(1, min(60, round(waits))))

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self.settings.host.lower()):
            return True
        with suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return False

    def _check_origin(self, headers: dict[str, str]) -> None:
        origin = headers.get("origin")
        if origin is None or origin in self.settings.cors:
            return
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            place = ""
        if not place or place != headers.get("host", ""):
            raise Refusal(403, "Pages of another origin may not ask (--cors).", code="bad_origin")

    def _check_body(self, path: str, headers: dict[str, str]) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = "multipart/form-data" if path.rstrip("/") == UPLOADS else "application/json"
        if kind != wanted:
            raise Refusal(415, f"Send the body as {wanted}.", code="unsupported_media_type")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Refusal(415, "Send the body uncompressed.", code="unsupported_encoding")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            raise Refusal(400, "Content-Length is no number.", code="bad_content_length")
        if int(length) > self.limit(path):
            raise too_large(self.limit(path))

    def limit(self, path: str) -> int:
        """Bytes of a body of this path; an upload has a little around the file."""
        uploads = path.rstrip("/") == UPLOADS
        return self.settings.clip_bytes + 2**16 if uploads else self.settings.body_bytes


def too_large(limit: int) -> Refusal:
    """A body over the limit."""
    message = f"The body is larger than {limit} bytes. Upload the clip (POST /v1/files), or cut it."
    return Refusal(413, message, code="body_too_large")


class Exchange:
    """One request and its answer; counts the bytes, watches the time, and answers in place of the routes if it must."""

    def __init__(self, guard: Guard, scope: Any, receive: Receive, send: Send) -> None:
        self.guard, self.scope, self._receive, self._send = guard, scope, receive, send
        self.size, self.deadline = 0, time.monotonic() + guard.settings.body_seconds
        self.is_read = self.has_begun = False
        self.refused: Refusal | None = None

    async def run(self, app: Any) -> None:
        """The routes, then what had to be said in their place."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as err:  # the boundary of the server: a fault of ours is logged and told as such
            if self.has_begun and isinstance(err, TimeoutError):
                return  # the client has stopped reading
            if self.refused is None:
                log.exception("%s %s", self.scope["method"], self.scope["path"][:200])
                self.refused = refusal(err)
        if self.refused is not None and not self.has_begun:
            await self.refuse(self.refused, drain=not self.is_read)

    async def receive(self) -> Message:
        """The next part of the body, or the client's leaving.

        Raises:
            Refusal: the body is too long or too slow; whatever the routes make of that, `run` answers.
        """
        if self.is_read:
            return await self._receive()
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as err:
            self.refused = Refusal(408, "The body did not arrive in time. Send it again.", code="body_timeout")
            raise self.refused from err
        self.size += len(message.get("body", b""))
        limit = self.guard.limit(self.scope["path"])
        if self.size > limit:
            self.refused = too_large(limit)
            raise self.refused
        self.is_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass the routes' answer on, unless there is another."""
        if self.refused is not None and not self.has_begun:
            return
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.count(message["status"])
            message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
        async with asyncio.timeout(self.guard.settings.send_seconds):  # else who never reads keeps a place for ever
            await self._send(message)

    async def refuse(self, err: Refusal, *, drain: bool) -> None:
        """Answer with an error object."""
        body = json.dumps(err.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **err.headers}
        if drain:
            headers["connection"] = "close"
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self.count(err.status)
        self.guard.metrics.errors.labels(err.code).inc()
        with suppress(OSError):  # the client may have gone
            await self._send({"type": "http.response.start", "status": err.status, "headers": pairs})
            await self._send({"type": "http.response.body", "body": body, "more_body": drain})
            if drain:
                await self._throw_away()
                await self._send({"type": "http.response.body", "body": b""})

    async def _throw_away(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while (await self._receive()).get("more_body", False):
                    pass

    def count(self, status: int) -> None:
        path = self.scope["path"]
        route = path if path in ROUTES else UPLOADS if path.startswith(UPLOADS) else "other"
        self.guard.metrics.requests.labels(route, str(status)).inc()
