"""When tokens are spoken: how many after each video step. After the last step the rest follows.

A schedule is written as text in configs, flags and checkpoints: `wait-k:3`, `random:3:seed=0`.
"""

import random
from dataclasses import dataclass, replace

from swwatch.errors import UserError


@dataclass(frozen=True)
class WaitK:
    """Exactly k tokens after every step but the last (the paper trains and tests with k = 3)."""

    k: int = 3

    def budget(self, step: int) -> int:
        """Number of tokens to speak after video step `step` (0-based) when it is not the last."""
        return self.k

    def for_clip(self, key: str) -> "WaitK":
        return self

    def __str__(self) -> str:
        return f"wait-k:{self.k}"


@dataclass(frozen=True)
class RandomK:
    """The disturbance test: a number drawn uniformly from 0..2k (mean k) at every step.

    The law knows nothing of the reference caption (the public release draws up to caption length / steps, which
    leaks it). Draws depend on (seed, clip, step) alone, so that every engine, order and resume meets the same ones.
    """

    k: int = 3
    seed: int = 0
    clip: str = ""

    def budget(self, step: int) -> int:
        return random.Random(f"{self.seed}/{self.clip}/{step}").randint(0, 2 * self.k)

    def for_clip(self, key: str) -> "RandomK":
        return replace(self, clip=str(key))

    def __str__(self) -> str:
        return f"random:{self.k}:seed={self.seed}"


Schedule = WaitK | RandomK


def parse_schedule(text: "str | Schedule") -> Schedule:
    """Inverse of `str(schedule)`.

    Raises:
        UserError: not one of the two forms, or k < 1.
    """
    if not isinstance(text, str):
        return text
    name, _, rest = text.strip().partition(":")
    k, _, option = rest.partition(":")
    key, _, seed = option.partition("=")
    try:
        if name == "wait-k" and int(k) >= 1 and not option:
            return WaitK(int(k))
        if name == "random" and int(k) >= 1 and key in ("", "seed"):
            return RandomK(int(k), int(seed) if key else 0)
    except ValueError:
        pass  # not a number: the same message as for any other form
    raise UserError(f"schedule {text!r} is not understood: write wait-k:3 or random:3:seed=0 (k at least 1)")


def spoken_steps(schedule: Schedule, answer_len: int, num_steps: int) -> list[int]:
    """The 0-based step at which each of `answer_len` answer tokens is spoken, over `num_steps` video steps."""
    steps: list[int] = []
    for step in range(num_steps - 1):
        steps += [step] * min(schedule.budget(step), answer_len - len(steps))
    return steps + [num_steps - 1] * (answer_len - len(steps))
