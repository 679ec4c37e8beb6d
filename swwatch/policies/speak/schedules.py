"""The plans: `wait-k:3`, `random:3:seed=0`, `burst:3:every=2`,
`stall:3:every=5:pause=2`. All but the first disturb a model that was trained with wait-k, at the same mean rate of k
tokens per step of arriving video (random, burst) or of the clock (stall). After the last step the rest follows.
"""

import random
from dataclasses import dataclass, field, replace
from typing import ClassVar

from swwatch.policies.speak.policy import Speak
from swwatch.policies.table import option
from swwatch.rules.schedule import Now


@dataclass(frozen=True)
class WaitK(Speak):
    """Exactly k tokens after every step but the last (the paper trains and tests with k = 3)."""

    name: ClassVar[str] = "wait-k"


@dataclass(frozen=True)
class RandomK(Speak):
    """The paper's disturbance test: a number drawn uniformly from 0..2k (mean k) at every step.

    The law knows nothing of the reference caption (the public release draws up to caption length / steps, which
    leaks it). Draws depend on (seed, clip, step) alone, so that every engine, order and resume meets the same ones.
    """

    name: ClassVar[str] = "random"
    seed: int = option(0)
    clip: str = field(default="", repr=False)

    def budget(self, now: Now) -> int:
        return random.Random(f"{self.seed}/{self.clip}/{now.step}").randint(0, 2 * self.k)

    def for_clip(self, key: str) -> "RandomK":
        return replace(self, clip=str(key))


@dataclass(frozen=True)
class Burst(Speak):
    """Steps arrive `every` at a time, as over a network that sends in bursts: silence, then k tokens for each."""

    name: ClassVar[str] = "burst"
    every: int = option(2, least=1)

    def budget(self, now: Now) -> int:
        return self.k * self.every if (now.step + 1) % self.every == 0 else 0

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        return nominal_s + (self.every - 1 - step % self.every) * step_s


@dataclass(frozen=True)
class Stall(Speak):
    """After every `every` steps nothing arrives for the time of `pause` steps, while speech goes on at its rate."""

    name: ClassVar[str] = "stall"
    every: int = option(5, least=1)
    pause: int = option(2, least=0)

    def budget(self, now: Now) -> int:
        return self.k * (1 + self.pause) if (now.step + 1) % self.every == 0 else self.k

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        return nominal_s + step // self.every * self.pause * step_s
