"""uvicorn's two protocols, with bounds on what a client can cost before anything of ours is asked."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

UNREAD_BYTES = 1_000_000  # answers that a connection has not read, pongs included; with more it is cut
FRAGMENTS = 1024  # of one message
PIECE = 4096  # bytes that are read of a WebSocket at a time
REQUEST_WITHIN_S = 10.0
LINGER_S = 20.0  # for what a closed WebSocket has not read


class Http(H11Protocol):
    """Connections that ask for nothing, or read no answer, end soon, and sooner where others need their place."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.began_s = self.loop.time()
        self.loop.call_later(REQUEST_WITHIN_S, self._end_if_silent)
        if len(self.connections) >= self.limit_concurrency:
            idle = [one for one in self.connections if one.is_idle and one is not self]
            oldest = min((one for one in idle if not one.transport.is_closing()), key=_began_s, default=None)
            if oldest is not None:
                oldest.transport.abort()

    @property
    def is_idle(self) -> bool:
        """Nobody works for it."""
        return self.cycle is None or self.cycle.response_complete or self.flow.write_paused

    def _end_if_silent(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:  # no request, and no WebSocket
            self.transport.abort()


class WebSocket(WebSocketsSansIOProtocol, asyncio.BufferedProtocol):
    """What waits to go out is bounded, whatever it answers; who sends is there, though its pong may wait unread.

    It is read in small pieces: in the 256 KB that asyncio would read are pings for a second of work, and others wait.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._piece = memoryview(bytearray(PIECE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._piece

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._piece[:nbytes]))

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.began_s = self._heard_s = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """It is over for us, or does not read what it is told."""
        return self.close_sent or not self.writable.is_set()

    def data_received(self, data: bytes) -> None:
        self._heard_s = self.loop.time()
        super().data_received(data)
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.get_write_buffer_size() > UNREAD_BYTES or len(self.frames) > FRAGMENTS:
            self.transport.abort()

    def handle_ping(self) -> None:
        """Pongs go out together, when all that came is understood."""

    def keepalive_timeout(self) -> None:
        if self.read_paused or self.loop.time() - self._heard_s < self.ping_timeout:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    def on_task_complete(self, task) -> None:
        super().on_task_complete(task)
        self.loop.call_later(LINGER_S, self.transport.abort)


def _began_s(connection: Http | WebSocket) -> float:
    return connection.began_s
