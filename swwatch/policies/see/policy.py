"""What a policy of SEE is: asked patch by patch, it knows this patch and the ones before, and nothing of what follows.

A stream asks as patches come, training all patches of a clip in the same order. What a policy drops is never fed, and
no position changes for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

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


@dataclass(frozen=True)
class See(Policy, ABC):
    """A policy of this table.

    Attributes:
        needs: what it decides by: "pixels", or "features" of the vision tower.
        drops: whether it can leave anything out.
    """

    table: ClassVar[str] = "see"
    needs: ClassVar[str] = "pixels"
    drops: ClassVar[bool] = True

    @property
    def decides_late(self) -> bool:
        """Patches are laid out whole, and what is dropped is struck out once the vision tower has seen them."""
        return self.needs == "features"

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
