"""SEE: which tokens of a patch go to the LLM. One table, and the one way in which everybody asks it.

A stream asks patch by patch as they come, training all patches of a clip in the same order: a policy knows this patch
and the ones before, and nothing of what follows. What it drops is never fed, and no position changes for it.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from swwatch.errors import UserError
from swwatch.policies.table import Policy, parse, table
from swwatch.rules.patch import Patch

if TYPE_CHECKING:  # a table costs no import of torch
    import torch


class SeeState(Protocol):
    """What a policy remembers of one stream."""

    def keep(self, pixels: "torch.Tensor", rows: int, columns: int) -> Sequence[int] | None:
        """Which tokens of the next patch go to the LLM.

        Args:
            pixels: (rows x columns, P) what the vision tower gets of each merged token, P = spatial_merge_size squared
                x D of the processor. Not to be changed.
            rows, columns: of the merged grid, in row-major order.
        Returns:
            Cells of the grid, rising; None: all.
        """


@dataclass(frozen=True)
class See(Policy):
    """A policy of this table.

    Attributes:
        needs: what it decides by: "pixels", or "features" of the vision tower, which nobody hands it yet.
        drops: whether it can leave anything out.
    """

    table: ClassVar[str] = "see"
    needs: ClassVar[str] = "pixels"
    drops: ClassVar[bool] = True

    def begin(self) -> SeeState:
        """For one stream: what is asked patch by patch. A policy that remembers nothing may return itself."""
        raise NotImplementedError


@dataclass(frozen=True)
class All(See):
    """Every token."""

    name: ClassVar[str] = "all"
    drops: ClassVar[bool] = False

    def begin(self) -> "All":
        return self

    def keep(self, pixels: "torch.Tensor", rows: int, columns: int) -> None:
        return None


ALL = All()
SEE = table(All)


def parse_see(text: str | See) -> See:
    """Inverse of `str(policy)`.

    Raises:
        UserError: not one of the forms.
    """
    return parse(SEE, text)


class Seen:
    """One stream under a policy: patches in order, and how many of their tokens never go further.

    Attributes:
        num_arrived, num_dropped: tokens so far.
    """

    def __init__(self, policy: See):
        """Raises UserError: the policy decides by something that nobody hands it."""
        if policy.needs != "pixels":
            raise UserError(
                f"see {policy}: it decides by {policy.needs} of the vision tower, and a patch is laid out before they "
                "are known: take a policy that decides by pixels"
            )
        self.policy, self._state = policy, policy.begin()
        self.num_arrived = self.num_dropped = 0

    def state(self) -> dict:
        """What later patches depend on, in what the policy's own state is made of."""
        return deepcopy(vars(self) | {"policy": str(self.policy), "_state": vars(self._state)})

    def load_state(self, state: dict) -> None:
        """Go on from a `state` of the same policy."""
        self.num_arrived, self.num_dropped = state["num_arrived"], state["num_dropped"]
        vars(self._state).update(deepcopy(state["_state"]))

    def patch(self, pixel_values: "torch.Tensor", grid: tuple[int, int]) -> Patch:
        """The next patch.

        Args:
            pixel_values: (patches, D) of the processor, those of one merged token next to each other.
            grid: merged (rows, columns).
        Raises:
            ValueError: the policy answers with something else than cells of the grid in rising order.
        """
        rows, columns = grid
        kept = self._state.keep(pixel_values.reshape(rows * columns, -1), rows, columns)
        patch = Patch(rows, columns, None if kept is None else tuple(int(cell) for cell in kept))
        if kept is not None and list(patch.kept) != sorted(set(patch.kept) & set(range(rows * columns))):
            raise ValueError(f"see {self.policy} must keep cells below {rows * columns} in rising order, not {kept}")
        self.num_arrived += patch.num_arrived
        self.num_dropped += patch.num_dropped
        return patch


def see_video(policy: See, pixel_values: "torch.Tensor", grids: Sequence[tuple[int, int]]) -> list[Patch]:
    """The patches of one whole video, asked for as a stream would.

    Args:
        pixel_values: (patches, D) of all steps, in order.
        grids: merged (rows, columns) of each step.
    """
    if not policy.drops:
        return [Patch(*grid) for grid in grids]
    stream, begin, patches = Seen(policy), 0, []
    merged = len(pixel_values) // sum(rows * columns for rows, columns in grids)
    for rows, columns in grids:
        end = begin + rows * columns * merged
        patches.append(stream.patch(pixel_values[begin:end], (rows, columns)))
        begin = end
    return patches


def kept_features(patches: Iterable[Patch]) -> list[int] | None:
    """Which of the merged features of several patches behind one another are kept; None: all."""
    kept, first = [], 0
    for patch in patches:
        cells = range(patch.num_arrived) if patch.kept is None else patch.kept
        kept += [first + cell for cell in cells]
        first += patch.num_arrived
    return None if len(kept) == first else kept
