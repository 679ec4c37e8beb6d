"""A server that does to each connection what its script says, for faults that a real one does not show on demand."""

import asyncio
import json
import threading

from websockets.asyncio.server import serve

from swwatch.client.protocol import SUBPROTOCOL, Ack, End, Frame, LimitsTold, Opened, Token

LIMITS = LimitsTold(
    frame_bytes=500_000,
    pixels=10**6,
    frame_rate=60.0,
    message_bytes=16384,
    question_chars=100,
    idle_s=60.0,
    total_s=600.0,
    tokens=100,
)


def opened(**how) -> Opened:
    usual = {"session": "secret", "variant": "group", "engine": "serial", "why": "asked for", "schedule": "wait-k:3"}
    usual |= {"question": "What?", "rate": 2.0, "policy": "drop_oldest", "limits": LIMITS, "grace_s": 2.0}
    return Opened(**usual | {"left_s": 600.0} | how)


def token(n: int, size: int = 1) -> Token:
    return Token(
        n=n, text=f" w{n}" * size, step=n, newest_visible_step=n, t_frame_s=0.5, t_emit_s=1.0, lag_s=0.5, index=n
    )


def ack(number: int, **how) -> Ack:
    return Ack(frame=number, **{"taken": True, "dropped": 0, "queued": 0} | how)


def end(n: int, reason: str = "finished") -> End:
    return End(n=n, reason=reason, tokens=n)


class Line:
    """One connection as a script sees it."""

    def __init__(self, socket):
        self.socket, self.got, self.headers = socket, [], socket.request.headers

    async def tell(self, *messages) -> None:
        for message in messages:
            await self.socket.send(message.wire())

    async def next(self):
        """What the client sent: a dict, or a Frame."""
        message = await self.socket.recv()
        self.got.append(Frame.parse(message) if isinstance(message, bytes) else json.loads(message))
        return self.got[-1]

    async def until(self, kind: str) -> dict:
        while not isinstance(message := await self.next(), dict) or message["type"] != kind:
            pass
        return message

    def break_off(self) -> None:
        self.socket.transport.abort()


class Scripted:
    """Runs one script for each connection in turn: `async def script(line)`. As a context manager.

    Attributes:
        url: of the server.
        lines: the connections so far.
    """

    def __init__(self, *scripts, subprotocols=(SUBPROTOCOL,)):
        self.scripts, self.lines, self.failures = list(scripts), [], []
        self._subprotocols, self._ready = list(subprotocols) or None, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with serve(self._take, "127.0.0.1", 0, subprotocols=self._subprotocols, close_timeout=1) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            await self._over.wait()

    async def _take(self, socket) -> None:
        line = Line(socket)
        self.lines.append(line)
        try:
            await self.scripts.pop(0)(line)
        except AssertionError as error:
            self.failures.append(error)
            raise

    def __enter__(self) -> "Scripted":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)
        assert not self.failures, self.failures
