"""One WebSocket of a client: how it is opened, and what its end means."""

import asyncio
import contextlib
import time

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from swwatch.client.address import Address
from swwatch.client.errors import ServerError, Unreachable
from swwatch.client.protocol import SUBPROTOCOL, Error, Message, Open, Opened, parse_server

CODES = {4400: "bad_message", 4401: "unauthorised", 4403: "origin", 4429: "full", 4500: "server_error"}
TOO_BIG = 1009
RETRY_S, MOST_RETRY_S = 0.1, 2.0  # pauses between attempts to reconnect double


class Lost(Exception):
    """The connection broke; the session may stand."""


class _Connect(connect):
    def process_redirect(self, exc):
        return exc  # the token is for this server alone


class Connection:
    """Sends and receives whole messages."""

    def __init__(self, socket: ClientConnection, silence_s: float):
        self._socket, self._silence_s = socket, silence_s

    @classmethod
    async def open(
        cls, address: Address, timeout_s: float, silence_s: float, message: Open
    ) -> tuple["Connection", Opened]:
        """Connect, and open a session or go on with one.

        Raises:
            Unreachable: no server there.
            ServerError: it refuses.
        """
        try:
            socket = await _Connect(
                address.live,
                subprotocols=[SUBPROTOCOL],
                additional_headers=address.headers,
                compression=None,  # pictures do not shrink
                open_timeout=timeout_s,
                close_timeout=2,
                ping_interval=None,  # statistics come every second; see `receive`
                proxy=True if address.may_proxy else None,
            )
        except InvalidStatus as error:
            where = error.response.headers.get("Location")
            hint = f"go to {where}" if where else "is a swwatch server there?"
            raise Unreachable(f"{address.base} answers with HTTP {error.response.status_code}: {hint}") from error
        except (OSError, WebSocketException) as error:  # a TimeoutError is an OSError
            why = error or "no answer in time"
            raise Unreachable(f"cannot reach {address.base}: {why}; is `swwatch serve` running there?") from error
        connection = cls(socket, silence_s)
        try:
            if socket.subprotocol != SUBPROTOCOL:
                raise Unreachable(f"{address.base} does not speak {SUBPROTOCOL}: is a swwatch server there?")
            async with asyncio.timeout(max(timeout_s, 60.0)):  # it may have to load a model or find a source
                return connection, await connection._hello(message)
        except (Lost, TimeoutError) as error:
            connection.abort()
            raise Unreachable(f"{address.base} took the connection and did not answer") from error
        except BaseException:
            connection.abort()
            raise

    @classmethod
    async def open_again(
        cls, address: Address, timeout_s: float, silence_s: float, message: Open, grace_s: float
    ) -> tuple["Connection", Opened]:
        """As `open`, as often as it takes within the session's grace. Raises UserError: the session is lost."""
        over_s, pause_s = time.monotonic() + grace_s, RETRY_S
        while True:
            try:
                return await cls.open(address, timeout_s, silence_s, message)
            except (Unreachable, ServerError) as error:
                if isinstance(error, ServerError) and error.code != "full":
                    raise
                if time.monotonic() + pause_s > over_s:
                    reason = f"the connection broke, and the session's {grace_s:g} s of grace are over"
                    raise Unreachable(f"{reason}: {error}") from error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_RETRY_S)

    async def _hello(self, message: Open) -> Opened:
        with contextlib.suppress(Lost):  # a server that closed at once has said why: it comes next
            await self.send(message.wire())
        while True:
            answer = await self.receive(forever=True)
            if isinstance(answer, Error):
                raise ServerError(answer.code, answer.message)
            if isinstance(answer, Opened):
                return answer

    async def send(self, message: str | bytes) -> None:
        """Raises Lost. Waits where the network takes no more."""
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            raise Lost from error

    async def receive(self, *, forever: bool = False) -> Message:
        """The next message. A server that says nothing for `silence_s`, though it tells statistics, is gone.

        Raises:
            Lost: the connection broke.
            ServerError: the server closed it, and would again.
        """
        try:
            async with asyncio.timeout(None if forever else self._silence_s):
                text = await self._socket.recv()
        except TimeoutError as error:
            self.abort()
            raise Lost from error
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd else None
            if code == TOO_BIG:
                raise ServerError("too_large", "a message was far over the limits that `opened` tells") from error
            if code in CODES:
                raise ServerError(CODES[code], error.rcvd.reason or "it closed the connection") from error
            raise Lost from error
        try:
            return parse_server(text)
        except ValidationError as error:
            raise ServerError("version", "a message that this client does not know") from error

    async def close(self) -> None:
        """Say goodbye: the server stops a session that has not ended."""
        await self._socket.close()

    def abort(self) -> None:
        """Break it off, without a goodbye."""
        self._socket.transport.abort()
