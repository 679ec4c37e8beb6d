"""What a policy of SPEAK is, and what it is asked. The table is in policies/speak/__init__.py."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from swwatch.errors import UserError
from swwatch.policies.table import Policy, option
from swwatch.rules.schedule import Now
from swwatch.rules.variants import Speaks, Variant, speaking

if TYPE_CHECKING:
    from swwatch.policies.memory.policy import Keep

CHANGE, CLOCK, PROBE, NOT_YET = "change", "clock", "probe", "not_yet"  # what a policy may need to be told, see `Now`


class SpeakState(Protocol):
    """What a policy remembers of one stream: numbers, texts, lists and tensors, and under `policy` its policy."""

    def budget(self, now: Now) -> int:
        """Number of tokens to speak after a video step when it is not the last."""


@dataclass(frozen=True)
class Speak(Policy):
    """What all schedules share: k tokens a step and arrival on time, unless they say otherwise.

    A policy must not know the reference caption. What it answers may depend on `Now` alone, so that training, which
    asks it before any clock runs, gets the answers that a stream gets.

    Attributes:
        needs: what it must be told beside the number of a step and its arrival.
        for_whom: how variants speak that can speak so.
        learned: the model is trained for it, on captions with their times, and says itself when its answers end.
        has_head: the model has a head of its own for it.
    """

    table: ClassVar[str] = "schedule"
    needs: ClassVar[frozenset[str]] = frozenset()
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.OFFLINE, Speaks.ALTERNATING, Speaks.PARALLEL)
    learned: ClassVar[bool] = False
    has_head: ClassVar[bool] = False
    k: int = option(3, least=1)

    def begin(self) -> SpeakState:
        """For one stream: what is asked after each step. A policy that remembers nothing may return itself."""
        return self

    def budget(self, now: Now) -> int:
        """Number of tokens to speak after a video step when it is not the last."""
        return self.k

    def arrival_s(self, step: int, nominal_s: float, step_s: float) -> float:
        """When step `step` arrives, given when it would from an undisturbed source; seconds of stream time.

        Args:
            step_s: how long a step lasts.
        """
        return nominal_s

    def for_clip(self, key: str) -> "Speak":
        """The schedule of one clip, named by its video id."""
        return self

    def check_training(self) -> None:
        """Raises UserError: no model can be trained to speak so."""

    def check(self, variant: Variant) -> None:
        """Refuse a variant that cannot speak so.

        Raises:
            UserError: it names those that can.
        """
        if variant.speaks not in self.for_whom:
            names = ", ".join(speaking(*self.for_whom))
            raise UserError(f"{variant.name!r} cannot speak by {self}, which is for {names}: take another schedule")

    def check_keep(self, keep: "Keep") -> None:
        """Raises UserError: it reads words anew which may be gone."""
        if PROBE in self.needs and keep.forgets:
            why = f"{self} reads its newest words anew, and keep {keep} lets words go"
            raise UserError(f"{why}: keep all, or take another schedule")

    def check_trained(self, schedule: "str | Speak", where: str) -> None:
        """Refuse a model that was not trained for it, where it must have been.

        Args:
            schedule: that of its training; where: the model, for messages.
        """
        if self.learned and str(schedule).partition(":")[0] != self.name:
            raise UserError(
                f"{where} was trained with {schedule} and never learned to speak by {self}: train it so "
                f"(swwatch train --schedule {self.name}), or take another schedule"
            )


@dataclass(frozen=True)
class Deciding(Speak, ABC):
    """One that decides while it streams. Nothing can be laid out by it before the stream has been: no picture, and no
    training sample but by the times of its captions, where it is learned. Others can be put on any checkpoint of a
    variant that they are for.

    It is told when an answer begins (`Now.begins`), and must speak then. Where the answer is over and it says that
    tokens are due, another one begins.
    """

    @abstractmethod
    def begin(self) -> SpeakState:
        """As `Speak.begin`, and never the policy itself, whose own `budget` is for those who have no stream."""

    def budget(self, now: Now) -> int:
        """Raises UserError: there is no stream."""
        raise UserError(
            f"{self} decides while it streams, and nothing can be laid out by it before: train and draw with wait-k, "
            f"and give --schedule {self} to swwatch stream, watch or eval"
        )

    def check_training(self) -> None:
        self.budget(Now(0, 0.0))


class Stateless:
    """Of a stream it remembers nothing but the policy."""

    def __init__(self, policy: Deciding):
        self.policy = policy
