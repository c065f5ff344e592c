"""The routes. Each reads what was asked, hands it to `Media` and the model's thread, and answers; no more.

POST /v1/chat/completions        GET /v1/models, /v1/models/{model}        GET /health
POST /v1/labels                  POST, GET /v1/files                       GET /metrics
                                 GET, DELETE /v1/files/{file_id}           GET /openapi.json
GET /, /page/…  (page.py)
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from .. import __version__
from ..chat import Piece, Said
from ..errors import OmniError
from . import schema
from .completion import Completion
from .files import Files, Upload
from .guard import OPEN, Guard
from .media import Media, Source, only
from .metrics import Metrics
from .model_thread import Finished, Gone, Job, Line, ModelThread
from .page import add_page
from .refusal import Refusal, refusal
from .settings import Settings

GONE = 499  # nobody reads it; nginx's number for a client that has left
STATUSES = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503)
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": schema.Error} for status in STATUSES}
STREAMED = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
ROLES = re.compile(r"\.(\d+)\.[a-z_]+")  # pydantic names the branch of a union after its index


class Clips:
    """What the routes share: everything of one server that lives while it runs."""

    def __init__(self, settings: Settings, model: Any, processor: Any, metrics: Metrics, folder: Path) -> None:
        self.settings, self.processor, self.metrics = settings, processor, metrics
        self.files = Files(folder, settings)
        self.media = Media(model, processor, settings, metrics, folder, self.files)
        self.thread = ModelThread(model, processor, settings, metrics)
        self.created, self.stopping = int(time.time()), False

    async def features(self, sources: list[Source], line: Line) -> Any:
        """The encoded clip of a request."""
        located = [self.media.located(source) for source in sources]
        return await asyncio.get_running_loop().run_in_executor(self.media.pool, self.media.features, located, line)

    def check_model(self, name: str) -> None:
        """Refuse a model that is not this one."""
        if name != self.settings.name:
            message = f"There is no such model. This server has {self.settings.name!r}."
            raise Refusal(404, message, code="model_not_found", param="model")


def create_app(settings: Settings, model: Any, processor: Any) -> Any:
    """The whole server as an ASGI application; its threads and its folder live as long as it does."""
    metrics = Metrics()

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        with TemporaryDirectory(prefix="omni-serve-") as folder:  # readable by this user alone
            clips = app.state.clips = Clips(settings, model, processor, metrics, Path(folder))
            clips.thread.thread.start()
            try:
                yield
            finally:
                clips.stopping = True
                await asyncio.to_thread(clips.media.close)
                await asyncio.to_thread(clips.thread.stop)

    app = FastAPI(
        title="omni",
        version=__version__,
        summary="Which emotion does a person in a clip express, and why?",
        lifespan=alive,
        docs_url=None,  # its pages would come from another server
        redoc_url=None,
    )
    for kind in (Refusal, OmniError, Gone):
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    _add_questions(app)
    _add_files(app)
    _add_state(app, metrics)
    add_page(app)
    _describe(app, settings)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _add_questions(app: FastAPI) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=schema.Completion,
        responses={**ERRORS, 200: STREAMED},
        operation_id="createChatCompletion",
    )
    async def chat(request: Request, asked: schema.ChatRequest) -> Response:
        """Ask about a clip, in OpenAI's form."""
        clips: Clips = app.state.clips
        clips.check_model(asked.model)
        completion = Completion(asked, settings_of(app).tokens)
        tokenizer = clips.processor.tokenizer
        async with _line(request) as line:
            job = Job(
                line,
                await clips.features(completion.sources, line),
                completion.said,
                completion.space,
                completion.think,
                completion.sampling(tokenizer),
                asked.seed if asked.seed is not None else secrets.randbits(31),
                completion.stop,
                completion.top,
            )
            clips.thread.submit(job)
            first = await line.next()  # an error still has its own status
            if asked.stream:
                line.is_streamed = True
                events = completion.streamed(first, line, tokenizer)
                return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
            pieces, end = await _rest(first, line)
        return JSONResponse(completion.whole(pieces, end, tokenizer))

    @app.post("/v1/labels", response_model=schema.LabelsReply, responses=ERRORS, operation_id="createLabels")
    async def labels(request: Request, asked: schema.LabelsRequest) -> Response:
        """A probability for every allowed label."""
        clips: Clips = app.state.clips
        clips.check_model(asked.model)
        words = [schema.TextPart(type="text", text=asked.question or "")]
        clip = schema.VideoPart(type="video_url", video_url=asked.clip)
        message = {"role": "user", "content": [part.model_dump() for part in (*words, clip)]}
        how = {"model": asked.model, "messages": [message], "labels": asked.labels, "think": asked.think}
        completion = Completion(schema.ChatRequest.model_validate(how), settings_of(app).tokens)
        async with _line(request) as line:
            sampling = completion.sampling(clips.processor.tokenizer) if asked.think else None
            clip_features = only(await clips.features(completion.sources, line), asked.senses)
            said = [Said("user", completion.said[0].text)]
            clips.thread.submit(Job(line, clip_features, said, completion.space, asked.think, sampling))
            _, end = await _rest(await line.next(), line)
        row = {"object": "labels", "model": asked.model} | end.answer.to_dict()
        return JSONResponse({name: value for name, value in row.items() if name in schema.LabelsReply.model_fields})


def _add_files(app: FastAPI) -> None:
    @app.post("/v1/files", response_model=schema.FileReply, responses=ERRORS, operation_id="createFile")
    async def create(
        file: Annotated[UploadFile, File(description="A video, sound or image file.")],
        purpose: Annotated[str, Form(max_length=64)] = "user_data",
    ) -> Any:
        """Keep a clip for a while, to be asked about by its id."""
        clips: Clips = app.state.clips
        name = "".join(c if c.isprintable() else "?" for c in file.filename or "")[:200]
        size = file.size or 0
        upload = clips.files.add(file.file, size, name.encode("utf-8", "replace").decode(), purpose)
        return _file(upload)

    @app.get("/v1/files", response_model=schema.FilesReply, responses=ERRORS, operation_id="listFiles")
    async def listed() -> Any:
        """All clips that are kept."""
        clips: Clips = app.state.clips
        clips.files.expire()
        return {"object": "list", "data": [_file(u) for u in clips.files.known.values()], "has_more": False}

    @app.get("/v1/files/{file_id}", response_model=schema.FileReply, responses=ERRORS, operation_id="retrieveFile")
    async def one(file_id: str) -> Any:
        """One clip that is kept."""
        return _file(app.state.clips.files.get(file_id))

    @app.delete("/v1/files/{file_id}", response_model=schema.Deleted, responses=ERRORS, operation_id="deleteFile")
    async def delete(file_id: str) -> Any:
        """Delete a clip."""
        app.state.clips.files.delete(file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def _add_state(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/v1/models", response_model=schema.Models, responses=ERRORS, operation_id="listModels")
    async def models() -> Any:
        """The model of this server."""
        return {"object": "list", "data": [_model(app.state.clips)]}

    @app.get("/v1/models/{model}", response_model=schema.ModelOf, responses=ERRORS, operation_id="retrieveModel")
    async def one(model: str) -> Any:
        """The model, by its name."""
        app.state.clips.check_model(model)
        return _model(app.state.clips)

    @app.get("/health", response_model=schema.Health, responses=ERRORS, operation_id="health")
    async def health() -> Any:
        """Whether the server answers. Needs no key."""
        clips: Clips = app.state.clips
        if not clips.thread.thread.is_alive():
            raise Refusal(503, "The model's thread has ended.", code="stopped")
        return {"status": "stopping" if clips.stopping else "ok"}

    @app.get(
        "/metrics",
        response_class=Response,
        responses={**ERRORS, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        operation_id="metrics",
    )
    async def counted() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def settings_of(app: FastAPI) -> Settings:
    """The settings of a running application."""
    settings: Settings = app.state.clips.settings
    return settings


@asynccontextmanager
async def _line(request: Request) -> AsyncIterator[Line]:
    """A line to the model's thread that is hung up when the client leaves, or when the request has failed."""
    line = Line()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        line.hang_up()

    watching = asyncio.create_task(watch())
    try:
        yield line
    except BaseException:
        line.gone = True
        raise
    finally:
        if not line.is_streamed:
            watching.cancel()


async def _rest(event: Piece | Finished, line: Line) -> tuple[list[Piece], Finished]:
    """All pieces up to the end, and the end."""
    pieces: list[Piece] = []
    while isinstance(event, Piece):
        pieces.append(event)
        event = await line.next()
    return pieces, event


# ---- errors ----


async def _told(request: Request, err: Exception) -> Response:
    if isinstance(err, Gone):
        return Response(status_code=GONE)
    found = refusal(err)
    request.app.state.clips.metrics.errors.labels(found.code).inc()
    return JSONResponse(found.body(), found.status, found.headers)


async def _invalid(request: Request, err: Exception) -> Response:
    """A request of another form: the first fault, where it is, and what was wanted."""
    assert isinstance(err, RequestValidationError)
    first = err.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:] if part != "parts")
    where = ROLES.sub(r".\1", f".{where}")[1:][:200]
    codes = {"extra_forbidden": "unknown_parameter", "json_invalid": "invalid_json", "missing": "missing_parameter"}
    code = codes.get(first["type"], "invalid_value")
    told = {"unknown_parameter": "Unknown parameter.", "invalid_json": "The body is no JSON."}.get(code, first["msg"])
    message = f"{where}: {told}" if where and code != "invalid_json" else told
    return await _told(request, Refusal(400, message, code=code, param=where or None))


async def _not_routed(request: Request, err: Exception) -> Response:
    assert isinstance(err, HTTPException)
    known = {404: ("There is no such page.", "not_found"), 405: ("Not with this method.", "method_not_allowed")}
    message, code = known.get(err.status_code, ("The request cannot be read.", "bad_request"))
    return await _told(request, Refusal(err.status_code, message, code=code, headers=dict(err.headers or {})))


# ---- JSON ----


def _file(upload: Upload) -> dict[str, Any]:
    names = {"filename": upload.filename, "purpose": upload.purpose, "status": "processed"}
    times = {"created_at": upload.created, "expires_at": upload.expires}
    return {"id": upload.id, "object": "file", "bytes": upload.size} | times | names


def _model(clips: Clips) -> dict[str, Any]:
    return {"id": clips.settings.name, "object": "model", "created": clips.created, "owned_by": "omni"}


def _describe(app: FastAPI, settings: Settings) -> None:
    """Let the OpenAPI description say what is so: 400 where FastAPI would answer 422, the model, what needs a key."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        for path, methods in found["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if settings.api_key and path != OPEN:
                    operation["security"] = [{"key": []}]
        for name in ("ChatRequest", "LabelsRequest"):
            found["components"]["schemas"][name]["properties"]["model"]["enum"] = [settings.name]
        if settings.api_key:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return found

    app.openapi = openapi  # type: ignore[method-assign]
