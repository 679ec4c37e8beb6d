"""The web server around the application: its signals, and an orderly end in a bounded time."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from swwatch.serve.auth import AccessRules
from swwatch.serve.limits import WaitingConnections
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.settings import Limits
from swwatch.serve.sockets import Http, WebSocket

SESSIONS_S, SOCKETS_S, MODELS_S = 4.0, 2, 4.0  # how long each part of the end may take


class Servable(Protocol):
    """What a web server is of: `app.Server`, or `front.Front` of several such.

    Attributes:
        sessions: has a length, and `shutdown`.
    """

    gate: AccessRules
    limits: Limits
    metrics: Metrics
    sessions: WaitingConnections

    def app(self) -> FastAPI:
        """Its addresses."""

    def close(self, timeout_s: float) -> None:
        """Stop what it holds, and remove what clients sent."""


class WebServer(uvicorn.Server):
    """uvicorn that ends the sessions before it closes their sockets, and leaves with exit code 0 after a signal."""

    def __init__(self, config: uvicorn.Config, server: Servable, announce: Callable[[], None]):
        super().__init__(config)
        self._server, self._announce = server, announce

    @contextlib.contextmanager
    def capture_signals(self):
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self.handle_exit, name, None)
        try:
            yield
        finally:
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(name)
                signal.signal(name, signal.SIG_IGN)  # what is left to do is short, and is to be done

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets=None) -> None:
        log("stopping", sessions=len(self._server.sessions))
        for listening in self.servers:
            listening.close()
        await self._server.sessions.shutdown(SESSIONS_S)
        await super().shutdown(sockets)


def run(server: Servable, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for clients. Args: announce: see `web`."""
    try:
        web(server, announce).run(sockets=[listener])
    finally:
        server.close(MODELS_S)
        log("stopped", threads=threading.active_count(), pid=os.getpid())


def web(server: Servable, announce: Callable[[], None]) -> WebServer:
    """The web server of one server.

    Args:
        announce: called when clients are answered and signals are heeded.
    """
    config = uvicorn.Config(
        server.app(),
        log_config=None,
        access_log=False,
        server_header=False,
        http=Http,
        ws=WebSocket,  # reads no further while a message waits, and waits for a client that does not read
        ws_max_size=server.limits.max_size,
        ws_per_message_deflate=False,  # pictures do not shrink, and what inflates is a risk
        timeout_graceful_shutdown=SOCKETS_S,
        limit_concurrency=room_for(16 * server.limits.max_sessions + 128),
    )
    return WebServer(config, server, announce)


def room_for(connections: int) -> int:
    """So many connections, or fewer where the system lets a process have too few files: half are for others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 2 * connections:
        soft = 2 * connections if hard == resource.RLIM_INFINITY else min(2 * connections, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else min(connections, soft // 2)
