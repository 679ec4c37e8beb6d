"""QuickVideo: of every group of seconds the tokens with the smallest keys stay, in each layer its own.

Source: arXiv 2505.16175: of every 16 frames the 64 tokens whose keys, all heads together, have the smallest L2 norm.
As there a group is thinned once all of it has been read: the words of its last second see what is left of it, in chat
turns those of the turn after it. Positions stay what they were. What is kept grows, by `tokens` a group.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.memory.policy import Keep
from swwatch.policies.table import option
from swwatch.rules.variants import Speaks

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class KeyNorm(Keep):
    """So many tokens of the video of each group of `group_s` seconds; all text."""

    name: ClassVar[str] = "key_norm"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL, Speaks.TURNS)
    tokens: int = option(64, least=1)
    group_s: float = option(8.0, least=1)

    def thin(self, keys: "torch.Tensor") -> "torch.Tensor":
        return keys.float().norm(dim=-1).argsort(stable=True)[:, : self.tokens].sort().values
