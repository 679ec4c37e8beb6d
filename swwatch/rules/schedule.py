"""When tokens are spoken: how many after each video step, and when steps arrive. After the last step the rest follows.

A schedule is written as text in configs, flags and checkpoints: `wait-k:3`, `random:3:seed=0`, `burst:3:every=2`,
`stall:3:every=5:pause=2`. All but the first disturb a model that was trained with wait-k, at the same mean rate of k
tokens per second of arriving video (random, burst) or of the clock (stall).
"""

import random
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from swwatch.errors import UserError

STEP_S = 1.0  # a step is two frames at 2 frames a second


@dataclass(frozen=True)
class Schedule:
    """What all schedules share: k tokens a step and arrival on time, unless they say otherwise."""

    name: ClassVar[str]
    k: int = 3

    def budget(self, step: int) -> int:
        """Number of tokens to speak after video step `step` (0-based) when it is not the last."""
        return self.k

    def arrival_s(self, step: int, nominal_s: float) -> float:
        """When step `step` arrives, given when it would from an undisturbed source; seconds of stream time."""
        return nominal_s

    def for_clip(self, key: str) -> "Schedule":
        """The schedule of one clip, named by its video id."""
        return self

    @classmethod
    def options(cls) -> list[str]:
        """What its text names beside k."""
        return [field.name for field in fields(cls) if field.repr and field.name != "k"]

    def __str__(self) -> str:
        return ":".join([self.name, str(self.k), *(f"{key}={getattr(self, key)}" for key in self.options())])


@dataclass(frozen=True)
class WaitK(Schedule):
    """Exactly k tokens after every step but the last (the paper trains and tests with k = 3)."""

    name: ClassVar[str] = "wait-k"


@dataclass(frozen=True)
class RandomK(Schedule):
    """The paper's disturbance test: a number drawn uniformly from 0..2k (mean k) at every step.

    The law knows nothing of the reference caption (the public release draws up to caption length / steps, which
    leaks it). Draws depend on (seed, clip, step) alone, so that every engine, order and resume meets the same ones.
    """

    name: ClassVar[str] = "random"
    seed: int = 0
    clip: str = field(default="", repr=False)

    def budget(self, step: int) -> int:
        return random.Random(f"{self.seed}/{self.clip}/{step}").randint(0, 2 * self.k)

    def for_clip(self, key: str) -> "RandomK":
        return replace(self, clip=str(key))


@dataclass(frozen=True)
class Burst(Schedule):
    """Steps arrive `every` at a time, as over a network that sends in bursts: silence, then k tokens for each."""

    name: ClassVar[str] = "burst"
    every: int = 2

    def budget(self, step: int) -> int:
        return self.k * self.every if (step + 1) % self.every == 0 else 0

    def arrival_s(self, step: int, nominal_s: float) -> float:
        return nominal_s + (self.every - 1 - step % self.every) * STEP_S


@dataclass(frozen=True)
class Stall(Schedule):
    """After every `every` steps nothing arrives for `pause` seconds, while speech goes on at k tokens a second."""

    name: ClassVar[str] = "stall"
    every: int = 5
    pause: int = 2

    def budget(self, step: int) -> int:
        return self.k * (1 + self.pause) if (step + 1) % self.every == 0 else self.k

    def arrival_s(self, step: int, nominal_s: float) -> float:
        return nominal_s + step // self.every * self.pause * STEP_S


KINDS = {kind.name: kind for kind in (WaitK, RandomK, Burst, Stall)}
FORMS = "wait-k:3, random:3:seed=0, burst:3:every=2 or stall:3:every=5:pause=2"


def parse_schedule(text: "str | Schedule") -> Schedule:
    """Inverse of `str(schedule)`; options that are left out take their defaults.

    Raises:
        UserError: not one of the forms, or a number out of its range.
    """
    if not isinstance(text, str):
        return text
    name, *rest = text.strip().split(":")
    kind, (k, *options) = KINDS.get(name), rest or [""]
    values = dict(option.partition("=")[::2] for option in options)
    if kind and len(values) == len(options) and values.keys() <= set(kind.options()):
        try:
            schedule = kind(int(k), **{key: int(value) for key, value in values.items()})
        except ValueError:
            schedule = None  # not a number: the message below
        least = {"k": 1, "every": 1, "pause": 0}
        if schedule and all(getattr(schedule, key, low) >= low for key, low in least.items()):
            return schedule
    raise UserError(f"schedule {text!r} is not understood: write {FORMS} (k and every at least 1)")


def spoken_steps(schedule: Schedule, answer_len: int, num_steps: int) -> list[int]:
    """The 0-based step at which each of `answer_len` answer tokens is spoken, over `num_steps` video steps."""
    steps: list[int] = []
    for step in range(num_steps - 1):
        steps += [step] * min(schedule.budget(step), answer_len - len(steps))
    return steps + [num_steps - 1] * (answer_len - len(steps))
