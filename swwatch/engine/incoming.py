"""A step between the source and the cache."""

from dataclasses import dataclass

import torch

from swwatch.engine.requests import Look
from swwatch.engine.source import Ask, Step
from swwatch.model.vision_tower import VideoFeatures
from swwatch.rules.cursor import Cursor
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Patch


@dataclass
class Incoming:
    """A step on its way into the cache: laid out, and computed as far as `num_in` says.

    Attributes:
        index: 0-based video step.
        step: None at the end of a stream that ended late: a step without video, which brings the suffix.
        last: nothing follows.
        asks: questions in effect from this step on.
        rows: (Q,) Layout of what is watched, in order: questions, video, suffix.
        patch: the video of the step; whole as long as the SEE policy has not seen it, where that decides late.
        parts: what the rows are, in the same order: token ids, pixels for the vision tower, or what it made of them.
        embeds: (Q, D), once they are known.
        num_in: so many of the rows are in the cache.
        change: share of the picture that changed, where the SPEAK policy asks for it.
        not_yet: the chance that it is too early to speak, where the policy asks for it and all rows are in.
    """

    index: int
    step: Step | None
    last: bool
    asks: list[Ask]
    rows: Layout
    patch: Patch
    parts: list[tuple[int, ...] | Look | VideoFeatures | torch.Tensor]
    embeds: torch.Tensor | None = None
    num_in: int = 0
    change: float | None = None
    not_yet: torch.Tensor | float | None = None

    @property
    def num_left(self) -> int:
        return len(self.rows) - self.num_in

    def strike(self, patch: Patch, cursor: Cursor) -> None:
        """Of the video of the step this is left, as is known now; `cursor` has laid out nothing since."""
        self.patch, self.rows = self.patch._replace(kept=patch.kept), cursor.strike(self.rows, patch)

    def take(self, count: int) -> tuple[Layout, torch.Tensor]:
        """The next rows and their embeddings, which go into the cache now."""
        chosen = slice(self.num_in, self.num_in + count)
        self.num_in += count
        return self.rows[chosen], self.embeds[chosen]
