"""What stands before every address of a server: the page, who may come in, how mistakes are told. Without torch."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from swwatch.client.codes import ProtocolError
from swwatch.serve.log import log
from swwatch.serve.refusals import error_body, refusal

PAGE = Path(__file__).parent / "page"
OPEN_TO_ALL = "/page/"  # all below it, and the page itself: it holds no secret, and a browser asks for it without
HEADERS = {
    "content-security-policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; "
    "media-src 'self' blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "permissions-policy": "camera=(self), display-capture=(self), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def add_door(app: FastAPI, server) -> None:
    """The page, the door and what it tells. Args: server: has gate and metrics."""
    _add_errors(app)

    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    app.add_middleware(Door, server=server)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(server.gate.origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type"],
    )


def add_sockets(app: FastAPI, server, live, realtime) -> None:
    """The addresses of sockets. Args: live, realtime: made of a WebSocket and the server, and run."""

    @app.websocket("/api/live")
    async def ours(websocket: WebSocket):
        await live(websocket, server).run()

    @app.websocket("/v1/realtime")
    async def openais(websocket: WebSocket):
        await realtime(websocket, server).run()


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

    def __init__(self, app: ASGIApp, server):
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
        except asyncio.CancelledError:  # the server waits no longer
            if not status:
                await refusal(ProtocolError("full", "the server is stopping"))(scope, receive, send_with_headers)
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
        path = request.scope["path"]  # by which it is routed; that of its URL has no tabs and line ends
        if path == "/health":
            return None
        if not self.server.gate.welcomes(request.headers):
            return refusal(ProtocolError("origin", "this server does not answer that page or name"))
        is_open = path == "/" or path.startswith(OPEN_TO_ALL)
        if not is_open and not self.server.gate.knows(request.headers, request.query_params):
            return refusal(ProtocolError("unauthorised", "this server wants its token"))
        return None


async def while_there(request: Request, work: Awaitable):
    """What some work comes to. Raises ClientDisconnect: the client left before, and the work was cancelled."""
    tasks = working, _ = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            log("client left")
            raise ClientDisconnect
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
