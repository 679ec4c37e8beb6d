"""One client's session: a LiveSession of the model's, what it has to tell, its clock, and who is connected.

Everything here runs in the event loop, except what is handed to `threads`: reading the model's events, decoding
pictures, writing nothing.
"""

import asyncio
import math
import time
from typing import Protocol

from swwatch.client import protocol
from swwatch.client.codes import CLOSE_CODES, CLOSE_DONE, CLOSE_PROTOCOL
from swwatch.client.protocol import Ack, End, Error, Event, Frame, Opened, ProtocolError, Reason
from swwatch.errors import UserError
from swwatch.live.messages import Messages
from swwatch.live.stage import Asked, Dropped, Ended, LiveSession, Token, Watched
from swwatch.serve.limits import AHEAD_S, MAX_ASKS, ORDERS_PER_S, REPLAY, Bucket, decode
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.outbox import Outbox
from swwatch.serve.record import Recorder
from swwatch.serve.settings import Limits
from swwatch.serve.threads import Spent, Threads

READ_S = 0.5  # how long a thread waits for the model's next event before it looks around
STOP_WITHIN_S = 5.0  # a model that has not ended by then is not waited for


class Connected(Protocol):
    """What a session knows of its connection."""

    def replace(self) -> None:
        """Another connection took the session."""


class Session:
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
        now=time.monotonic,
    ):
        """
        Args:
            on_over: called with the session when its last event is made.
            source: a `sources.Reading` that pushes frames; None where they come over the socket.
        """
        self.live, self.opened, self.limits, self.metrics = live, opened, limits, metrics
        self.outbox = Outbox(limits.max_unread, REPLAY)
        self.recorder, self.source, self._threads = recorder, source, threads
        self._on_over, self._now = on_over, now
        self.connection: Connected | None = None
        self.over, self.close_code = False, CLOSE_DONE
        self._reason: Reason | None = None
        self._born_s = self._active_s = self._ticked_s = now()
        self._away_s: float | None = now()
        self._bucket, self._told_fast_s = Bucket(limits.max_frame_rate, now), -math.inf
        self._orders, self._asks = Bucket(ORDERS_PER_S, now), 0  # questions that have not taken effect
        self._messages = Messages()
        self._spent, self._refusal = Spent(now), None  # on its pictures; why the last of them was not taken
        self._recording = opened.recording
        self._frames_in = self._refused = self._frames_before = self._dropped_before = 0
        self._finishing = False  # no more frames will come
        self._tasks = [asyncio.create_task(self._guard(work)) for work in (self._pump(), self._tick())]

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
        """A binary message: into the model's queue, or refused; acknowledged either way.

        Raises:
            ProtocolError: not fatal; the session goes on.
        """
        frame = Frame.parse(message)
        if self.source is not None:
            raise ProtocolError("unsupported", "this session's frames come from the server: send none")
        self._active_s = self._now()
        self._frames_in += 1
        self.metrics.frames.inc()
        try:
            if not self._bucket.take():
                raise ProtocolError("too_fast", f"over {self.limits.max_frame_rate:g} frames a second: send fewer")
            if len(frame.data) > self.limits.max_frame_bytes:
                raise ProtocolError("too_large", f"a picture may have {self.limits.max_frame_bytes} bytes")
            pushed = await self._threads.decode(self._spent, self._decode_and_push, frame)
        except ProtocolError as error:
            self._refusal = ProtocolError(error.code, error.message)  # without its traceback
            self._refuse(frame, error.code)
            if error.code == "too_fast" and self._now() - self._told_fast_s < 1:
                return
            self._told_fast_s = self._now() if error.code == "too_fast" else self._told_fast_s
            raise
        self._check_length()
        if not pushed.taken:
            self.metrics.refused.labels(pushed.reason).inc()
        self._dropped_before, dropped = pushed.dropped, pushed.dropped + self._refused
        self.outbox.ack(
            Ack(frame=frame.number, taken=pushed.taken, dropped=dropped, queued=pushed.queued, reason=pushed.reason)
        )

    def _check_length(self) -> None:
        """Its stamps may run faster than the clock; what the model keeps goes by them."""
        if self.live.stats().steps_made >= self.limits.total_s + AHEAD_S:
            self.stop("limit")

    def _decode_and_push(self, frame: Frame):
        picture = decode(frame.data, self.limits.max_pixels)
        try:
            return self.live.push(frame.timestamp_s, picture)
        except UserError as error:  # too narrow for the model
            raise ProtocolError("bad_frame", str(error)) from None

    def _refuse(self, frame: Frame, reason: str) -> None:
        self._refused += 1
        self.metrics.refused.labels(reason).inc()
        dropped, queued = self._dropped_before + self._refused, self.live.stats().steps_queued
        self.outbox.ack(Ack(frame=frame.number, taken=False, dropped=dropped, queued=queued, reason=reason))

    async def command(self, message) -> None:
        """A text message after `open`.

        Raises:
            ProtocolError: not fatal; the session goes on.
        """
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
        if self._asks >= MAX_ASKS:
            raise ProtocolError(
                "too_fast", f"{MAX_ASKS} questions wait already: the next step that is watched takes them"
            )
        self.live.ask(question)
        self._asks += 1

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
            await self._threads.decode(self._spent, self.live.end)

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
            asyncio.get_running_loop().call_later(STOP_WITHIN_S, self._finish, None)

    def fail(self, error: ProtocolError) -> None:
        """A fatal error, then the end."""
        if not self.over and self._reason is None:
            self._tell(error)
            self.stop("error")

    def _tell(self, error: ProtocolError) -> None:
        """The error that ends the session."""
        self._put(Error(code=error.code, message=error.message, fatal=True))
        self.metrics.errors.labels(error.code).inc()
        self.close_code = CLOSE_CODES.get(error.code, CLOSE_PROTOCOL)

    def _finish(self, error: Exception | None) -> None:
        """The model has ended the session: tell it, and close what belongs to it."""
        if self.over:
            return
        if error is not None and self._reason is None:
            self._tell(self._why(error))
            self._reason = "error"
        made = {"tokens": self._messages.num_tokens, "recording": self._recording}
        end = End(n=self.outbox.made, reason=self._reason or "finished", **made)
        if not self._record(end):
            self._reason, end = "error", end.model_copy(update={"reason": "error", "recording": None})
        self.outbox.put(end)
        self.over, reason = True, end.reason
        if self.source is not None:
            self.source.stop()
        self.metrics.ended.labels(reason).inc()
        counts = {"tokens": self._messages.num_tokens, "frames": self._frames_in, "refused": self._refused}
        log("session ended", reason=reason, **counts)
        self._on_over(self)

    def _why(self, error: Exception) -> ProtocolError:
        """What to tell of the model's error."""
        known = isinstance(error, UserError)
        log("session failed", level=40, error=None if known else error, kind=type(error).__name__)
        if known and self.source is None and not self.live.stats().frames_in:
            if self._refusal is None:
                return ProtocolError("bad_frame", str(error))
            return ProtocolError(self._refusal.code, f"no picture could be used, the last: {self._refusal.message}")
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
            self._finish(None)

    async def _pump(self) -> None:
        """From the model's events to messages, as fast as the client reads them."""
        while not self.over:
            await self.outbox.room()
            for event in await self._threads.read(self.live.read, READ_S):
                if isinstance(event, Ended):
                    self._finish(event.error)
                elif not self.over:
                    self._put(self._message(event))

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
        frames = stats.frames_in if self.source is not None else self._frames_in
        rate = (frames - self._frames_before) / max(now - self._ticked_s, 1e-6)
        self._frames_before, self._ticked_s = frames, now
        return protocol.Stats(
            frames_in=frames,
            frames_dropped=stats.frames_dropped + self._refused,
            steps_watched=stats.steps_watched,
            steps_queued=stats.steps_queued,
            tokens=stats.tokens,
            tokens_per_s=round(stats.tokens_per_s, 3),
            lag_s=None if stats.lag_s is None else round(stats.lag_s, 4),
            frame_rate=round(rate, 2),
        )

    def _message(self, event) -> Event:
        """The message of one of the model's events, which is counted."""
        match event:
            case Token():
                self.metrics.tokens.inc()
                self.metrics.lag.observe(event.t_emit_s - event.t_frame_s)
            case Watched():
                self.metrics.steps.inc()
            case Asked():
                self._asks -= 1
            case Dropped():
                self.metrics.steps_dropped.inc(event.steps)
        return self._messages.message(event)

    def _put(self, event: Event) -> None:
        event = self.outbox.put(event)
        if not self._record(event) and self._reason is None:
            self.stop("error")

    def _record(self, event: Event) -> bool:
        """Write a message down. False where the disk does not take it, which is told."""
        if self.recorder is None:
            return True
        try:
            self.recorder.event(event)
            if isinstance(event, End):
                self.recorder.close()
            return True
        except OSError as error:
            self.recorder = self.recorder.give_up()
            self._recording = None
            log("recording failed", level=40, error=error)
            self._tell(ProtocolError("server_error", f"the recording cannot be written: {error.strerror}"))
            return False
