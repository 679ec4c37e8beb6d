"""The web server around the application: its signals, and an orderly end in a bounded time."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

from swwatch.serve.app import Server, create_app
from swwatch.serve.log import log
from swwatch.serve.sockets import Http, WebSocket

SESSIONS_S, SOCKETS_S, MODELS_S = 4.0, 2, 4.0  # how long each part of the end may take


class Web(uvicorn.Server):
    """uvicorn that ends the sessions before it closes their sockets, and leaves with exit code 0 after a signal."""

    def __init__(self, config: uvicorn.Config, server: Server, announce: Callable[[], None]):
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


def run(server: Server, listener: socket.socket, announce: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for clients. Args: announce: see `web`."""
    try:
        web(server, announce).run(sockets=[listener])
    finally:
        close(server)


def web(server: Server, announce: Callable[[], None]) -> Web:
    """The web server of one server.

    Args:
        announce: called when clients are answered and signals are heeded.
    """
    config = uvicorn.Config(
        create_app(server),
        log_config=None,
        access_log=False,
        server_header=False,
        http=Http,
        ws=WebSocket,  # reads no further while a message waits, and waits for a client that does not read
        ws_max_size=server.limits.max_size,
        ws_per_message_deflate=False,  # pictures do not shrink, and what inflates is a risk
        timeout_graceful_shutdown=SOCKETS_S,
        limit_concurrency=16 * server.limits.max_sessions + 128,
    )
    return Web(config, server, announce)


def close(server: Server) -> None:
    """Stop the models and remove what clients sent."""
    sessions = server.sessions
    sessions.stages.close(MODELS_S)
    sessions.uploads.close()
    sessions.recordings.close()
    if sessions.keeping is not None:
        sessions.keeping.close()
    log("stopped", threads=threading.active_count(), pid=os.getpid())
