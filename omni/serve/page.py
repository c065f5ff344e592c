"""The web page at `/`: the files of the folder `page`, plain HTML, CSS and ES modules, with no build step.

    page.html, page.css, icon.svg      the page and its looks
    page.js                            what happens when something is pressed
    api.js                             our own /v1 routes, the answer as a stream
    player.js                          the clip, its frames, sound and cues on one line of time
    panel.js                           probabilities, reasons with verdicts, each sense by itself
    recorder.js                        camera and microphone, after a click
    document.html, document.js         two documents of docs/ to read

Ours and not Gradio, whose page has inline scripts (so no strict Content-Security-Policy), asks cdnjs and Google's
fonts, counts its users unless told not to, and has no camera in its chat.

The files are read once, when the server starts, and are what they are: no path of a request becomes a path of a file.
They hold nothing secret, so they need no key; the page asks for it and keeps it in memory. Everything that the model
writes is put into the page as text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI, Response

FOLDER = Path(__file__).with_suffix("")
DOCUMENTS = ("responsible_use.md", "model_card.md")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".md": "text/plain",  # a browser would save text/markdown instead of showing it
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "camera=(self), microphone=(self), geolocation=(), display-capture=()",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class PageFile(NamedTuple):
    """One file as it is sent."""

    body: bytes
    media_type: str


def _documents() -> Path:
    """Where docs/ is: in the wheel beside the code, in a checkout beside the package."""
    package = FOLDER.parent.parent
    return next(folder for folder in (package / "docs", package.parent / "docs") if (folder / DOCUMENTS[0]).is_file())


def _read() -> dict[str, PageFile]:
    files = [*FOLDER.iterdir(), *(_documents() / name for name in DOCUMENTS)]
    found = {f"/page/{path.name}": PageFile(path.read_bytes(), TYPES[path.suffix]) for path in files}
    return {"/": found.pop("/page/page.html"), "/favicon.ico": found["/page/icon.svg"], **found}


PAGE = _read()  # path of a request → file


def add_page(app: FastAPI) -> None:
    """Add the routes of the page; they are no part of the API's description."""
    for path, file in PAGE.items():
        app.add_api_route(path, _sender(file), include_in_schema=False)


def _sender(file: PageFile) -> Callable[[], Response]:
    def send() -> Response:
        return Response(file.body, media_type=file.media_type, headers=HEADERS)

    return send
