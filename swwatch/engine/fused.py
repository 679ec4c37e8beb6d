"""The fused engine: the next step's video rides in the forwards of this step's words.

Decoding is bound by reading the weights, and watching by computing, so that one forward for both reads the weights
once. The rows of the next step are split evenly over the text feeds that are left; what remains when the words are out
is fed alone. Masks and positions keep the two apart: a text row sees no further than its step, a watched row no text.
"""

import torch

from swwatch.engine.requests import Feed, Run
from swwatch.engine.session import Session
from swwatch.layout import Layout


class FusedSession(Session):
    """A session of a parallel variant that watches while it speaks, on one device.

    Attributes:
        num_fused: feeds that held watched rows and text rows together.
    """

    name, while_speaking = "fused", True
    num_fused = 0

    def _predict(self, rows: Layout, embeds: torch.Tensor, feeds_left: int) -> Run:
        if self._watch_ahead():
            yield from self._look(self.ahead)
        ahead = self.ahead
        if ahead is None or not ahead.num_left:
            return (yield Feed(self.cache, rows, embeds))
        watched, seen = ahead.take(-(-ahead.num_left // feeds_left))
        self.num_fused += 1
        both = Layout.cat([watched, rows]), torch.cat([seen, embeds])
        logits = yield Feed(self.cache, *both, predicts=len(both[0]) - 1)
        if not ahead.num_left:
            yield from self._tell_watched(ahead)
        return logits
