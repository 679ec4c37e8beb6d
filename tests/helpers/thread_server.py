"""A server in a thread of this process, with a tiny random checkpoint for each variant; a door before some."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path

from swwatch.serve.auth import AccessRules
from swwatch.serve.command import bind, build, serve_one
from swwatch.serve.front import several
from swwatch.serve.running import MODELS_S, web
from swwatch.serve.settings import ServeSettings


class Threaded:
    """Attributes: url, server (an app.Server or a front.Front)."""

    def __init__(self, server):
        self.server = server
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


class ThreadServer(Threaded):
    """With a model."""

    def __init__(self, checkpoint: Path, variants: list[str], *, token: str | None = None, **settings):
        models = [f"{variant}={checkpoint}" for variant in variants]
        super().__init__(build(ServeSettings(model=models, device="cpu", **settings), AccessRules(token)))


class ThreadFront(Threaded):
    """Before servers that run already."""

    def __init__(
        self, servers: list[Threaded], *, token: str | None = None, their_token: str | None = None, **settings
    ):
        urls = ",".join(server.url for server in servers)
        settings = ServeSettings(replicas=urls, token=their_token, **settings)
        self._held = ExitStack()
        super().__init__(self._held.enter_context(several(settings, AccessRules(token), serve_one)))

    def close(self) -> None:
        super().close()
        self._held.close()
