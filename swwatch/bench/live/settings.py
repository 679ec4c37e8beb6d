"""Every setting of `swwatch bench live`."""

from dataclasses import dataclass, replace
from typing import Self

from swwatch.bench.settings import BenchSettings, check_model
from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.model.flags import SessionFlags
from swwatch.rules import systems, variants
from swwatch.rules.schedule import FPS
from swwatch.rules.variants import TURNS, Speaks, speaking

SPEAKING = (*speaking(Speaks.ALTERNATING, Speaks.PARALLEL), *TURNS)
LATE_S = 0.1  # a sender that is so late with a frame is no camera any more


@dataclass(frozen=True)
class LiveBenchSettings(SessionFlags, BenchSettings):
    """Measure how many live sessions one device holds at so many frames a second.

    Sessions are opened on one stage, as `swwatch serve` does it, and get frames at the pace of a camera. Their
    beginnings are spread evenly, and where one ends the next begins. A number of sessions is held when no step is
    lost, every session is answered, and 95 of 100 tokens come within --max-lag-s of the newest picture that they could
    see. The number is doubled until it is not held any more, or first responses come too late, and then found by
    bisection.
    """

    shape: str | None = setting(None, f"a random model: {', '.join(SHAPES)} (default: 0.2b, on cuda 7b)")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", f"what speaks while it watches: {', '.join(SPEAKING)}")
    engine: str = setting("auto", "serial, fused, streams, two_device, or auto")
    sessions: tuple[int, ...] | None = setting(None, "try these numbers, and search no further", least=1)
    begin: int = setting(1, "the first number that is tried", least=1)
    most: int = setting(128, "the highest number that is tried")
    rate: float | None = setting(None, "frames a second of each camera (default: as many as are watched)", above=0)
    k: int = setting(3, "tokens spoken a step; of chat turns the most of a turn", least=1)
    width: int = setting(224, "of the frames that are pushed, pixels", least=1)
    height: int = setting(224, "of the frames that are pushed, pixels", least=1)
    queue: int = setting(8, "steps of a session that may wait; then the oldest is dropped", least=1)
    session_s: float = setting(20.0, "length of a session, seconds; the next one takes its place", above=0)
    seconds: float = setting(20.0, "measured for each number, after as many as one session lasts", above=0)
    max_first_s: float = setting(0.5, "first responses must come within so many seconds (P95)", above=0)
    max_lag_s: float = setting(1.0, "tokens must come within so many seconds (P95)", above=0)
    senders: int = setting(4, "threads that push frames", least=1)

    def __post_init__(self):
        super().__post_init__()
        check_model(self.model, self.shape)
        if variants.get(self.variant).speaks is Speaks.OFFLINE:
            raise UserError(
                f"{self.variant!r} speaks after the whole video, and a live stream has no end: no word of it comes "
                f"within --max-lag-s of its picture. Choose one of {', '.join(SPEAKING)}"
            )
        if self.most < self.begin:
            raise UserError(f"most {self.most} is below begin {self.begin}")
        fps = self.fps or FPS
        if self.session_s < self.first_s or (self.rate or fps) < fps:
            raise UserError(f"a session needs {self.first_s:g} s of at least {fps:g} frames: raise session_s or rate")

    @property
    def steadiness(self) -> str:
        return f"frames are pushed at most {LATE_S:g} s late (P95)"

    @property
    def in_turns(self) -> bool:
        """It speaks in chat turns."""
        return variants.get(self.variant).speaks is Speaks.TURNS

    @property
    def first_s(self) -> float:
        """Seconds of video that come before the first word."""
        if not self.in_turns:
            return self.step_s
        return systems.get(self.variant).patches_of_turns(self.fps or FPS)[0] * self.step_s

    @property
    def answer_s(self) -> float:
        """How long before the end a session must have begun to be counted: its first video, and what is allowed."""
        return min(self.first_s + self.max_lag_s, self.seconds / 2)

    def settled(self, cuda: bool) -> Self:
        settled = super().settled(cuda, self.model)
        shape = self.shape or (None if self.model else "7b" if settled.device == "cuda" else "0.2b")
        return replace(settled, shape=shape, rate=self.rate or settled.fps)
