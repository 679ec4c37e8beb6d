"""SimpleStream: the newest seconds, read anew. The control that every memory must beat.

Source: arXiv 2604.02317: the newest frames and the question, and nothing else. There a question comes when it comes;
here the words of those seconds stay as well, so that a narration goes on where it was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.memory.policy import Sliding
from swwatch.policies.table import option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recent(Sliding):
    """The newest seconds of video and the words said in them, read anew at every step or turn, as if the stream had
    begun with them. Prompt and questions stay."""

    name: ClassVar[str] = "recent"
    anew: ClassVar[bool] = True
    every_turn: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("vision_s",)
    vision_s: float = option(4.0, least=1)

    def said(self, steps: "torch.Tensor", shown: Collection[int]) -> "torch.Tensor":
        return (steps >= min(shown)).nonzero()[:, 0]

    # of the words of older turns none stay
    text_sink: ClassVar[int] = 0
    text_window: ClassVar[int] = 0
