"""One WebSocket: who it is, its `open`, then a task that reads for its session and one that writes."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect

from swwatch.client import codes, protocol
from swwatch.client.protocol import End, Error, Open, Opened, ProtocolError, parse_client
from swwatch.serve.limits import MISTAKES, OPEN_WITHIN_S
from swwatch.serve.log import log

if TYPE_CHECKING:
    from swwatch.serve.session import ServedSession  # brings torch, which a door to other servers does without

LAST_WORDS_S = 2.0  # how long a client may take to read why its connection is closed
COUNTED = ("bad_message", "bad_frame", "too_large", "too_many_pixels")  # mistakes that are not the model's pace


class Gone(Exception):
    """The client has left; its argument is the close code, where there is one."""


class LiveConnection:
    """Drives one WebSocket from its handshake to its close."""

    subprotocol, token_subprotocol = protocol.SUBPROTOCOL, protocol.TOKEN_SUBPROTOCOL

    def __init__(self, websocket: WebSocket, server):
        """Args: server: has gate, limits, metrics and sessions."""
        self.websocket, self.server, self.limits = websocket, server, server.limits
        self._parted, self._last = asyncio.Event(), ()
        self._writer: asyncio.Task | None = None
        self._mistakes = 0
        self._open_within_s = OPEN_WITHIN_S

    def replace(self) -> None:
        """Another connection took this one's session, and at once all that is to be told."""
        self._part(End(reason="replaced"), codes.CLOSE_REPLACED)

    def restart(self) -> None:
        """The session goes on in the next server; this connection is told nothing more."""
        self._part(None, codes.CLOSE_RESTART)

    def _part(self, *last_words) -> None:
        self._last = last_words
        self._parted.set()
        if self._writer is not None:
            self._writer.cancel()

    async def run(self) -> None:
        """Serve the client until it or its session is over; never raises for what a client does."""
        self.server.metrics.connections.inc()
        try:
            await self._accept()
            session, opened = await self._open()
            try:
                await self._send(opened)
                close_code = await self._serve(session)
            finally:
                session.detach(self)
            await self._last_words(None, close_code)
        except ProtocolError as error:
            self.server.metrics.errors.labels(error.code).inc()
            code = codes.CLOSE_CODES.get(error.code, codes.CLOSE_PROTOCOL)
            await self._last_words(
                self._mistake(error), codes.CLOSE_GOING_AWAY if self.server.sessions.closing else code
            )
        except (Gone, WebSocketDisconnect):
            pass
        except Exception as error:
            log("connection broke", level=40, error=error)
            fault = ProtocolError("server_error", "a fault of the server's; its log has more", fatal=True)
            await self._last_words(self._mistake(fault), codes.CLOSE_ERROR)
        finally:
            self.server.metrics.connections.dec()

    # --- before the session -------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        socket, gate = self.websocket, self.server.gate
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(self.subprotocol if self.subprotocol in offered else None)
        if not gate.welcomes(socket.headers):
            raise ProtocolError("origin", "this server does not take sessions from that page", fatal=True)
        shown = [name.replace(self.token_subprotocol, protocol.TOKEN_SUBPROTOCOL) for name in offered]
        if not gate.knows(socket.headers, socket.query_params, shown):
            raise ProtocolError("unauthorised", "this server wants its token", fatal=True)

    async def _open(self) -> tuple["ServedSession", Opened]:
        """Wait for `open`. Where too many wait, this one may have to make room."""
        waiting = asyncio.create_task(self._wait_for_open())
        try:
            self.server.sessions.queue(waiting)
            await asyncio.wait({waiting}, timeout=self._open_within_s)
            if not waiting.done():
                raise ProtocolError("not_open", f"no `open` within {self._open_within_s:g} s", fatal=True)
        finally:
            waiting.cancel()
        if waiting.cancelled():
            raise ProtocolError("full", "too many connections wait for their `open`: try later", fatal=True)
        return await self._begin(waiting.result())

    async def _wait_for_open(self) -> Open:
        """Anything else is a mistake, but not the end."""
        while True:
            try:
                message = await self._before_open(await self._receive())
                if message is not None:
                    return message
            except ProtocolError as error:
                self._count(error)
                await self._send(self._mistake(error))

    async def _before_open(self, message: str | bytes) -> Open | None:
        """What a message asks for, where it asks for a session."""
        opening = self._parse(message)
        if not isinstance(opening, Open):
            raise ProtocolError("not_open", "the first message must be `open`")
        return opening

    async def _begin(self, opening: Open) -> tuple["ServedSession", Opened]:
        return await self.server.sessions.open(opening, self)

    # --- with it ------------------------------------------------------------------------------------------------

    async def _serve(self, session: "ServedSession") -> int:
        """Read and write until one of them is over. Returns the close code."""
        writer = self._writer = asyncio.create_task(self._write(session))
        tasks = {writer, asyncio.create_task(self._read(session)), asyncio.create_task(self._parted.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        if self._parted.is_set():
            await self._last_words(*self._last)
            raise Gone
        for result in results:
            if isinstance(result, Gone) and result.args == (codes.CLOSE_DONE,):
                session.stop("stopped")  # it said goodbye, and will not be back
            if isinstance(result, Exception):
                raise result
        return writer.result() if writer in done else codes.CLOSE_DONE

    async def _write(self, session: "ServedSession") -> int:
        while not self._parted.is_set():  # it may have been before this began
            message = await session.outbox.next()
            try:
                await self._send(message)
            except Gone:
                await asyncio.sleep(LAST_WORDS_S)  # the reader is told how it left, which this one is not
                raise
            if isinstance(message, End):
                reasons = {"shutdown": codes.CLOSE_GOING_AWAY, "error": session.telling.close_code}
                return reasons.get(message.reason, codes.CLOSE_DONE)
        return codes.CLOSE_REPLACED

    async def _read(self, session: "ServedSession") -> None:
        while True:
            message = await self._receive()
            try:
                await self._obey(session, message)
            except ProtocolError as error:
                try:
                    self._count(error)
                except ProtocolError as fatal:
                    session.fail(fatal)
                    await asyncio.Event().wait()  # the writer tells it, then ends this task
                await session.outbox.error(self._mistake(error))
                self.server.metrics.errors.labels(error.code).inc()

    async def _obey(self, session: "ServedSession", message: str | bytes) -> None:
        if isinstance(message, bytes):
            await session.take(message)
        else:
            await session.command(self._parse(message))

    # --- the wire -----------------------------------------------------------------------------------------------

    def _parse(self, message: str | bytes):
        if isinstance(message, bytes):
            raise ProtocolError("not_open", "frames come after `open`")
        if len(message.encode()) > self.limits.max_message_bytes:
            raise ProtocolError("too_large", f"a message may have {self.limits.max_message_bytes} bytes")
        return parse_client(message)

    def _mistake(self, error: ProtocolError) -> Error:
        return Error(code=error.code, message=error.message, fatal=error.fatal)

    def _count(self, error: ProtocolError) -> None:
        """Too many mistakes are one fatal one."""
        self._mistakes += error.code in COUNTED
        if self._mistakes > MISTAKES:
            raise ProtocolError("bad_message", f"more than {MISTAKES} mistakes", fatal=True) from error

    async def _receive(self) -> str | bytes:
        await asyncio.sleep(0)  # many may be here already, and it is the turn of others
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise Gone(message.get("code"))
        text = message.get("text")
        return message["bytes"] if text is None else text

    async def _send(self, message: protocol.Message) -> None:
        await self._send_text(message.wire())

    async def _send_text(self, text: str) -> None:
        try:
            await self.websocket.send_text(text)
        except (OSError, RuntimeError, WebSocketDisconnect) as error:  # RuntimeError: it was closed meanwhile
            raise Gone from error

    async def _last_words(self, message: protocol.Message | None, code: int) -> None:
        """A last message where there is one, then the close; a client that does not read is not waited for."""
        with contextlib.suppress(Gone, TimeoutError, OSError, RuntimeError, WebSocketDisconnect):
            async with asyncio.timeout(LAST_WORDS_S):
                if message is not None:
                    await self._send(message)
                await self.websocket.close(code)
