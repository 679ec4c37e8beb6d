"""One live session: frames are pushed in from any thread, events are read out by any other. See stage.py."""

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import torch

from swwatch.data.live.frames import LiveFrames
from swwatch.data.prompt import ask_ids
from swwatch.data.video import FRAMES_PER_STEP, StepFrames
from swwatch.engine.batch import Ended
from swwatch.engine.queue import QueueCounts, StepQueue
from swwatch.engine.source import Ask, Order, StepEncoder
from swwatch.engine.trace import Asked, Decided, Watched
from swwatch.errors import UserError
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Token, Turn

RATE_TOKENS = 32  # over so many of the newest tokens the rate of speech is taken
REASONS = {  # why steps were lost -> what a Dropped event says
    "dropped": "the queue was full, or the session ended: the oldest went unwatched",
    "merged": "the queue was full: two steps became one",
    "refused": "the queue was full for too long, or the session had ended",
}


FACTS = ("_no_more", "_num_held", "_num_watched", "_num_tokens", "_lag_s")  # of a session, kept as they are


@dataclass(frozen=True)
class Pushed:
    """What became of a frame.

    Attributes:
        taken: it counts as one of the stream's. Whether a step is made of it, the grid decides.
        dropped: steps lost so far: dropped, merged into others, or refused.
        queued: steps that wait to be watched.
        reason: why it was not taken: "repeated" or "late" (its timestamp), "full" or "ended"; else "".
    """

    taken: bool
    dropped: int
    queued: int
    reason: str = ""


@dataclass(frozen=True)
class Dropped:
    """Steps that were not watched, since the last event of this kind and reason."""

    steps: int
    reason: str


@dataclass(frozen=True)
class Suspended:
    """A session was put aside: its last event.

    Attributes:
        state: all that it is, for `Stage.open`, in what torch.load takes with weights_only. None where the session
            cannot be put aside: it stands still, and is yet to be stopped.
        why: then the reason.
    """

    state: dict | None
    why: str = ""


@dataclass(frozen=True)
class Stats:
    """How a session fares.

    Attributes:
        steps_made: of the frames, watched or not.
        frames_dropped: repeated or late ones, and those of lost steps.
        lag_s: of the newest token, from the arrival of the newest frame that it could have seen; None before it.
        tokens_per_s: over the newest tokens.
        held: how often the session had to stop because its events were not read.
    """

    frames_in: int = 0
    frames_dropped: int = 0
    steps_made: int = 0
    steps_watched: int = 0
    steps_queued: int = 0
    tokens: int = 0
    lag_s: float | None = None
    tokens_per_s: float = 0.0
    held: int = 0


class LiveClock:
    """Stream time is the time since the first frame came, on this machine's clock, whatever the sender's says."""

    def __init__(self, now=time.perf_counter):
        self._now, self._zero = now, None

    def start(self) -> None:
        """The first frame is here; later calls change nothing."""
        if self._zero is None:
            self._zero = self._now()

    def go_on(self, at_s: float) -> None:
        """It is this time of the stream."""
        self._zero = self._now() - at_s

    def now(self) -> float:
        return 0.0 if self._zero is None else self._now() - self._zero

    def arrive(self, at_s: float) -> None:
        """Nothing is ahead of its time here."""


class LiveSession:
    """One live stream being narrated: a handle for any thread. Made by `live.Stage.open`.

    At `max_events` unread events the session stands still until somebody reads; its queue then goes by its policy.
    """

    def __init__(self, loaded: Loaded, clock: LiveClock, queue_size: int, policy: str, max_events: int, wake):
        """Args: `wake` is called whenever the stage should look at this session again."""
        if max_events < 1:
            raise UserError(f"max_events {max_events}: at least one event must have room")
        self._loaded, self._clock, self._wake, self._max_events = loaded, clock, wake, max_events
        self._frames = LiveFrames(fps=loaded.settings.fps)
        device = loaded.model.device
        self._encode = StepEncoder(loaded, device if device.type == "cuda" else None)
        self._queue = StepQueue(queue_size, policy, encode=self._encode, notify=wake)
        self._sending = threading.Lock()  # frames come one after the other; held while "block" waits for room
        self._changed = threading.Condition()  # guards all below
        self._events: deque = deque()
        self._told = dict.fromkeys(REASONS, 0)  # losses that Dropped events have told of
        self._no_more = self._ended = self._stopping = self._held = self.suspending = False
        self._num_held = self._num_watched = self._num_tokens = 0
        self._lag_s: float | None = None
        self._emitted_s: deque[float] = deque(maxlen=RATE_TOKENS)

    # ---- the sender's side ------------------------------------------------------------------------------------------

    def push(self, timestamp_s: float, frame: np.ndarray, timeout_s: float | None = None) -> Pushed:
        """Hand in a frame, at any rate. Returns at once, unless the policy is "block" and the queue is full.

        Args:
            timestamp_s: when it was on display, in seconds of the sender's clock; the first one is stream time 0.
            frame: (H, W, 3) uint8, RGB. Kept, not copied: do not write into it afterwards.
            timeout_s: how long "block" may wait; None for as long as it takes.
        Raises:
            UserError: no frame, or a picture that the model cannot take; the session goes on without it.
        """
        with self._sending:
            if self._no_more or self.ended:
                return self._pushed("ended")
            if isinstance(frame, np.ndarray) and frame.ndim == 3:
                self._encode.frames.tokens_per_step(
                    *frame.shape[:2], None
                )  # is it too narrow? what is no frame comes next
            before = self._frames.counts
            steps = self._frames.push(timestamp_s, frame)
            self._clock.start()
            after = self._frames.counts
            reason = next((name for name in ("repeated", "late") if getattr(after, name) > getattr(before, name)), "")
            if not all([self._put(step, timeout_s) for step in steps]):
                reason = "ended" if self._no_more or self.ended else "full"
            return self._pushed(reason)

    def end(self) -> None:
        """No more frames: what is queued is watched, and the rest of the answer is spoken."""
        with self._sending:
            self._no_more = True
            for step in self._frames.flush():
                self._put(step, None)
            self._queue.end()

    def ask(self, question: str) -> None:
        """Another question, in effect from the next step on.

        Raises:
            UserError: it holds chat markup, or the session has ended.
        """
        self._tell(Ask(tuple(ask_ids(self._loaded.tokenizer, question, self._loaded.markup)), question))

    def pause(self) -> None:
        """Be silent, and go on watching."""
        self._tell(Order.PAUSE)

    def resume(self) -> None:
        """Speak again."""
        self._tell(Order.RESUME)

    def stop(self) -> None:
        """End before the next token."""
        with self._changed:
            self._stopping = True  # even if nobody reads
        self._queue.tell(Order.STOP)

    def suspend(self) -> None:
        """Come to a stand after the step that is being spoken about, and be put aside: see `Suspended`.

        From here on nothing may be pushed and nothing told but `stop`.
        """
        self._queue.hold()
        with self._changed:
            self.suspending = True  # even if nobody reads
        self._wake()

    def _tell(self, order: Ask | Order) -> None:
        if self.ended:
            raise UserError("the session has ended: open another one")
        self._queue.tell(order)

    def _put(self, step: StepFrames, timeout_s: float | None) -> bool:
        step = replace(step, arrival_s=self._clock.now())
        try:
            # merging needs pictures; otherwise pixels are made here, so that the model's one thread has less to do
            ready = self._encode.shrink(step) if self._queue.policy == "merge" else self._encode(step)
        except Exception as error:  # no memory, or a fault of the device: it ends the session, not its sender
            self._no_more = True
            self._queue.fail(error)
            return False
        accepted = self._queue.put(ready, timeout_s)
        with self._changed:
            self._changed.notify_all()  # steps may have been lost
        return accepted

    def _pushed(self, reason: str) -> Pushed:
        return Pushed(not reason, _lost(self._queue.counts), len(self._queue), reason)

    # ---- the reader's side ------------------------------------------------------------------------------------------

    def read(self, timeout_s: float | None = None) -> list:
        """Events since the last call: Token, Turn, Watched, Decided, Asked, Dropped, and Ended as the last of all
        (or Suspended).

        Args:
            timeout_s: how long to wait for at least one; None for as long as it takes.
        Returns:
            Nothing if the time was over, or if the last had been read before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended or self._losses(), timeout_s)
            lost, held = self._losses(), self._held
            events = [*(Dropped(steps, REASONS[name]) for name, steps in lost.items()), *self._events]
            self._told = {name: self._told[name] + lost.get(name, 0) for name in REASONS}
            self._events.clear()
        if held:
            self._wake()
        return events

    @property
    def ended(self) -> bool:
        """Nothing more will happen; there may be events to be read."""
        with self._changed:
            return self._ended

    def stats(self) -> Stats:
        frames, counts = self._frames.counts, self._queue.counts
        with self._changed:
            emitted = self._emitted_s
            span_s = emitted[-1] - emitted[0] if emitted else 0.0
            rate = (len(emitted) - 1) / span_s if span_s > 0 else 0.0
            return Stats(
                frames_in=frames.frames,
                steps_made=frames.steps,
                frames_dropped=frames.repeated + frames.late + FRAMES_PER_STEP * _lost(counts),
                steps_watched=self._num_watched,
                steps_queued=len(self._queue),
                tokens=self._num_tokens,
                lag_s=self._lag_s,
                tokens_per_s=rate,
                held=self._num_held,
            )

    def _losses(self) -> dict[str, int]:
        counts = self._queue.counts
        lost = {name: getattr(counts, name) - self._told[name] for name in REASONS}
        return {name: steps for name, steps in lost.items() if steps}

    # ---- the stage's side -------------------------------------------------------------------------------------------

    def must_wait(self) -> bool:
        """Too many events are unread: the session must not advance. A stopped one may, to its end."""
        with self._changed:
            held = len(self._events) >= self._max_events and not (self._stopping or self.suspending)
            self._num_held += held and not self._held
            self._held = held
            return held

    @property
    def source(self) -> StepQueue:
        return self._queue

    def tell(self, event: Token | Turn | Watched | Decided | Asked | Suspended) -> None:
        """Hand an event to whoever reads."""
        with self._changed:
            if self._ended:
                return
            if isinstance(event, Token):
                self._num_tokens += 1
                self._lag_s = event.t_emit_s - event.t_frame_s
                self._emitted_s.append(event.t_emit_s)
            self._num_watched += isinstance(event, Watched)
            self._events.append(event)
            self._changed.notify_all()

    def state(self) -> dict:
        """What this side of a session is that stands still, in dicts, lists, numbers, texts and tensors."""
        queue, frames = self._queue.state(), self._frames.state()
        with self._changed:
            return {
                "now_s": self._clock.now(),
                "frames": {name: _plain(value) for name, value in frames.items()},
                "queue": queue | {"steps": [{k: _plain(v) for k, v in step.items()} for step in queue["steps"]]},
                "told": {name: queue["counts"][name] for name in REASONS},  # the last event comes behind all of it
                "facts": {name: getattr(self, name) for name in FACTS},
                "emitted_s": list(self._emitted_s),
            }

    def restore(self, state: dict) -> None:
        """Go on from a `state`, before anything is pushed."""
        if state["frames"]["counts"]["frames"]:
            self._clock.go_on(state["now_s"])
        self._frames.restore({name: _array(value) for name, value in state["frames"].items()})
        steps = [step | {k: _array(v) for k, v in step.items() if k == "frames"} for step in state["queue"]["steps"]]
        self._queue.restore(state["queue"] | {"steps": steps})
        self._told, self._emitted_s = dict(state["told"]), deque(state["emitted_s"], maxlen=RATE_TOKENS)
        for name in FACTS:
            setattr(self, name, state["facts"][name])

    def finish(self, last: Ended | Suspended) -> None:
        """The last event; later calls change nothing."""
        if isinstance(last, Ended):
            self._queue.close()
        else:
            self._queue.end()  # what waits is not lost
        with self._changed:
            if not self._ended:
                self._ended = True
                self._events.append(last)
                self._changed.notify_all()


def _plain(value):
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _array(value):
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value


def _lost(counts: QueueCounts) -> int:
    return sum(getattr(counts, name) for name in REASONS)
