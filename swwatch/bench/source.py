"""Where a benchmark's steps come from: as fast as they are taken, or paced like a camera that does not wait."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from swwatch.bench.process import cpu_seconds
from swwatch.engine.source import Ask, Order, Step


class MadeSource(ABC):
    """What made sources share: they cannot be told anything, and where all is there nothing is waited for.

    Attributes:
        first_s, first_cpu_s: time.perf_counter and `process.cpu_seconds` when the first step was asked for.
    """

    first_s = first_cpu_s = None

    def poll(self) -> Step | None:
        """The next step, if it is there."""
        if self.first_s is None:
            self.first_s, self.first_cpu_s = time.perf_counter(), cpu_seconds()
        return self.next_step()

    @abstractmethod
    def next_step(self) -> Step | None:
        """As `poll`."""

    def wait(self, timeout_s: float | None = None) -> None:
        raise AssertionError("a source whose steps are all there is never waited for")

    def orders(self) -> list[Ask | Order]:
        return []


@dataclass
class Ready(MadeSource):
    """Every step is there whenever it is asked for: how fast can an engine go?"""

    steps: Sequence[Step]
    clock: object
    taken: int = 0

    @property
    def ended(self) -> bool:
        return self.taken == len(self.steps)

    def next_step(self) -> Step | None:
        if self.ended:
            return None
        self.taken += 1
        return replace(self.steps[self.taken - 1], arrival_s=self.clock.now(), last=self.ended)


@dataclass
class Camera(MadeSource):
    """Steps arrive at a pace of their own into a bounded queue; where it is full the oldest is dropped and counted.

    One thread is enough: between two polls the queue only grows, so who fell out of it can be told afterwards.

    Attributes:
        rate: steps a second, from the first poll on.
        count: steps that arrive in all; they show `pictures` in turn.
        size: of the queue.
        dropped: steps lost so far; backlog: length of the queue as seen at each poll, with the time.
    """

    pictures: Sequence[Step]
    clock: object
    rate: float
    count: int
    size: int = 8
    dropped: int = 0
    backlog: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self):
        self.zero: float | None = None
        self.arrived = 0
        self.queue: deque[int] = deque()

    def arrival_s(self, index: int) -> float:
        return self.zero + index / self.rate

    def _admit(self) -> float:
        """Let in what has arrived; returns the time."""
        now = self.clock.now()
        if self.zero is None:
            self.zero = now
        while self.arrived < self.count and self.arrival_s(self.arrived) <= now:
            if len(self.queue) == self.size:
                self.queue.popleft()
                self.dropped += 1
            self.queue.append(self.arrived)
            self.arrived += 1
        return now

    @property
    def ended(self) -> bool:
        return self.arrived == self.count and not self.queue

    def next_step(self) -> Step | None:
        self.backlog.append((self._admit(), len(self.queue)))
        if not self.queue:
            return None
        index = self.queue.popleft()
        picture = self.pictures[index % len(self.pictures)]
        return replace(picture, arrival_s=self.arrival_s(index), last=index == self.count - 1)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the next step arrives; a simulated clock skips that time."""
        before = self._admit()
        if self.queue or self.arrived == self.count:
            return
        until = self.arrival_s(self.arrived)
        self.clock.arrive(until if timeout_s is None else min(until, before + timeout_s))


@dataclass
class Stretch(MadeSource):
    """The next `count` steps of a longer stream, for one of several sessions that follow one another."""

    stream: Camera
    count: int
    taken: int = 0

    @property
    def ended(self) -> bool:
        return self.taken == self.count or self.stream.ended

    def next_step(self) -> Step | None:
        if self.taken == self.count:
            return None
        step = self.stream.poll()
        if step is not None:
            self.taken += 1
            step = replace(step, last=step.last or self.taken == self.count)
        return step

    def wait(self, timeout_s: float | None = None) -> None:
        self.stream.wait(timeout_s)
