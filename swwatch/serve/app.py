"""The HTTP side: the page, what the server has, uploads, recordings, metrics; and the door to the live socket."""

import asyncio
import contextlib
import html
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse

from swwatch.client import protocol
from swwatch.engine.choose import ENGINES
from swwatch.engine.door import own_question, pace_of
from swwatch.serve.auth import AccessRules
from swwatch.serve.connection import LiveConnection
from swwatch.serve.door import add_door, add_sockets
from swwatch.serve.metrics import FORM, Metrics
from swwatch.serve.openai.http import add_openai
from swwatch.serve.openai.realtime import Realtime
from swwatch.serve.record import KINDS, SRT
from swwatch.serve.sessions import SessionTable
from swwatch.serve.settings import Limits


@dataclass
class Server:
    """What belongs to one running server."""

    gate: AccessRules
    limits: Limits
    metrics: Metrics
    sessions: SessionTable
    model: str = ""
    notes: list[str] = field(default_factory=list)

    def app(self) -> FastAPI:
        """The application."""
        return create_app(self)

    def close(self, timeout_s: float) -> None:
        """Stop the models and remove what clients sent. Args: timeout_s: how long a model may take."""
        self.sessions.stages.close(timeout_s)
        self.sessions.uploads.close()
        self.sessions.recordings.close()
        if self.sessions.keeping is not None:
            self.sessions.keeping.close()

    def info(self) -> dict:
        """What /api/info tells."""
        sessions, stages = self.sessions, self.sessions.stages
        sources = ["frames", "upload"] + ["file"] * (sessions.folder.root is not None)
        first = stages.checkpoints[0].loaded.settings
        return {
            "version": protocol.VERSION,
            "variants": [checkpoint.variant for checkpoint in stages.checkpoints],
            "engines": {name: engine.about for name, engine in ENGINES.items()},
            "engine": stages.engine,
            "schedule": pace_of(first),
            "question": own_question(first),
            "model": self.model,
            "token_needed": self.gate.token is not None,
            "limits": self.limits.as_message().model_dump() | {"upload_bytes": self.limits.max_upload_bytes},
            "sources": sources + ["url"] * (sessions.urls != "none"),
            "checkpoints": [
                {
                    "name": one.name,
                    "variant": one.variant,
                    "schedule": pace_of(one.loaded.settings),
                    "question": own_question(one.loaded.settings),
                    "engines": one.engines,
                }
                for one in stages.checkpoints
            ],
            "notes": self.notes,
        }


def create_app(server: Server) -> FastAPI:
    """The application of one server; `SessionTable.shutdown` is its caller's duty, before the sockets are closed."""

    @contextlib.asynccontextmanager
    async def life(_):
        await server.sessions.take_up()
        sweeper = asyncio.create_task(server.sessions.sweep())
        yield
        sweeper.cancel()

    app = FastAPI(title="swwatch", version=version("swwatch"), docs_url=None, redoc_url=None, lifespan=life)
    add_door(app, server)
    _add_addresses(app, server)
    _add_files(app, server)
    add_openai(app, server)

    add_sockets(app, server, LiveConnection, Realtime)
    return app


def _add_addresses(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> dict:
        """Whether the server is up; needs no token."""
        about = {"sessions": len(server.sessions), "places": server.limits.max_sessions}
        about["held"] = server.sessions.held
        return {"status": "ok", **about, "version": app.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(server.metrics.text(), media_type=FORM)

    @app.get("/api/info")
    async def info() -> dict:
        """Variants, engines, limits and sources of this server."""
        return server.info()

    @app.get("/docs", include_in_schema=False)
    async def docs():
        return HTMLResponse(_docs(app.openapi()))


def _add_files(app: FastAPI, server: Server) -> None:
    uploads, sessions = server.sessions.uploads, server.sessions
    form = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}}

    @app.post(
        "/api/uploads",
        status_code=201,
        openapi_extra={"requestBody": {"content": {"multipart/form-data": form}, "required": True}},
    )
    async def upload(request: Request) -> dict:
        """Send a video as the form's field `file`; a session may then name its id."""
        name, size = await uploads.receive_request(request)
        return {"id": name, "bytes": size}

    @app.delete("/api/uploads/{name}", status_code=204)
    async def delete(name: str) -> None:
        """Remove an uploaded file."""
        uploads.delete(name)

    @app.get("/api/files")
    async def files() -> dict:
        """Videos in the allowed folder."""
        return {"files": await asyncio.to_thread(sessions.folder.names)}

    @app.get("/api/recordings/{name}.{kind}", response_class=FileResponse)
    async def recording(name: str, kind: str) -> Response:
        """A recorded session, jsonl, vtt or srt; also while it is recorded."""
        if kind == "srt":
            named = {"content-disposition": f'attachment; filename="{name}.srt"'}
            return Response(sessions.recordings.subtitles(name, kind), media_type=SRT, headers=named)
        path = sessions.recordings.path(name, kind)
        return FileResponse(path, media_type=KINDS[kind], filename=path.name)

    @app.get("/sessions/{name}.{kind}", response_class=StreamingResponse)
    async def subtitles(name: str, kind: Literal["vtt", "srt"]) -> StreamingResponse:
        """Subtitles of a session that is recorded, which grow until it ends."""
        growing = sessions.recordings.follow(name, kind)
        first = await anext(growing)  # what is wrong is told before the answer begins

        async def text():
            async with contextlib.aclosing(growing):
                yield first
                async for more in growing:
                    yield more

        return StreamingResponse(text(), media_type=SRT if kind == "srt" else KINDS["vtt"])


def _docs(schema: dict) -> str:
    """A page about the HTTP addresses that needs nothing from elsewhere."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, what in methods.items():
            text = what.get("description") or what.get("summary", "")
            rows.append(f"<tr><td><code>{method.upper()} {html.escape(path)}</code><td>{html.escape(text)}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>swwatch: addresses</title>"
        f"<h1>swwatch {html.escape(schema['info']['version'])}</h1><table>{''.join(rows)}</table>"
        "<p>As OpenAPI: <a href=openapi.json>openapi.json</a>. Frames and words go over the WebSocket "
        "<code>/api/live</code>: see docs/protocol.md and docs/protocol.schema.json.</p>"
    )
