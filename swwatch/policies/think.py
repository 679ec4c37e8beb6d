"""THINK: how much is thought beside the words, and what of it stays. One table; engine/thinking.py carries it out.

Thoughts are notes in a stream of their own, see rules.visibility: each begins with a header of its own and ends with
<|im_end|>, at its limit, or when the next one begins. Nobody hears them; words see those of steps before their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.errors import UserError
from swwatch.policies.memory.policy import Keep
from swwatch.policies.table import Policy, option, parse, table
from swwatch.rules.schedule import Planned
from swwatch.rules.variants import Variant

if TYPE_CHECKING:
    import torch


class Think(Policy):
    """A policy of this table."""

    table: ClassVar[str] = "think"

    def check(self, variant: Variant, keep: Keep | None = None) -> None:
        """Refuse a variant that cannot think, or what is kept without thoughts.

        Raises:
            UserError: what to take instead.
        """


@dataclass(frozen=True)
class Off(Think):
    """Nothing is thought, whatever the checkpoint was trained to."""

    name: ClassVar[str] = "off"


@dataclass(frozen=True)
class Notes(Think):
    """`k` tokens a step, note after note, but none at the last step: nothing said could see them.

    Attributes:
        every_s: a note begins where so many seconds of video are complete, and is cut off where the next ones are; 0:
            as soon as the one before it is over.
        limit: tokens of a note at most.
        sink, window: of all that was thought the first and the newest so many tokens stay; window None: all.
    """

    name: ClassVar[str] = "notes"
    k: int = option(2, least=1)
    every_s: float = option(0.0, least=0)
    limit: int = option(64, least=1)
    sink: int = option(0, least=0)
    window: int | None = option(None, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.sink and self.window is None:
            raise UserError(f"{self.name}: sink is what stays beside a window, give both")

    def check(self, variant: Variant, keep: Keep | None = None) -> None:
        variant.check_thoughts()
        if keep is not None and keep.anew:
            raise UserError(f"keep {keep} reads anew what is left, and thoughts are not read again: take window:16")
        if keep is not None and keep.bounded and self.window is None:
            raise UserError(
                f"keep {keep} is for a stream without end, and {self} keeps all thoughts: give it a window"
            )

    def begins(self, step: int, step_s: float, over: bool) -> bool:
        """Whether a note begins at a step.

        Args:
            step_s: seconds of a step.
            over: no note is under way.
        """
        if not self.every_s:
            return over
        complete, before = (int(round(steps * step_s / self.every_s, 6)) for steps in (step + 1, step))
        return complete > before

    def plan(self, num_steps: int, step_s: float) -> Planned:
        """What is thought where no note ends by itself."""
        at, starts, left = [0] * num_steps, [], 0
        for step in range(num_steps - 1):
            if self.begins(step, step_s, not left):
                starts.append(sum(at))
                left = self.limit
            at[step] = min(self.k, left)
            left -= at[step]
        return Planned(tuple(at), tuple(starts))

    def most(self, num_steps: int, step_s: float) -> tuple[int, int]:
        """(notes, tokens of them) in so many steps at most."""
        steps = num_steps - 1
        begun = sum(self.begins(step, step_s, True) for step in range(steps))
        return begun, min(self.k * steps, self.limit * begun)

    def write(
        self, thoughts: Sequence[tuple[float, str]], encode: Callable[[str], list[int]], num_steps: int, step_s: float
    ) -> tuple[Planned, list[int]]:
        """Notes for training, as a stream would make them: each tells what has come up since the one before it began.

        Args:
            thoughts: (seconds, text) in the order of time: what comes up when.
            encode: a text -> its ids and the end of a note, which stands alone where nothing came up.
        Returns:
            When they are thought, and the ids of all of them.
        """
        at, starts, ids, left, num_used = [0] * num_steps, [], [], [], 0
        for step in range(num_steps - 1):
            if self.begins(step, step_s, not left):
                starts.append(len(ids))
                new = [text.strip() for at_s, text in thoughts[num_used:] if at_s <= (step + 0.5) * step_s + 1e-6]
                num_used += len(new)
                left = encode("; ".join(new))[: self.limit]
            at[step] = min(self.k, len(left))
            ids, left = ids + left[: at[step]], left[at[step] :]
        return Planned(tuple(at), tuple(starts)), ids

    def stays(self, count: int) -> "torch.Tensor | None":
        """(K',) which of so many tokens stay, rising; None: all."""
        import torch  # here, so that the names of a table cost nothing to list

        if self.window is None or count <= self.sink + self.window:
            return None
        return torch.cat([torch.arange(self.sink), torch.arange(count - self.window, count)])


OFF = Off()
THINK = table(Notes, Off)


def parse_think(text: str | Think) -> Think:
    """Inverse of `str(policy)`; options that are left out take their defaults.

    Raises:
        UserError: not one of the forms, or a number out of its range.
    """
    return parse(THINK, text)
