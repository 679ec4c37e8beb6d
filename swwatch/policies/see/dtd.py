"""TimeChat-Online's differential token dropping: what looks as it did a moment ago is not looked at again.

A token is compared with the same place in the patch before, whole as it came, and not with the token that was last
kept. The first patch is whole, and so is one of another size.
Source: arXiv 2504.17343. Their thresholds for features are 0.5 and, in their demo, 0.25; for pixels about 0.1.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.see.policy import See
from swwatch.policies.table import option

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

FRAMES = (2 * 2 * 3, 2)  # of the pixels of a token: colours of each patch merged in it, the two frames of a step


@dataclass(frozen=True)
class Dtd(See):
    """By features of the vision tower: dropped where the cosine to the same place before is above `threshold`."""

    name: ClassVar[str] = "dtd"
    needs: ClassVar[str] = "features"
    threshold: float = option(0.5, least=-1, most=1)

    def begin(self) -> "DtdState":
        return DtdState(self)

    def is_new(self, tokens: "torch.Tensor", before: "torch.Tensor") -> "torch.Tensor":
        """(n, P) and (n, P) -> (n,) bool."""
        now, then = (part.float() for part in (tokens, before))
        cosine = (now * then).sum(1) / (now.norm(dim=1) * then.norm(dim=1)).clamp(min=1e-12)
        return cosine <= self.threshold


@dataclass(frozen=True)
class DtdPixels(See):
    """By pixels: dropped where their mean absolute difference is below `threshold`.

    The second frame of the patch before is compared with the first of this one. A difference is in the units of the
    processor, its standard deviation being 1: their 0.1 of the range from black to white is 0.37 of Qwen2.5-VL's.
    """

    name: ClassVar[str] = "dtd_pixels"
    threshold: float = option(0.37, least=0)

    def begin(self) -> "DtdState":
        return DtdState(self)

    def is_new(self, tokens: "torch.Tensor", before: "torch.Tensor") -> "torch.Tensor":
        """As `Dtd.is_new`."""
        now, then = (part.reshape(len(part), *FRAMES, -1) for part in (tokens, before))
        return (now[:, :, 0] - then[:, :, 1]).abs().float().mean((1, 2)) >= self.threshold


class DtdState:
    """The patch before."""

    def __init__(self, policy: Dtd | DtdPixels):
        self.policy, self.size, self.before = policy, (0, 0), None

    def keep(self, tokens: "torch.Tensor", rows: int, columns: int) -> list[int] | None:
        before, same = self.before, self.size == (rows, columns)
        self.before, self.size = tokens.clone(), (rows, columns)
        return self.policy.is_new(tokens, before).cpu().nonzero()[:, 0].tolist() if same else None
