"""What a session tells: numbered and counted, kept for its client, and written down where it is recorded."""

from swwatch.client.codes import CLOSE_CODES, CLOSE_DONE, CLOSE_PROTOCOL
from swwatch.client.protocol import End, Error, Event, ProtocolError, Reason
from swwatch.live.messages import COUNTS, Messages
from swwatch.live.stage import Asked, Dropped, Token, Watched
from swwatch.serve.limits import REPLAY
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.outbox import Outbox
from swwatch.serve.record import Recorder


class Telling:
    """Of one session. What tells an event returns whether its recording, where there is one, took it.

    Attributes:
        outbox: from which the client's connection is served.
        messages: makes messages of the model's events, and counts them.
        num_asks: questions that have not taken effect.
        num_video: tokens of video that the model took in, since this server has the session.
        close_code: of the WebSocket, after an end by an error.
    """

    def __init__(self, max_unread: int, metrics: Metrics, recorder: Recorder | None):
        self.outbox, self.messages, self.num_asks, self.num_video = Outbox(max_unread, REPLAY), Messages(), 0, 0
        self.recorder, self.close_code, self._metrics = recorder, CLOSE_DONE, metrics

    def event(self, event) -> bool:
        """Tell one of the model's events."""
        match event:
            case Token():
                self._metrics.tokens.inc()
                self._metrics.token_lag.observe(event.t_emit_s - event.t_frame_s)
            case Watched():
                self._metrics.steps.inc()
                self.num_video += event.num_tokens
            case Asked():
                self.num_asks -= 1
            case Dropped():
                self._metrics.steps_dropped.inc(event.steps)
        return self._put(self.messages.message(event))

    def error(self, error: ProtocolError) -> bool:
        """Tell the error that ends the session."""
        self._metrics.errors.labels(error.code).inc()
        self.close_code = CLOSE_CODES.get(error.code, CLOSE_PROTOCOL)
        return self._put(Error(code=error.code, message=error.message, fatal=True))

    def end(self, reason: Reason) -> Reason:
        """Tell the end. Returns its reason, which is another one where the recording did not take it."""
        recording = self.recorder and self.recorder.name
        end = End(n=self.outbox.num_events, reason=reason, tokens=self.messages.num_tokens, recording=recording)
        if not self._record(end):
            end = end.model_copy(update={"n": None, "reason": "error", "recording": None})
        self.outbox.put(end)
        return end.reason

    def _put(self, event: Event) -> bool:
        return self._record(self.outbox.put(event))

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
            log("recording failed", level=40, error=error)
            self.error(ProtocolError("server_error", f"the recording cannot be written: {error.strerror}"))
            return False

    def put_aside(self) -> dict:
        """All of it, in numbers and texts, for `restore`; nothing more can be told here."""
        return {
            "counts": {name: getattr(self.messages, name) for name in COUNTS},
            "num_asks": self.num_asks,
            "outbox": self.outbox.state(),
            "recording": self.recorder and self.recorder.put_aside(),
        }

    def restore(self, state: dict) -> None:
        """Go on where another was put aside; its recorder is given."""
        for name in COUNTS:
            setattr(self.messages, name, state["counts"][name])
        self.num_asks = state["num_asks"]
        self.outbox.restore(state["outbox"])
