"""Starts the server, and drains it when it is told to stop: no new requests, the answers under way are written out."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import create_app
from .settings import Settings


class _Impatient(H11Protocol):
    """uvicorn's protocol, but a client must send the head of every request in time."""

    head_seconds = 10.0
    clock: asyncio.TimerHandle | None = None  # runs from the first byte of a head, or from the start, until it is whole

    def connection_made(self, transport: Any) -> None:
        """Start the clock of a new connection."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Start the clock with what comes after an answer; before, uvicorn's own clock for idle connections runs."""
        if self.cycle is not None and self.cycle.response_complete:
            self._start()
        super().data_received(data)

    def handle_events(self) -> None:
        """Stop the clock once a head is whole."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop()
        super().connection_lost(exc)

    def _start(self) -> None:
        if self.clock is None:
            self.clock = asyncio.get_running_loop().call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None


def configuration(settings: Settings, model: Any, processor: Any) -> uvicorn.Config:
    """How uvicorn runs the application."""
    protocol = type("Impatient", (_Impatient,), {"head_seconds": settings.head_seconds})
    return uvicorn.Config(
        create_app(settings, model, processor),
        host=settings.host,
        port=settings.port,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level=logging.WARNING,
        access_log=False,  # what is asked is nobody's business
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )


def serve(settings: Settings, model: Any, processor: Any, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain."""
    server = uvicorn.Server(configuration(settings, model, processor))
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again when it has drained: we are done then
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
