"""A server in a thread of this process, with a tiny random checkpoint for each variant."""

import socket
import threading
from pathlib import Path

from swwatch.serve.auth import Gate
from swwatch.serve.command import bind, build
from swwatch.serve.running import MODELS_S, web
from swwatch.serve.settings import ServeSettings


class ThreadServer:
    """Attributes: url, server (an app.Server)."""

    def __init__(self, checkpoint: Path, variants: list[str], *, token: str | None = None, **settings):
        models = [f"{variant}={checkpoint}" for variant in variants]
        self.server = build(ServeSettings(model=models, device="cpu", **settings), Gate(token))
        listener, began = bind("127.0.0.1", 0), threading.Event()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # who does not read is noticed soon
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._web = web(self.server, began.set)
        self._thread = threading.Thread(target=self._web.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        assert began.wait(60)

    @property
    def sessions(self) -> int:
        return len(self.server.sessions)

    def close(self) -> None:
        """In an orderly way."""
        self._web.should_exit = True
        self._thread.join(30)
        self.server.close(MODELS_S)
        assert not self._thread.is_alive()
