"""The HTTP side: the page, what the server has, uploads, recordings, metrics; and the door to the live socket."""

import asyncio
import contextlib
import html
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from swwatch.client import protocol
from swwatch.client.codes import ProtocolError
from swwatch.engine.choose import ENGINES
from swwatch.engine.door import own_question, pace_of
from swwatch.serve.auth import Gate
from swwatch.serve.connection import Connection
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.openai.http import add_openai
from swwatch.serve.openai.realtime import Realtime
from swwatch.serve.record import KINDS, SRT
from swwatch.serve.refusals import error_body, refusal
from swwatch.serve.sessions import Sessions
from swwatch.serve.settings import Limits

PAGE = Path(__file__).parent / "page"
OPEN_TO_ALL = ("/health", "/page/")  # and the page itself: they hold no secret, and a browser asks for them without
HEADERS = {
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; "
    "media-src 'self' blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "permissions-policy": "camera=(self), display-capture=(self), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@dataclass
class Server:
    """What belongs to one running server."""

    gate: Gate
    limits: Limits
    metrics: Metrics
    sessions: Sessions
    model: str = ""
    notes: list[str] = field(default_factory=list)

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
    """The application of one server; `Sessions.shutdown` is its caller's duty, before the sockets are closed."""

    @contextlib.asynccontextmanager
    async def life(_):
        await server.sessions.take_up()
        sweeper = asyncio.create_task(server.sessions.sweep())
        yield
        sweeper.cancel()

    app = FastAPI(title="swwatch", version=version("swwatch"), docs_url=None, redoc_url=None, lifespan=life)
    _add_errors(app)
    _add_addresses(app, server)
    _add_files(app, server)
    add_openai(app, server)

    @app.websocket("/api/live")
    async def live(websocket: WebSocket):
        await Connection(websocket, server).run()

    @app.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket):
        await Realtime(websocket, server).run()

    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    app.add_middleware(Door, server=server)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(server.gate.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type"],
    )
    return app


def _add_addresses(app: FastAPI, server: Server) -> None:
    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(PAGE / "index.html")

    @app.get("/health")
    async def health() -> dict:
        """Whether the server is up; needs no token."""
        return {"status": "ok", "sessions": len(server.sessions), "version": app.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

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


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ProtocolError)
    async def known(_, error: ProtocolError):
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def http(_, error: HTTPException):
        code = "not_found" if error.status_code == 404 else "bad_message"
        return JSONResponse(error_body(code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation(_, error: RequestValidationError):
        return refusal(ProtocolError("bad_message", str(error.errors()[0]["msg"])))

    @app.exception_handler(ClientDisconnect)
    async def gone(_, error: ClientDisconnect):
        return Response(status_code=400)  # nobody reads it


class Door:
    """Every HTTP request: who may come in, a log line without query or body, no trace to the client when it breaks."""

    def __init__(self, app: ASGIApp, server: Server):
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def send_with_headers(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        try:
            if (refused := self._refuse(Request(scope))) is not None:
                await refused(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        except Exception as error:
            log("request broke", level=40, error=error)
            if not status:
                fault = ProtocolError("server_error", "a fault of the server's; its log has more")
                await refusal(fault)(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # never the path itself: it may name an upload
            self.server.metrics.requests.labels(route, status).inc()
            took_ms = round(1000 * (time.monotonic() - began), 1)
            log("request", level=10, method=scope["method"], route=route, status=status, ms=took_ms)

    def _refuse(self, request: Request) -> Response | None:
        path = request.url.path
        if path == "/health":
            return None
        if not self.server.gate.welcomes(request.headers):
            return refusal(ProtocolError("origin", "this server does not answer that page or name"))
        is_open = path == "/" or path.startswith(OPEN_TO_ALL)
        if not is_open and not self.server.gate.knows(request.headers, request.query_params):
            return refusal(ProtocolError("unauthorised", "this server wants its token"))
        return None


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
