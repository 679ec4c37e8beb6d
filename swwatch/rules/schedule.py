"""When tokens are spoken, as far as a layout must know: to which step each of them belongs. See policies.speak.

A step is one temporal patch: two frames, whatever the frame rate. How long it lasts goes by the rate at which a model
watches: `seconds_of_step`. That number is handed on from a checkpoint's settings; there is no other.
"""

from dataclasses import dataclass
from typing import Protocol

FRAMES_PER_STEP = 2
FPS = 2.0  # frames a second, where a checkpoint names no others


def seconds_of_step(fps: float = FPS) -> float:
    """How long a step lasts at so many frames a second: 1 s at 2."""
    return FRAMES_PER_STEP / fps


def tenths(time_s: float) -> str:
    """Seconds as a model reads them. A time that was reckoned in another way, and so is off by a last bit, reads the
    same: 12.35 and 12.350000000000001, or 1.25 and 1.2500000000000002."""
    return f"{round(time_s, 6):.1f}"


@dataclass(frozen=True)
class Now:
    """What is known when a video step is in. What only a stream knows is None in a plan, and where nobody needs it.

    Attributes:
        step: its number, from 0.
        at_s: when it arrived, in seconds of stream time: that of its second frame, 0.5 s for the first step at 2
            frames a second.
        begins: the first step, or one with a question: an answer begins here.
        change: the share of the picture's tokens that look otherwise than at the step before, 0 to 1; None at the
            first step.
        left_s: until the next step is due, in seconds; below 0 where that is past.
        token_s: what a token took when something was said last, in seconds; None: nothing was.
        perplexity: of the newest words, if they were said now that this step is in; None: there are none.
        said_perplexity: of the same words, when they were said.
        going: an answer was begun and is not over.
        not_yet: the model's own chance that it is too early to speak, after the last token of this step; None: all of
            its tokens were dropped.
    """

    step: int
    at_s: float
    begins: bool = False
    change: float | None = None
    left_s: float | None = None
    token_s: float | None = None
    perplexity: float | None = None
    said_perplexity: float | None = None
    going: bool = False
    not_yet: float | None = None


class Schedule(Protocol):
    """What says how many tokens are spoken after each step."""

    def budget(self, now: Now) -> int:
        """Number of tokens to speak after a video step when it is not the last."""

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        """When step `step` arrives, given when it would from an undisturbed source; a step lasts `step_s` seconds."""


@dataclass(frozen=True)
class Steady:
    """`k` tokens after each step."""

    k: int

    def budget(self, now: Now) -> int:
        return self.k

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        return nominal_s


@dataclass(frozen=True)
class Planned:
    """Answers one after the other, as captions with their times have them.

    Attributes:
        at: tokens said at each step.
        starts: which of all tokens begin an answer.
    """

    at: tuple[int, ...]
    starts: tuple[int, ...]

    def budget(self, now: Now) -> int:
        return self.at[now.step]

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        return nominal_s


def spoken_steps(schedule: Schedule, answer_len: int, num_steps: int, step_s: float = seconds_of_step()) -> list[int]:
    """The 0-based step at which each of `answer_len` answer tokens is spoken, over `num_steps` video steps.

    Steps arrive `step_s` seconds apart, but for what the schedule does to them. After the last one the rest follows.
    """
    steps: list[int] = []
    for step in range(num_steps - 1):
        now = Now(step, schedule.arrival_s(step, (step + 0.5) * step_s, step_s))
        steps += [step] * min(schedule.budget(now), answer_len - len(steps))
    return steps + [num_steps - 1] * (answer_len - len(steps))
