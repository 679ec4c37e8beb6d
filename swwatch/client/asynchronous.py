"""The client for asyncio; synchronous.py is made of it. What it does about broken connections and slow networks:

- A connection that breaks is made anew within the server's grace time, and the session goes on: numbered events are
  neither lost nor doubled. Frames that were on their way are counted as lost, those in between as skipped; `pause` and
  `end` are told again. A question on its way may be lost: then no `Asked` comes.
- Not more than `max_in_flight` frames are unacknowledged: what comes meanwhile is skipped, and counted.
- Not more than `max_events` events wait to be read: then this client reads no further, and the server holds back the
  session.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from swwatch.client import protocol
from swwatch.client.address import locate
from swwatch.client.connection import Connection, Lost
from swwatch.client.errors import ServerError
from swwatch.client.grid import on_grid
from swwatch.client.inbox import Inbox
from swwatch.client.pictures import as_jpeg
from swwatch.client.progress import Counts, Progress, Reconnected
from swwatch.client.protocol import VERSION, Ack, End, Error, Event, File, Frame, Open, Opened, Upload, Url
from swwatch.client.web import Web
from swwatch.errors import UserError


class AsyncClient:
    """A client of one server, with one session at a time.

    Attributes:
        web: the HTTP side: info, files, upload, delete, recording.
        opened: the server's answer to `open`; None before it.
        end_message: its `End`; None before that.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        max_in_flight: int = 8,
        max_events: int = 1024,
        timeout_s: float = 10.0,
        silence_s: float = 20.0,
    ):
        """
        Args:
            url: as `swwatch serve` prints it; `#token=...` in it is the token.
            timeout_s: for connecting.
            silence_s: a server that says nothing for so long counts as a broken connection.
        Raises:
            UserError: no address.
        """
        if max_in_flight < 1 or max_events < 1:
            raise UserError("max_in_flight and max_events must be at least 1")
        address = locate(url, token)
        self._how = address, timeout_s, silence_s
        self._max_in_flight, self._max_events = max_in_flight, max_events
        self.web = Web(address, timeout_s)
        self.opened: Opened | None = None
        self._worker: asyncio.Task | None = None
        self._reset()

    def _reset(self) -> None:
        self._progress = Progress()
        self._inbox = Inbox(self._max_events)
        self._fault: ServerError | None = None  # fatal; its `end` comes next
        self.end_message: End | None = None
        self._over = self._finishing = False
        self._paused: bool | None = None  # None: never told
        self._connection: Connection | None = None
        self._ready, self._room = asyncio.Event(), asyncio.Event()

    # --- the session ------------------------------------------------------------------------------------------------

    async def open(self, *, source: Upload | File | Url | None = None, **how) -> Opened:
        """Begin a session.

        Args:
            source: what the server reads by itself: `web.upload(path)`, File, Url. None: frames are sent.
            how: variant, engine, schedule, question, rate, policy, record; what is left out is the server's default.
        Raises:
            UserError: a wrong argument, Unreachable, ServerError.
        """
        if self._worker is not None and not self._over:
            raise UserError("this client has a session: end it, or make another client")
        try:
            message = Open(type="open", version=VERSION, source=source, **how)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"open: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        self._reset()
        self._connection, self.opened = await Connection.open(*self._how, message)
        self._ready.set()
        self._worker = asyncio.create_task(self._work())
        return self.opened

    async def send(self, timestamp_s: float, picture: np.ndarray | bytes, *, wait: bool = False) -> bool:
        """Send a frame.

        Args:
            timestamp_s: in seconds of the stream, from any zero.
            picture: (H, W, 3) uint8 RGB, which is sent as a JPEG; or a JPEG, PNG or WebP file's bytes.
            wait: for acknowledgements, rather than to skip it.
        Returns:
            Whether it is on its way; False where it was skipped: no connection, no acknowledgements, or the end.
        Raises:
            UserError: no session, no picture, no time, or over the server's limit.
        """
        if self.opened is None:
            raise UserError("no session: call open first")
        while wait and not self._over and not self._may_send():
            self._room.clear()
            await self._room.wait()
        if not self._may_send():
            self._progress.skip()
            return False
        data = picture if isinstance(picture, bytes) else await asyncio.to_thread(as_jpeg, picture)
        limit = self.opened.limits.frame_bytes
        if not data or len(data) > limit:
            raise UserError(f"a picture of {len(data)} bytes: the server takes 1 to {limit}")
        if not math.isfinite(timestamp_s) or abs(timestamp_s) > protocol.MAX_TIMESTAMP_S:
            raise UserError(f"a frame at {timestamp_s} s: times are seconds within {protocol.MAX_TIMESTAMP_S:.0e}")
        if not self._may_send():  # meanwhile
            self._progress.skip()
            return False
        try:
            await self._connection.send(bytes(Frame(self._progress.frame(), float(timestamp_s), data)))
        except Lost:
            return False  # counted as lost by whoever reconnects
        return True

    def _may_send(self) -> bool:
        return self._ready.is_set() and not self._over and self._progress.in_flight < self._max_in_flight

    async def ask(self, question: str) -> None:
        """Another question, in effect from the next step on; `Asked` tells when. Raises UserError: too long, ended."""
        if self.opened is not None and len(question) > self.opened.limits.question_chars:
            raise UserError(f"a question may have {self.opened.limits.question_chars} characters here")
        if not question:
            raise UserError("an empty question")
        await self._tell(protocol.Ask(type="ask", question=question))

    async def pause(self) -> None:
        """Be silent, and go on watching."""
        self._paused = True
        await self._tell(protocol.Pause(type="pause"))

    async def resume(self) -> None:
        """Speak again."""
        self._paused = False
        await self._tell(protocol.Resume(type="resume"))

    async def stop(self) -> None:
        """End now."""
        await self._tell(protocol.Stop(type="stop"))

    async def end(self) -> None:
        """No more frames: the rest is spoken."""
        self._finishing = True
        await self._tell(protocol.Finish(type="end"))

    async def _tell(self, message: protocol.Message) -> None:
        if self.opened is None:
            raise UserError("no session: call open first")
        while True:
            await self._ready.wait()
            if self._over:
                raise UserError("the session has ended: open another one")
            connection = self._connection
            try:
                return await connection.send(message.wire())
            except Lost:
                if self._connection is connection and not self._over:  # until it is replaced
                    self._ready.clear()

    # --- what comes back --------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """Frames sent, skipped, lost; reconnects."""
        return self._progress.counts

    @property
    def ended(self) -> bool:
        """Nothing more will come; there may be events to be read."""
        return self._over

    async def read(self, timeout_s: float | None = None) -> list[protocol.Message | Reconnected]:
        """Events since then: Watched, Token, Decided, Turn, Asked, Dropped, Stats, Error, Reconnected; End as last.

        Args:
            timeout_s: how long to wait for one; None for as long as it takes.
        Returns:
            Nothing if the time was over, or if End had been read before.
        Raises:
            UserError: the session failed (ServerError), or its connection is lost for good (Unreachable).
        """
        if self.opened is None:
            raise UserError("no session: call open first")
        return await self._inbox.read(timeout_s)

    async def __aiter__(self) -> AsyncIterator[protocol.Message | Reconnected]:
        while events := await self.read():
            for event in events:
                yield event

    async def feed(self, frames: Iterable[tuple[float, np.ndarray]], *, wait: bool = False) -> None:
        """Send what the model's grid takes of a source, `opened.fps` frames a second, as they come; then `end`.

        Args:
            frames: (timestamp_s, frame), such as data.live_sources.frames_of gives; iterated in a thread.
            wait: see `send`.
        Raises:
            UserError: the source's, after `end`.
        """
        if self.opened is None:
            raise UserError("no session: call open first")
        grid = on_grid(frames, self.opened.fps)
        try:
            while not self._over and (frame := await asyncio.to_thread(next, grid, None)) is not None:
                await self.send(*frame, wait=wait)
        except asyncio.CancelledError:
            raise
        except BaseException:
            await self._end_if_open()
            raise
        await self._end_if_open()

    async def _end_if_open(self) -> None:
        if not self._over:
            with contextlib.suppress(UserError):  # it ended meanwhile
                await self.end()

    async def watch(
        self, frames: Iterable[tuple[float, np.ndarray]], *, wait: bool = False
    ) -> AsyncIterator[protocol.Message | Reconnected]:
        """Feed a source and iterate over the events, to the end of both.

        Raises:
            UserError: as `read` does, and what `frames` raises, once the rest is said.
        """
        feeding = asyncio.create_task(self.feed(frames, wait=wait))
        stop = getattr(frames, "stop", lambda: None)  # a source that is being waited for lets go
        try:
            async for event in self:
                yield event
            stop()
            await feeding
        except ServerError:
            if feeding.done() and not feeding.cancelled():
                feeding.result()  # why there was nothing to watch is the better reason
            raise
        finally:
            stop()
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Read until the end, over as many connections as it takes; whatever goes wrong is the reader's to know."""
        try:
            while self.end_message is None:
                try:
                    await self._take(await self._connection.receive())
                except Lost:
                    await self._reconnect()
        except Exception as error:
            self._finish()
            await self._inbox.put(self._fault or error)
        finally:
            self._finish()
            with contextlib.suppress(Exception):  # it is over, however it closes
                await self._connection.close()

    def _finish(self) -> None:
        self._over = True
        self._ready.set()  # who waits finds out
        self._room.set()

    async def _take(self, message: protocol.Message) -> None:
        if isinstance(message, Ack):
            self._progress.ack(message)
            self._room.set()
        elif isinstance(message, Error) and message.fatal:
            self._progress.is_new(message)
            self._fault = ServerError(message.code, message.message)
        elif isinstance(message, End):
            self.end_message = message
            self._finish()
            await self._inbox.put(self._fault or message)
        elif not isinstance(message, Event) or self._progress.is_new(message):
            await self._inbox.put(message)

    async def _reconnect(self) -> None:
        """Raises UserError: the session is lost."""
        if self._fault is not None:
            raise self._fault
        self._ready.clear()
        began_s, lost = time.monotonic(), self._progress.broke()
        resume = Open(type="open", version=VERSION, resume=self.opened.session, seen=self._progress.seen)
        self._connection, opened = await Connection.open_again(*self._how, resume, self.opened.grace_s)
        self._progress.reconnected()
        orders = [] if self._paused is None else [protocol.Pause(type="pause")]
        if self._paused is False:
            orders = [protocol.Resume(type="resume")]
        with contextlib.suppress(Lost):  # the next receive tells
            for order in orders + [protocol.Finish(type="end")] * self._finishing:
                await self._connection.send(order.wire())
        self._ready.set()
        self._room.set()
        await self._inbox.put(Reconnected(time.monotonic() - began_s, opened.missed, lost))

    async def close(self) -> None:
        """Leave: a session that has not ended is stopped."""
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        self._inbox.leave()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_) -> None:
        await self.close()

    # --- beside the session -----------------------------------------------------------------------------------------

    async def info(self) -> dict:
        """What the server has."""
        return await self.web.info()

    async def upload(self, path: str | Path) -> Upload:
        """Send a video file, for `open(source=...)`."""
        return await self.web.upload(path)

    async def recording(self, kind: str = "jsonl", name: str | None = None) -> str:
        """The text of a recording, "jsonl" or "vtt"; by default of this client's session, when it has ended."""
        name = name or (self.end_message and self.end_message.recording)
        if not name:
            raise UserError("no recording: open the session with record=True, and read it to its end")
        return await self.web.recording(name, kind)
