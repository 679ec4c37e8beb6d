"""The pictures that a client sends: decoded when it is their turn and handed to the model's queue, or refused."""

import math

from swwatch.client.protocol import Ack, Frame, ProtocolError
from swwatch.errors import UserError
from swwatch.live.stage import LiveSession, Pushed
from swwatch.serve.limits import TokenBucket, decode
from swwatch.serve.metrics import Metrics
from swwatch.serve.outbox import Outbox
from swwatch.serve.settings import Limits
from swwatch.serve.threads import DecodingTime, Threads


class IncomingPictures:
    """Of one session. Each is acknowledged, whatever becomes of it.

    Attributes:
        num_in, num_refused: that came, and that were refused before the model's queue.
        refusal: why the last of these was; None before the first.
    """

    def __init__(self, live: LiveSession, outbox: Outbox, limits: Limits, metrics: Metrics, threads: Threads, now):
        self._live, self._outbox, self._limits, self._metrics, self._threads = live, outbox, limits, metrics, threads
        self._now, self._spent, self._bucket = now, DecodingTime(now), TokenBucket(limits.max_frame_rate, now)
        self._told_fast_s = -math.inf
        self.refusal: ProtocolError | None = None
        self.num_in = self.num_refused = self.num_dropped = 0  # the last: as the queue has counted

    async def take(self, frame: Frame) -> None:
        """Into the model's queue, or refused.

        Raises:
            ProtocolError: not fatal; the session goes on.
        """
        self.num_in += 1
        self._metrics.frames.inc()
        try:
            if not self._bucket.take():
                raise ProtocolError("too_fast", f"over {self._limits.max_frame_rate:g} frames a second: send fewer")
            if len(frame.data) > self._limits.max_frame_bytes:
                raise ProtocolError("too_large", f"a picture may have {self._limits.max_frame_bytes} bytes")
            pushed = await self._threads.decode(self._spent, self._decode_and_push, frame)
        except ProtocolError as error:
            self.refusal = ProtocolError(error.code, error.message)  # without its traceback
            self._refuse(frame, error.code)
            if error.code == "too_fast":
                if self._now() - self._told_fast_s < 1:
                    return
                self._told_fast_s = self._now()
            raise
        if not pushed.taken:
            self._metrics.refused.labels(pushed.reason).inc()
        self.num_dropped = pushed.dropped
        self._ack(frame, pushed.queued, pushed.reason)

    async def end(self) -> None:
        """No more will come: the model says the rest, behind the picture that is still being decoded."""
        await self._threads.decode(self._spent, self._live.end)

    def _decode_and_push(self, frame: Frame) -> Pushed:
        picture = decode(frame.data, self._limits.max_pixels)
        try:
            return self._live.push(frame.timestamp_s, picture)
        except UserError as error:  # too narrow for the model
            raise ProtocolError("bad_frame", str(error)) from None

    def _refuse(self, frame: Frame, reason: str) -> None:
        self.num_refused += 1
        self._metrics.refused.labels(reason).inc()
        self._ack(frame, self._live.stats().steps_queued, reason)

    def _ack(self, frame: Frame, queued: int, reason: str) -> None:
        dropped = self.num_dropped + self.num_refused
        self._outbox.ack(Ack(frame=frame.number, taken=not reason, dropped=dropped, queued=queued, reason=reason))
