"""What a policy of SEE is: asked patch by patch, it knows this patch and the ones before, and nothing of what follows.

A stream asks as patches come, training all patches of a clip in the same order. What a policy drops is never fed, and
no position changes for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from swwatch.errors import UserError
from swwatch.policies.table import Policy

if TYPE_CHECKING:  # a table costs no import of torch
    import torch


class Merged(NamedTuple):
    """What is left of a patch where a policy puts tokens together; of one that decides by features.

    Attributes:
        cells: of the grid, rising: where the tokens that are left stand.
        weights: (len(cells), rows x columns) float32: of which features each of them is the sum, in what shares.
    """

    cells: Sequence[int]
    weights: "torch.Tensor"


class SeeState(Protocol):
    """What a policy remembers of one stream: numbers, texts, lists and tensors, and under `policy` its policy."""

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> Sequence[int] | Merged | None:
        """Which tokens of the next patch go to the LLM.

        Args:
            tokens: (rows x columns, P) in row-major order of the merged grid, not to be changed. Pixels: what the
                vision tower gets of each merged token, P = spatial_merge_size squared x D of the processor. Features:
                what it makes of it, merger included, as it would go into the first layer of the LLM.
        Returns:
            Cells of the grid, rising; None: all; Merged: cells, and what stands in them.
        """


class TowerBlock(Protocol):
    """A block of the vision tower, all of whose patch attends to all of it, in parts that can be run on some rows.

    Legend: S places of a patch, before they are merged, n of them, D width, N heads.

    Attributes:
        number: of the block, from 0.
    """

    number: int

    def norm(self, states: "torch.Tensor") -> "torch.Tensor":
        """What the block's attention gets of states (n, D)."""

    def queries(self, normed: "torch.Tensor", places: "torch.Tensor | None" = None) -> "torch.Tensor":
        """(n, D) of `norm` -> (n, N, D/N), rotated. places (n,): where they stand; None: they are all."""

    def keys(self, normed: "torch.Tensor", places: "torch.Tensor | None" = None) -> "torch.Tensor":
        """As `queries`."""

    def values(self, normed: "torch.Tensor") -> "torch.Tensor":
        """(n, D) of `norm` -> (n, N, D/N)."""

    def attend(self, queries: "torch.Tensor", keys: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
        """n queries over S keys and values -> (n, D), to be added to the states."""

    def feed_forward(self, states: "torch.Tensor") -> "torch.Tensor":
        """(n, D) to be added to states (n, D), which it norms."""


class TowerState(SeeState, Protocol):
    """The state of a policy that `reuses`: it runs the tower's blocks. `keep` is called when a patch is through.

    Attributes:
        computed: of the newest patch, the places (n,) that each block computed; empty: all of them.
    """

    computed: "list[torch.Tensor]"

    def enter(self, rows: int, columns: int) -> None:
        """A patch of this merged grid goes through the tower. One whose way failed may enter again."""

    def run(self, block: TowerBlock, states: "torch.Tensor") -> "torch.Tensor":
        """States (S, D) behind the block; those before it are not to be changed."""


@dataclass(frozen=True)
class See(Policy, ABC):
    """A policy of this table.

    Attributes:
        needs: what it decides by: "pixels", or "features" of the vision tower.
        drops: whether it can leave anything out.
        reuses: it runs the blocks of the tower, for the work that it spares: its state is a TowerState.
    """

    table: ClassVar[str] = "see"
    needs: ClassVar[str] = "pixels"
    drops: ClassVar[bool] = True
    reuses: ClassVar[bool] = False

    @property
    def decides_late(self) -> bool:
        """Patches are laid out whole, and what is dropped is struck out once the vision tower has seen them."""
        return self.needs == "features"

    def check_training(self) -> None:
        """Raises UserError: nothing is to be learned under it."""
        if self.reuses:
            raise UserError(
                f"see {self} spares work while streaming, at nearly the same features, and training would spare "
                "nothing: train with see all, and give --see to what streams"
            )

    def check_tower(self, windows: bool, where: str) -> None:
        """
        Args:
            windows: whether most blocks of the tower attend within windows; where: whose it is, for the message.
        Raises:
            UserError: it needs another tower.
        """
        if self.reuses and windows:
            raise UserError(
                f"see {self} is for a vision tower in which all of a picture attends to all of it, and most blocks of "
                f"that of {where} attend within windows: take a model of Qwen2-VL or Qwen3-VL, or --see stc, which "
                "spares the LLM instead"
            )

    @abstractmethod
    def begin(self) -> SeeState:
        """For one stream: what is asked patch by patch. A policy that remembers nothing may return itself."""


@dataclass(frozen=True)
class SeeAll(See):
    """Every token."""

    name: ClassVar[str] = "all"
    drops: ClassVar[bool] = False

    def begin(self) -> "SeeAll":
        return self

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> None:
        return None


ALL = SeeAll()
