"""FlashVID, patch by patch: few tokens that differ as much as they can, and the rest merged or left to the past.

1. Of a budget, a share of the patch, `alpha` is filled with tokens that are as unlike one another as can be: from the
   one that is least like any other on, always the one whose nearest chosen neighbour is farthest.
2. Of the others, those that resemble some token of the patch before, wherever it stood, are dropped.
3. What is left then is merged into as many groups as the budget has room for, by density peaks among 7 neighbours; a
   group is its mean and stands where its peak is. The tokens of 1. go as they are.

Source: Fan et al., ICLR 2026 (OpenReview H6rDX4w6Al). As released it needs the whole clip: segments come first, and a
token is averaged with all that resembles it later. A stream has fed the past already, so here the past is not
changed, and links reach one patch back. Left out: the weight of the tower's attention in 1., and pruning at layer 20
of the LLM with the larger budget that goes with it. Chosen here: likeness is the cosine; distances of 3. are of
features scaled to length 1.
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.see.policy import Merged, See
from swwatch.policies.table import option

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

NEIGHBOURS = 7


@dataclass(frozen=True)
class Flash(See):
    """`share` of each patch at most; `alpha` of it as it is; like the past where the cosine is above `threshold`."""

    name: ClassVar[str] = "flash"
    needs: ClassVar[str] = "features"
    share: float = option(0.25, least=0, most=1)
    alpha: float = option(0.7, least=0, most=1)
    threshold: float = option(0.8, least=-1, most=1)

    def begin(self) -> "FlashState":
        return FlashState(self)


class FlashState:
    """The patch before, scaled to length 1."""

    def __init__(self, policy: Flash):
        self.policy, self.before = policy, None

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> Merged:
        features = tokens.float()
        seen = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
        budget = ceil(self.policy.share * len(seen))
        chosen = unlike(1 - seen @ seen.T, ceil(self.policy.alpha * budget))
        others = seen.new_ones(len(seen)).bool()
        others[chosen] = False
        if self.before is not None:
            others &= (seen @ self.before.T).amax(1) <= self.policy.threshold
        self.before = seen
        rest = others.nonzero()[:, 0]
        groups = {cell: [cell] for cell in chosen}
        if len(rest) and budget > len(chosen):
            peaks, member_of = density_peaks(seen[rest], budget - len(chosen))
            cells = rest.tolist()
            groups |= {cells[peak]: [cells[i] for i, of in enumerate(member_of) if of == peak] for peak in peaks}
        weights = features.new_zeros(len(groups), len(features))
        for row, cell in enumerate(sorted(groups)):
            weights[row, groups[cell]] = 1 / len(groups[cell])
        return Merged(sorted(groups), weights)


def unlike(distance: "torch.Tensor", count: int) -> list[int]:
    """Max-min choice of `count` points by their distances (n, n)."""
    if not count:
        return []
    apart = distance.clone().fill_diagonal_(float("inf")).amin(1)  # of a single point there is no other
    chosen = [int(apart.argmax())]
    nearest = distance[chosen[0]].clone()
    while len(chosen) < count:
        nearest[chosen[-1]] = -float("inf")
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum(distance[chosen[-1]])
    return chosen


def density_peaks(points: "torch.Tensor", count: int) -> tuple[list[int], list[int]]:
    """Groups around points of high density that are far from any denser one (Du et al. 2016, DPC-KNN).

    Args:
        points: (n, D), of length 1.
    Returns:
        At most `count` peaks, and for each point the peak that is nearest to it.
    """
    distance = (2 - 2 * points @ points.T).clamp(min=0).sqrt()
    near = distance.sort(dim=1).values[:, 1 : NEIGHBOURS + 1]
    density = (-near.square().sum(1) / max(1, near.shape[1])).exp()
    denser = density[None] > density[:, None]
    apart = distance.masked_fill(~denser, float("inf")).amin(1)
    apart = apart.where(denser.any(1), distance.amax())
    peaks = (density * apart).argsort(descending=True, stable=True)[:count]
    member_of = peaks[distance[:, peaks].argmin(1)]
    member_of[peaks] = peaks
    return peaks.tolist(), member_of.tolist()
