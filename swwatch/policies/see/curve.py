"""CurveStream: whole patches by how much, and how abruptly, the picture moves: clear, small, or not at all.

With the feature F of a picture, scaled to length 1: motion = 1 - cos(F_t, F_t-1); curvature = 1 - cos(F_t-1 - F_t-2,
F_t - F_t-1); score = motion + weight x curvature. A running mean and variance of the score make two gates, mean + low
and mean + high deviations. From the upper one on a picture is seen as it is, below the lower one it is dropped,
between them it is seen small. The first three patches are seen as they are: two make no curve, the
third has the first score.

Source: arXiv 2603.19571, of which there is no code. Its F is DINOv2's; here it is the mean of the patch's features,
so that nothing else is loaded and the vision tower sees every picture. A small picture is here the mean of each 2 x 2
tokens instead of a blurred one of 224 x 224. Not stated there, and chosen here: momentum 0.9 and the gates at -0.5
and 0 deviations, so that about half of the pictures are seen clear, as they found best; gates are those of the
patches before; curvature is 0 where nothing moves. Its limit of 10 to 20 pictures is KEEP's matter. Where it says no
more than "moving average", mean and variance are here those of all scores so far, each weighing momentum times the one
after it: begun with the first score alone, one that is high would hide up to 17 patches behind it, so no more than 4.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.errors import UserError
from swwatch.policies.see.policy import Merged, See
from swwatch.policies.table import option

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

SMALL = 2  # so many rows and columns of a patch become one


@dataclass(frozen=True)
class Curve(See):
    """`weight` of the curvature; `low` and `high`, the gates in deviations; `momentum` of mean and variance."""

    name: ClassVar[str] = "curve"
    needs: ClassVar[str] = "features"
    weight: float = option(0.2, least=0)
    low: float = option(-0.5)
    high: float = option(0.0)
    momentum: float = option(0.9, least=0, most=1)

    def __post_init__(self):
        super().__post_init__()
        if self.low > self.high:
            raise UserError(f"curve: low must be at most high, not {self.low:g} and {self.high:g}")

    def begin(self) -> "CurveState":
        return CurveState(self)


class CurveState:
    """The last picture and how it had moved, and what scores were like; `weight`: of all, where the newest has 1."""

    def __init__(self, policy: Curve):
        self.policy, self.last, self.move = policy, None, None
        self.mean = self.variance = self.weight = 0.0

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> Merged | list[int] | None:
        score = self.score(tokens.float().mean(0))
        if score is None:
            return None
        first, mean, deviation = not self.weight, self.mean, self.variance**0.5
        self.follow(score)
        if first or score >= mean + self.policy.high * deviation:
            return None
        return [] if score < mean + self.policy.low * deviation else small(tokens, rows, columns)

    def score(self, picture: "torch.Tensor") -> float | None:
        """Of a picture (D,); None of the first two."""
        import torch  # here, so that a table costs no import of it

        picture = picture / picture.norm().clamp(min=1e-12)
        last, before = self.last, self.move
        self.last = picture
        if last is None:
            return None
        self.move = picture - last
        if before is None:
            return None
        products = picture @ last, self.move.norm() * before.norm(), self.move @ before
        alike, lengths, along = torch.stack(products).tolist()  # for which the host waits once
        turn = along / lengths if lengths else 1.0
        return 1 - alike + self.policy.weight * (1 - turn)

    def follow(self, score: float) -> None:
        """Let mean and variance follow."""
        self.weight = self.policy.momentum * self.weight + 1
        share, change = 1 / self.weight, score - self.mean
        self.mean += share * change
        self.variance = (1 - share) * (self.variance + share * change**2)


def small(tokens: "torch.Tensor", rows: int, columns: int) -> Merged:
    """A patch of which each 2 x 2 tokens, or what there is of them at an edge, are one: their mean, at the first."""
    blocks: dict[tuple[int, int], list[int]] = {}
    for cell in range(rows * columns):
        blocks.setdefault((cell // columns // SMALL, cell % columns // SMALL), []).append(cell)
    weights = tokens.new_zeros(len(blocks), len(tokens)).float()
    for row, cells in enumerate(blocks.values()):
        weights[row, cells] = 1 / len(cells)
    return Merged([cells[0] for cells in blocks.values()], weights)
