"""The bounded queue between a live sender of frames and the session that watches them."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from swwatch.data.live.frames import pair
from swwatch.data.video import StepFrames
from swwatch.engine.source import Ask, Order, Step
from swwatch.errors import UserError

POLICIES = {
    "block": "the sender waits until there is room",
    "drop_oldest": "the oldest step that nobody has taken yet goes",
    "merge": "the two oldest steps become one: first frame of the older, second frame of the newer",
}


@dataclass(frozen=True)
class QueueCounts:
    """What became of the steps: taken + dropped + merged + those still queued is what `put` accepted."""

    taken: int = 0  # by the session
    dropped: int = 0  # left unwatched: by the policy, or still queued when the session closed
    merged: int = 0  # went into the step after them
    refused: int = 0  # by `put`: no room in time, or the queue had ended


class StepQueue:
    """A `Source` that any thread may put steps into, and never more than `size` of them wait in it.

    `put`, `tell`, `end` and `fail` may be called from any thread; `poll`, `wait`, `orders` and `close` are the
    session's. Under "block" a sender in the session's own thread would wait for itself.

    A step is marked as the last where the sender knew it. `end` marks nothing afterwards, even where a step is still
    queued: whether it is would depend on the session's pace, and so would the words. The session then closes with
    `Session.close`.
    """

    def __init__(
        self,
        size: int = 8,
        policy: str = "drop_oldest",
        *,
        encode: Callable[[StepFrames], Step] | None = None,
        notify: Callable[[], None] | None = None,
    ):
        """
        Args:
            size: the most steps that may wait.
            policy: what happens when a step comes and there is no room; one of `POLICIES`.
            encode: makes a step of frames when the session takes it, so that pixels are computed only for what is
                really watched; needed where frames are put. What it raises, `poll` raises.
            notify: called after everything that ends a `wait`, for a thread that serves many queues. Called from the
                sender's thread, without the lock.
        """
        if size < 1:
            raise UserError(f"queue size {size}: at least one step must have room")
        if policy not in POLICIES:
            raise UserError(f"no queue policy {policy!r}: choose one of {', '.join(POLICIES)}")
        self.size, self.policy = size, policy
        self._encode, self._notify = encode, notify
        self._steps: deque[Step | StepFrames] = deque()
        self._orders: list[Ask | Order] = []
        self._counts = QueueCounts()
        self._ending = self._held = False  # nothing more is accepted; nothing is handed over
        self._error: BaseException | None = None  # raised once, after the steps before it
        self._changed = threading.Condition()

    # ---- the sender's side ------------------------------------------------------------------------------------------

    def put(self, step: Step | StepFrames, timeout_s: float | None = None) -> bool:
        """Add a step, by the policy where there is no room.

        Args:
            step: ready for the model, or frames where there is an `encode`; "merge" takes frames only.
            timeout_s: how long "block" may wait; None for as long as it takes.
        Returns:
            Whether it was accepted. It is refused (and counted) when there was no room in time or the queue has ended.
        """
        if isinstance(step, Step):
            if self.policy == "merge":
                raise ValueError("merging needs frames: put StepFrames and give an encode")
        elif self._encode is None:
            raise ValueError("frames need an encode to become a step")
        with self._changed:
            if self.policy == "block":
                self._changed.wait_for(lambda: self._ending or len(self._steps) < self.size, timeout_s)
            accepted = not self._ending and (len(self._steps) < self.size or self.policy != "block")
            if accepted:
                self._add(step)
                self._ending = step.last
                self._changed.notify_all()
            else:
                self._count(refused=1)
        if accepted:
            self._tell_others()
        return accepted

    def tell(self, order: Ask | Order) -> None:
        """Give the session an order, or a question."""
        with self._changed:
            self._orders.append(order)
            self._changed.notify_all()
        self._tell_others()

    def end(self) -> None:
        """No more steps. The session takes those that are queued."""
        self._finish(None)

    def fail(self, error: BaseException) -> None:
        """No more steps, and `poll` raises `error` once the session has taken those that are queued."""
        self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        with self._changed:
            if not self._ending:  # the first end counts
                self._ending, self._error = True, error
            self._changed.notify_all()
        self._tell_others()

    def _add(self, step: Step | StepFrames) -> None:
        self._steps.append(step)
        if len(self._steps) <= self.size:
            return
        oldest = self._steps.popleft()
        if self.policy == "drop_oldest":
            self._count(dropped=1)
        else:
            self._steps[0] = merge(oldest, self._steps[0])
            self._count(merged=1)

    def _count(self, **more: int) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})

    def _tell_others(self) -> None:
        if self._notify:
            self._notify()

    # ---- the session's side -----------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """No step will come any more, and an error, if there is one, has been raised."""
        with self._changed:
            return self._ending and not self._steps and self._error is None and not self._held

    def poll(self) -> Step | None:
        """The next step, encoded, or None. Raises what `fail` was given when the steps before it are taken."""
        with self._changed:
            if self._held:
                return None
            if not self._steps:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return None
            step = self._steps.popleft()
            self._count(taken=1)
            self._changed.notify_all()  # there is room again
        return step if isinstance(step, Step) else self._encode(step)

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until there is a step, an error, an order or the end, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._ending or self._orders, timeout_s)

    def orders(self) -> list[Ask | Order]:
        """What was told since the last call, oldest first."""
        with self._changed:
            waiting, self._orders = self._orders, []
            return waiting

    def close(self) -> None:
        """The session watches no more: what is queued is let go, senders that wait are refused."""
        with self._changed:
            self._ending, self._error = True, None
            self._count(dropped=len(self._steps))
            self._steps.clear()
            self._changed.notify_all()

    # ---- keeping ----------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """From any thread: hand nothing over any more, so that the session comes to a stand between two steps."""
        with self._changed:
            self._held = True

    def state(self) -> dict:
        """What waits here, in dicts, lists, numbers, texts, arrays and tensors, for `restore`.

        Raises:
            ValueError: an error waits to be raised.
        """
        with self._changed:
            if self._error is not None:
                raise ValueError("the stream has failed, and the session is about to be told")
            return {
                "steps": [dict(vars(step)) for step in self._steps],
                "orders": [one.name if isinstance(one, Order) else dict(vars(one)) for one in self._orders],
                "counts": asdict(self._counts),
                "ending": self._ending,
            }

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        kinds = [StepFrames if "frames" in step else Step for step in state["steps"]]
        with self._changed:
            self._steps = deque(kind(**step) for kind, step in zip(kinds, state["steps"], strict=True))
            self._orders = [Order[one] if isinstance(one, str) else Ask(**one) for one in state["orders"]]
            self._counts, self._ending = QueueCounts(**state["counts"]), state["ending"]

    # ---- for anybody ------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> QueueCounts:
        with self._changed:
            return self._counts

    def __len__(self) -> int:
        """Steps that wait now."""
        with self._changed:
            return len(self._steps)


def merge(older: StepFrames, newer: StepFrames) -> StepFrames:
    """Two steps as one: first frame of the older, second frame of the newer, and the rest as in the newer."""
    return replace(newer, frames=pair(older.frames[0], newer.frames[1]))
