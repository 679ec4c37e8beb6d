"""One client's session: a LiveSession of the model's, its clock, who is connected, and how it ends.

Everything here runs in the event loop, except what is handed to `threads`: reading the model's events, decoding
pictures, writing nothing.
"""

import asyncio
import time
from typing import Protocol

from swwatch.client import protocol
from swwatch.client.protocol import Frame, Opened, ProtocolError, Reason
from swwatch.errors import UserError
from swwatch.live.stage import Ended, LiveSession, Suspended
from swwatch.rules.schedule import seconds_of_step
from swwatch.serve.limits import AHEAD_S, MAX_ASKS, ORDERS_PER_S, TokenBucket
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.pictures import IncomingPictures
from swwatch.serve.record import Recorder
from swwatch.serve.settings import Limits
from swwatch.serve.telling import Telling
from swwatch.serve.threads import Threads

READ_S = 0.5  # how long a thread waits for the model's next event before it looks around
STOP_WITHIN_S = 5.0  # a model that has not ended by then is not waited for


class Connected(Protocol):
    """What a session knows of its connection."""

    def replace(self) -> None:
        """Another connection took the session."""

    def restart(self) -> None:
        """The session goes on in the next server."""


class ServedSession:
    """From `open` to `end`, over as many connections as it takes."""

    def __init__(
        self,
        live: LiveSession,
        opened: Opened,
        *,
        limits: Limits,
        metrics: Metrics,
        threads: Threads,
        on_over,
        recorder: Recorder | None = None,
        source=None,
        state: dict | None = None,
        now=time.monotonic,
    ):
        """
        Args:
            on_over: called with the session when its last event is made.
            source: a `sources.SourceReader` that pushes frames; None where they come over the socket.
            state: of a session that was put aside, to go on with.
        """
        self.live, self.opened, self.limits, self.metrics = live, opened, limits, metrics
        self.telling = Telling(limits.max_unread, metrics, recorder)
        self.outbox, self.source, self._threads = self.telling.outbox, source, threads
        self.pictures = IncomingPictures(live, self.outbox, limits, metrics, threads, now)
        self._on_over, self._now = on_over, now
        self.connection: Connected | None = None
        self.over = self._is_aside = False
        self.resumable = True  # its client knows how to go on with it
        self._reason: Reason | None = None
        self._born_s = self._active_s = self._ticked_s = now()
        self._away_s: float | None = now()
        self._orders, self._frames_before = TokenBucket(ORDERS_PER_S, now), 0
        self._finishing = False  # no more frames will come
        self._busy = asyncio.Lock()  # with what the client sent; whoever holds it lets nothing more in
        self._aside: asyncio.Future[dict | None] = asyncio.get_running_loop().create_future()
        if state is not None:
            self._restore(state)
        self._tasks = [asyncio.create_task(self._guard(work)) for work in (self._pump(), self._tick())]

    # --- keeping ------------------------------------------------------------------------------------------------

    @property
    def can_be_kept(self) -> bool:
        """It is the client that sends its pictures, who can go on elsewhere, and it is not about to end."""
        return self.resumable and self.source is None and self._reason is None and not self.over

    async def put_aside(self) -> dict | None:
        """Come to a stand: all that the session is, in numbers, texts and tensors, for another server's session.

        Its client is told nothing. None where the model cannot put it aside; then it is to be stopped.
        """
        await self._busy.acquire()
        self.outbox.open_up()  # whether its client reads or not
        self.live.suspend()
        state = await self._aside
        if state is None:
            return None
        return {
            "opened": self.opened.wire(),
            "left_s": self.left_s,
            "finishing": self._finishing,
            "frames": [self.pictures.num_in, self.pictures.num_refused, self.pictures.num_dropped],
            "telling": self.telling.put_aside(),
            "live": state,
        }

    def _restore(self, state: dict) -> None:
        self._born_s += state["left_s"] - self.limits.total_s
        self._finishing = state["finishing"]
        self.pictures.num_in, self.pictures.num_refused, self.pictures.num_dropped = state["frames"]
        self.telling.restore(state["telling"])

    # --- connections --------------------------------------------------------------------------------------------

    @property
    def left_s(self) -> float:
        return max(0.0, self._born_s + self.limits.total_s - self._now())

    def attach(self, connection: Connected, seen: int = -1) -> int:
        """A connection takes over. Returns how many events after `seen` are lost to it.

        Raises:
            ValueError: `seen` is of an event that was never made.
        """
        missed = self.outbox.rewind(seen)
        self.outbox.forget_connection()
        if self.connection is not None:
            self.connection.replace()
        self.connection, self._away_s = connection, None
        self._active_s = self._now()
        return missed

    def detach(self, connection: Connected) -> None:
        """A connection is gone; if it was this session's, its grace begins."""
        if self.connection is connection:
            self.connection, self._away_s = None, self._now()

    # --- what the client asks -----------------------------------------------------------------------------------

    async def take(self, message: bytes) -> None:
        """A binary message: a picture, acknowledged whatever becomes of it.

        Raises:
            ProtocolError: not fatal; the session goes on.
        """
        frame = Frame.parse(message)
        if self.source is not None:
            raise ProtocolError("unsupported", "this session's frames come from the server: send none")
        self._active_s = self._now()
        async with self._busy:
            await self.pictures.take(frame)
        self._check_length()

    def _check_length(self) -> None:
        """Its stamps may run faster than the clock; what the model keeps goes by them."""
        if self.live.stats().steps_made * seconds_of_step(self.opened.fps) >= self.limits.total_s + AHEAD_S:
            self.stop("limit")

    async def command(self, message) -> None:
        """A text message after `open`.

        Raises:
            ProtocolError: not fatal; the session goes on.
        """
        async with self._busy:
            await self._obey(message)

    async def _obey(self, message) -> None:
        if isinstance(message, protocol.Ping):
            self.outbox.pong()
            return
        self._active_s = self._now()
        if not isinstance(message, protocol.Stop | protocol.Finish) and not self._orders.take():
            raise ProtocolError("too_fast", f"over {ORDERS_PER_S} orders a second: send fewer")
        try:
            match message:
                case protocol.Ask():
                    self._ask(message.question)
                case protocol.Pause():
                    self.live.pause()
                case protocol.Resume():
                    self.live.resume()
                case protocol.Stop():
                    self.stop("stopped")
                case protocol.Finish():
                    await self.end()
                case _:
                    raise ProtocolError("already_open", "this connection has a session: open another for another")
        except UserError as error:
            raise ProtocolError("unsupported", str(error)) from error

    def _ask(self, question: str) -> None:
        """What waits is bounded: where no frame comes, no question takes effect."""
        if len(question) > self.limits.max_question_chars:
            raise ProtocolError("too_large", f"a question may have {self.limits.max_question_chars} characters")
        if self.telling.num_asks >= MAX_ASKS:
            raise ProtocolError(
                "too_fast", f"{MAX_ASKS} questions wait already: the next step that is watched takes them"
            )
        self.live.ask(question)
        self.telling.num_asks += 1

    # --- how it ends --------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Something came from the session's own source."""
        self._active_s = self._now()
        self.metrics.frames.inc()
        self._check_length()

    async def end(self) -> None:
        """No more frames: the rest is spoken."""
        if self._finishing or self.over:
            return
        self._finishing = True
        if self.source is not None:
            self.source.stop()  # its thread ends the model's side, behind the frame that it may still be pushing
        else:
            await self.pictures.end()

    def source_ended(self) -> None:
        """The session's own source has no more frames."""
        self._finishing = True

    def stop(self, reason: Reason) -> None:
        """End now; the first reason stands."""
        if self._reason is None and not self.over:
            self._reason = reason
            if self.source is not None:
                self.source.stop()
            self.outbox.open_up()  # what is left to tell is bounded: the model says nothing more
            self.live.stop()
            asyncio.get_running_loop().call_later(STOP_WITHIN_S, self.finish, None)

    def fail(self, error: ProtocolError) -> None:
        """A fatal error, then the end."""
        if not self.over and self._reason is None:
            self.telling.error(error)
            self.stop("error")

    def finish(self, error: Exception | None) -> None:
        """The model has ended the session: tell it, and close what belongs to it."""
        if self.over:
            return
        if error is not None and self._reason is None:
            self.telling.error(self._why(error))
            self._reason = "error"
        reason = self._reason = self.telling.end(self._reason or "finished")
        self.over = True
        if self.source is not None:
            self.source.stop()
        self.metrics.ended.labels(reason).inc()
        frames = {"frames": self.pictures.num_in, "refused": self.pictures.num_refused}
        counts = {"tokens": self.telling.messages.num_tokens, **frames}
        log("session ended", reason=reason, **counts)
        self._on_over(self)

    def _why(self, error: Exception) -> ProtocolError:
        """What to tell of the model's error."""
        known = isinstance(error, UserError)
        log("session failed", level=40, error=None if known else error, kind=type(error).__name__)
        if known and self.source is None and not self.live.stats().frames_in:
            if (refusal := self.pictures.refusal) is None:
                return ProtocolError("bad_frame", str(error))
            return ProtocolError(refusal.code, f"no picture could be used, the last: {refusal.message}")
        return ProtocolError("model_error", str(error) if known else "the model failed; the server's log has more")

    def cancel(self) -> None:
        """Let go of the session's tasks; it is forgotten."""
        for task in self._tasks:
            task.cancel()

    # --- its own tasks ------------------------------------------------------------------------------------------

    async def _guard(self, work) -> None:
        """A fault in one of our own tasks ends the session, and is told."""
        try:
            await work
        except Exception as error:
            log("session broke", level=40, error=error)
            self.fail(ProtocolError("server_error", "a fault of the server's; its log has more"))
            self.finish(None)

    async def _pump(self) -> None:
        """From the model's events to messages, as fast as the client reads them."""
        while not self.over and not self._is_aside:
            await self.outbox.wait_for_space()
            for event in await self._threads.read(self.live.read, READ_S):
                if isinstance(event, Ended):
                    self.finish(event.error)
                elif isinstance(event, Suspended):
                    self._suspended(event)
                elif not self.over and not self.telling.event(event) and self._reason is None:
                    self.stop("error")

    def _suspended(self, event: Suspended) -> None:
        """The model has put the session aside, or cannot."""
        if event.state is not None and self._reason is not None:  # it was not waited for
            self.finish(None)
        elif not self._aside.done():
            self._aside.set_result(event.state)
            self._is_aside = event.state is not None

    async def _tick(self) -> None:
        """Once a second: statistics, and who has waited too long."""
        while not self.over:
            await asyncio.sleep(1)
            now = self._now()
            if self._away_s is not None and now - self._away_s >= self.limits.grace_s:
                self.stop("idle")
            elif now - self._born_s >= self.limits.total_s:
                self.stop("limit")
            elif not self._finishing and now - self._active_s >= self.limits.idle_s:
                self.stop("idle")
            elif self.connection is not None:
                self.outbox.stats(self._stats(now))

    def _stats(self, now: float) -> protocol.Stats:
        stats = self.live.stats()
        frames = stats.frames_in if self.source is not None else self.pictures.num_in
        rate = (frames - self._frames_before) / max(now - self._ticked_s, 1e-6)
        self._frames_before, self._ticked_s = frames, now
        return protocol.Stats(
            frames_in=frames,
            frames_dropped=stats.frames_dropped + self.pictures.num_refused,
            steps_watched=stats.steps_watched,
            steps_queued=stats.steps_queued,
            tokens=stats.tokens,
            tokens_per_s=round(stats.tokens_per_s, 3),
            lag_s=None if stats.lag_s is None else round(stats.lag_s, 4),
            frame_rate=round(rate, 2),
        )
