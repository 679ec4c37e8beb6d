"""LiveVLM: video that leaves the window is written into a memory by the attention it gets, and a question reads pages.

Source: arXiv 2505.15269 v2. A token's score is the mean attention of the newest tokens of video to it; of 12k tokens
the best ones stay, and then, by falling score, one from each of as many equal stretches of the stream. A question sees
the 40 % of the pages of 16 tokens whose mean keys, without rotation, it attends to most. What is kept stands where it
stood, and so positions grow with the stream.
Chosen here, for the paper leaves it open: all heads of a layer keep and read the same; half of the memory goes to the
best tokens, which fill their stretches, too; what room is left is filled by score, so that layers hold as many; scores
are by the newest 16 tokens. A question is compared as it reads with all in view, and pages are chosen anew as the
memory changes. What is not read is hidden, not moved: it costs what it cost. In a narration that is for the words
alone, and until the answer is over; in chat turns for all of the turn, and for one turn.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.memory.policy import Sliding
from swwatch.policies.table import option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LiveVlm(Sliding):
    """A window, and a memory of `tokens` tokens in each layer.

    Attributes:
        top: share of the memory that goes to the best scores wherever they are.
        vision_s: seconds of video of the window; in chat turns words older than that join the previous text.
        newest: tokens of video whose attention counts.
        share: of the pages that a question sees.
    """

    name: ClassVar[str] = "livevlm"
    windows: ClassVar[tuple[str, ...]] = ("vision_s", "text_sink", "text_window")
    tokens: int = option(12288, least=1)
    top: float = option(0.5, least=0, most=1)
    vision_s: float = option(16.0, least=1)
    newest: int = option(16, least=1)
    share: float = option(0.4, least=0, most=1)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=1)

    def write(self, scores: "torch.Tensor", orders: "torch.Tensor") -> "torch.Tensor":
        by_score = scores.argsort(dim=1, descending=True, stable=True)
        first, last = orders.amin(1, keepdim=True), orders.amax(1, keepdim=True)
        stretch = ((orders - first) * self.tokens // (last - first + 1)).gather(1, by_score)
        by_stretch = stretch.argsort(dim=1, stable=True)
        sorted_ = stretch.gather(1, by_stretch)
        begins = sorted_.diff(dim=1, prepend=sorted_[:, :1] - 1) != 0
        enters = begins.new_zeros(begins.shape).scatter(1, by_stretch, begins)  # the best one of its stretch
        enters[:, : round(self.top * self.tokens)] = True
        chosen = enters.long().argsort(dim=1, descending=True, stable=True)[:, : self.tokens]
        return by_score.gather(1, chosen)

    def read(self, scores: "torch.Tensor") -> "torch.Tensor":
        return scores.topk(math.ceil(self.share * scores.shape[1])).indices.sort().values
