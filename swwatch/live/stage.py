"""Live sessions: frames are pushed in from any thread, words are read out, and one model serves many at once.

    stage = Stage(load("output/toy-group"))
    session = stage.open(question="What is happening?")
    session.push(0.0, frame)  # as frames come, from any thread
    events = session.read()  # words, as they are spoken

A `Stage` has one thread of its own. It alone touches the model, and lets all sessions advance together (see
engine/batch.py): one forward serves what all of them watch and say.
"""

import logging
import threading
import time
from contextlib import nullcontext

import torch

from swwatch.data.budget import BUDGETS
from swwatch.engine.base import BaseSession
from swwatch.engine.batch import Batch, Ended
from swwatch.engine.choose import choose, open_watcher
from swwatch.engine.door import open_stream
from swwatch.engine.requests import Run, relay
from swwatch.engine.trace import Asked, Watched
from swwatch.engine.watcher import WatcherGone
from swwatch.errors import UserError
from swwatch.live.memory import Capacity, settle_fast, with_fast_path
from swwatch.live.session import Dropped, LiveClock, LiveSession, Pushed, Stats, Suspended
from swwatch.model.loading import Loaded
from swwatch.model.static_cache import CacheFull
from swwatch.narrate.words import Detokenizer, Thought, Token, Turn

__all__ = [
    "Asked",
    "Dropped",
    "Ended",
    "Full",
    "LiveSession",
    "Pushed",
    "Capacity",
    "Stage",
    "Stats",
    "Suspended",
    "Thought",
    "Token",
    "Turn",
    "Watched",
]

log = logging.getLogger(__name__)


class Full(UserError):
    """All places of a stage are taken."""


class Stage:
    """One model, many live sessions.

    `open` and `close` may be called from any thread. An error in one session ends that session; one of the stage's own
    thread, or the end of the watcher that all share, ends them all, with the error, and `open` tells it from then on.

    Attributes:
        engine, why: the engine that all sessions have, and the reason for it.
        fast: sessions are on the fast path, where each has its `capacity`.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        engine: str = "auto",
        max_sessions: int = 8,
        capacity: Capacity | None = None,
        fast: bool | None = None,
        now=time.perf_counter,
    ):
        """
        Args:
            engine: a key of engine.choose.ENGINES, or "auto".
            max_sessions: so many may be open at once.
            capacity: of each session on the fast path, whose memory is taken at once; one that outgrows it ends with
                an error. Elsewhere memory is taken as a session grows, and this says nothing.
            fast: take the fast path (model/cuda_graph_model.py); by default on CUDA.
            now: seconds on a clock that never goes back.
        Raises:
            UserError: an engine that cannot run the checkpoint's variant, a pixel budget for whole videos, or no
                memory for so many sessions.
        """
        if max_sessions < 1:
            raise UserError(f"max_sessions {max_sessions}: at least one session must have room")
        budget = BUDGETS[loaded.settings.pixel_budget]
        if budget.total_pixels is not None:
            raise UserError(
                f"the pixel budget {budget.name!r} shares pixels among all frames of a video, and a live stream has "
                "no length: load the model with the budget 'declared'"
            )
        self.max_sessions, self.capacity, self._now = max_sessions, capacity or Capacity(), now
        device = loaded.model.device
        num_devices = torch.cuda.device_count() if device.type == "cuda" else 1
        self.engine, self.why = choose(engine, loaded.settings.variant, device, num_devices)
        self.fast, more = settle_fast(fast, loaded)
        self.why += more
        self.loaded = with_fast_path(loaded, self.capacity, max_sessions) if self.fast else loaded
        self._watcher = open_watcher(self.engine, self.loaded.model)
        self._batch = Batch(self.loaded.model)
        if self._watcher is not None:
            self._watcher.listen(self._batch.wake)
        self._lock = threading.Lock()  # guards all below
        self._sessions: dict[LiveSession, tuple[BaseSession, Detokenizer]] = {}  # all that have not ended
        self._new: list[tuple[LiveSession, Run]] = []  # those that the thread has not begun
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="stage", daemon=True)
        self._thread.start()

    def open(
        self,
        *,
        question: str | None = None,
        queue_size: int = 8,
        policy: str = "drop_oldest",
        max_events: int = 1024,
        state: dict | None = None,
        **options,
    ) -> LiveSession:
        """Begin a session. Its clock starts with its first frame.

        Args:
            question: by default the form's own.
            queue_size: so many steps may wait to be watched.
            policy: what happens to a step that finds no room; a key of engine.queue.POLICIES.
            max_events: with so many events unread the session stands still.
            state: of a session that was `Suspended`, to go on with; all else is to be as it was then.
            options: of engine.door.open_stream: system, schedule, choose, limit, key, and those of the form.
        Raises:
            Full: no place is free.
            UserError: an argument that cannot be, a state of another variant, or the stage has ended.
        """
        clock = LiveClock(self._now)
        options |= {"engine": self.engine, "question": question, "watcher": self._watcher, "clock": clock}
        with self._lock:  # all of it: places and seats of the fast path are counted together
            self._check_place()
            session = LiveSession(self.loaded, clock, queue_size, policy, max_events, self._batch.wake)
            stream = open_stream(self.loaded, **options)
            wording = Detokenizer(self.loaded.tokenizer, state["open_ids"] if state else None)
            if state:
                stream.restore(state["stream"])
                session.restore(state["live"])
            self._sessions[session] = stream, wording
            self._new.append((session, relay(stream.run(session.source), wording)))
        self._batch.wake()
        return session

    def _check_place(self) -> None:
        if self._error is not None:
            raise UserError(f"the stage has ended with an error, make another one: {self._error!r}")
        if not self.alive:
            raise UserError("the stage is closed: make another one")
        if len(self._sessions) >= self.max_sessions:
            raise Full(f"all {self.max_sessions} places are taken: close a session, or raise max_sessions")

    @property
    def alive(self) -> bool:
        """Its thread is at work: sessions can be opened. Once false it stays so."""
        return not self._closing and self._error is None and self._thread.is_alive()

    def __len__(self) -> int:
        """Sessions that have not ended."""
        with self._lock:
            return len(self._sessions)

    def close(self, timeout_s: float = 5.0) -> None:
        """End every session, with an Ended event, and the thread.

        Args:
            timeout_s: how long to wait for the thread, which may be in a forward; it ends after that by itself.
        """
        with self._lock:
            self._closing = True
        self._batch.wake()
        self._thread.join(timeout_s)
        self._end_all()

    def _work(self) -> None:
        device = self.loaded.model.device
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                while not self._closing:
                    self._round()
        except BaseException as error:  # whatever it was: nobody may wait for words that cannot come
            log.exception("the thread of a stage ended")
            self._error = _bare(error)
        finally:
            self._end_all()
            self._batch.clear()
            with self._lock:
                self._new.clear()  # opened, and never begun
            if self._watcher is not None:
                self._watcher.close()

    def _round(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for session, run in new:
            self._take(self._batch.add(session, run))
        waiting = {session for session in self._sessions_now() if session.must_wait()}
        self._take(self._batch.advance(waiting))
        for session in self._sessions_now():
            if session.suspending and self._batch.stands_still(session):
                self._suspend(session)
        if self._batch.is_idle(waiting):
            self._batch.wait()

    def _sessions_now(self) -> list[LiveSession]:
        with self._lock:
            return list(self._sessions)

    def _take(self, events: list) -> None:
        for session, event in events:
            if not isinstance(event, Ended):
                session.tell(event)
                continue
            if event.error is not None and not isinstance(event.error, UserError):
                log.error("a live session failed", exc_info=event.error)
            error = event.error
            self._end(session, self.capacity.outgrown(error) if isinstance(error, CacheFull) else error)
            if isinstance(error, WatcherGone):
                raise error  # all sessions share it, and so would those to come

    def _suspend(self, session: LiveSession) -> None:
        """Put a session aside that stands still."""
        stream, wording = self._sessions[session]
        session.suspending = False
        try:
            state = {"stream": stream.state(), "open_ids": dict(wording.open_ids), "live": session.state()}
        except Exception as error:  # an engine that cannot, no memory: it is not worth the other sessions
            log.error("a live session cannot be put aside", exc_info=None if isinstance(error, UserError) else error)
            session.tell(Suspended(None, str(error)))
            return
        self._batch.remove(session)
        with self._lock:
            del self._sessions[session]
        session.finish(Suspended(state))

    def _end(self, session: LiveSession, error: BaseException | None) -> None:
        error = _bare(error)  # before its place is free: what it was raised from holds on to the session's memory
        with self._lock:
            self._sessions.pop(session, None)
        session.finish(Ended(error))

    def _end_all(self) -> None:
        closed = UserError("the stage was closed before the session had ended")
        for session in self._sessions_now():
            self._end(session, self._error or closed)


def _bare(error: BaseException | None) -> BaseException | None:
    """An error, and those that it was raised from, without their tracebacks, which hold on to tensors and sessions."""
    seen, left = set(), [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]
    return error
