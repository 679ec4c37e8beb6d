"""ReKV: video that leaves the window is parked in host memory, and a question brings back what is near to it.

Source: arXiv 2503.00540. A block is the video of a step or turn. A question's mean query and a block's mean key, both
without rotation and with all heads together, are multiplied; the nearest blocks come back in each layer, in the order
of time, behind the prompt, with positions without gaps (in chat turns whose positions are not closed up: where they
stood). They stay until the answer is over, in chat turns for one turn. What a narration watches meanwhile does not see
them.
Chosen here: the question is compared as it reads before anything comes back, not layer by layer amid what has; words
have a window, too; where pictures have different sizes all layers bring back the same blocks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swwatch.policies.memory.policy import Sliding
from swwatch.policies.table import option

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rekv(Sliding):
    """A window on the device, all video in host memory.

    Attributes:
        blocks: that a question brings back.
        vision_s: seconds of video of the window; in chat turns words older than that join the previous text.
        host_mb: megabytes (2^20) of host memory; the oldest blocks go where there would be more.
    """

    name: ClassVar[str] = "rekv"
    moves: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("vision_s", "text_sink", "text_window")
    blocks: int = option(64, least=1)
    vision_s: float = option(16.0, least=1)
    host_mb: float = option(8192.0, least=0)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=1)

    def recall(self, scores: "torch.Tensor") -> "torch.Tensor":
        return scores.topk(min(self.blocks, scores.shape[1])).indices.sort().values
