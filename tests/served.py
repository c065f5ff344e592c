"""A server for tests: the whole of it over real HTTP, on a free port, in a thread."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import httpx
import openai
import uvicorn

from omni.serve.server import configuration
from omni.serve.settings import Settings


@contextmanager
def served(parts, **how) -> Iterator[SimpleNamespace]:
    """A running server of a model: its `url`, an `http` client, an `openai` client, and the application's `clips`."""
    settings = replace(Settings(port=0), **how).checked()
    server = uvicorn.Server(configuration(settings, *parts))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    headers = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=settings.api_key or "none", max_retries=0, timeout=60)
    clips = app_of(server).state.clips
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http, client:
            yield SimpleNamespace(url=url, http=http, openai=client, clips=clips, server=server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


def app_of(server: uvicorn.Server):
    """The application inside uvicorn's wrappers."""
    app = server.config.app
    while not hasattr(app, "state"):
        app = app.app
    return app


def data_url(path: Path, kind: str = "video/mp4") -> str:
    """A file as a data: URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def about(url: str, text: str = "Why?", kind: str = "video_url") -> list[dict]:
    """The messages of one question about a clip."""
    return [{"role": "user", "content": [{"type": kind, kind: {"url": url}}, {"type": "text", "text": text}]}]


def count(server: SimpleNamespace, name: str) -> float:
    """A counter of /metrics, summed over its labels."""
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)
