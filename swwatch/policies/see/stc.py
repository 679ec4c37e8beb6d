"""STC-Pruner: of each patch the share of tokens that are least like what the patch, and the past, are like on average.

Channels that vary least over the patch are compared, half of them. A token's likeness to an anchor is a sum of
Gaussians of their distance, after both are scaled to length 1. One anchor is the mean of the patch, the other the
mean of the means of all patches before.
Source: arXiv 2512.00891, and the constants of its code, which keeps 64 of 196 tokens. Left open there, and chosen
here: the share instead of a number, for patches differ in size; a first patch, without a past, is compared with its
own mean; anchors are means of whole features, of which the channels of the present patch are taken.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.see.policy import See
from swwatch.policies.table import option

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the Gaussians


@dataclass(frozen=True)
class Stc(See):
    """The tokens that surprise."""

    name: ClassVar[str] = "stc"
    needs: ClassVar[str] = "features"
    share: float = option(0.33, least=0, most=1)

    def begin(self) -> "StcState":
        return StcState(self)


class StcState:
    """The mean of the means of all patches so far."""

    def __init__(self, policy: Stc):
        self.policy, self.mean, self.num_patches = policy, None, 0

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> list[int]:
        features = tokens.float()
        mean = features.mean(0)
        quiet = features.var(0, correction=0).argsort(stable=True)[: max(1, features.shape[1] // 2)]
        seen = _scaled(features[:, quiet])
        likeness = _likeness(seen, _scaled(mean[quiet]))
        if self.mean is not None:
            likeness = likeness + _likeness(seen, _scaled(self.mean[quiet]))
        self.num_patches += 1
        self.mean = mean if self.mean is None else self.mean + (mean - self.mean) / self.num_patches
        count = max(1, round(self.policy.share * len(features)))
        return sorted(likeness.argsort(stable=True)[:count].tolist())


def _scaled(vectors: "torch.Tensor") -> "torch.Tensor":
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _likeness(seen: "torch.Tensor", anchor: "torch.Tensor") -> "torch.Tensor":
    """(n, C) and (C,) -> (n,)."""
    distance = (seen - anchor).square().sum(1)
    return sum((-distance / (2 * width)).exp() for width in WIDTHS)
