"""The fused engine: the next step's video rides in the forwards of this step's words.

Decoding is bound by reading the weights, and watching by computing, so that one forward for both reads the weights
once. The rows of the next step are split evenly over the text feeds that are left; what remains when the words are out
is fed alone. Masks and positions keep the two apart: a text row sees no further than its step, a watched row no text.

The vision tower works beside the words where the model can do that. Words go on without the next step until it is
through, and only when they are out it is waited for.
"""

from dataclasses import replace

import torch

from swwatch.engine.incoming import Incoming
from swwatch.engine.requests import Look, Run
from swwatch.engine.session import Session
from swwatch.model.vision_tower import VideoFeatures
from swwatch.rules.layout import Layout


class FusedSession(Session):
    """A session of a parallel variant that watches while it speaks, on one device.

    Attributes:
        num_fused: feeds that held watched rows and text rows together.
    """

    name, while_speaking = "fused", True
    num_fused = 0

    def _predict(self, rows: Layout, embeds: torch.Tensor, feeds_left: int) -> Run:
        if self._watch_ahead():
            yield from self._begin_look(self.ahead)
        ahead = self.ahead
        if ahead is not None and ahead.embeds is None and all(part.ready for part in _looked(ahead)):
            yield from self._look(ahead)
        if ahead is None or ahead.embeds is None or not ahead.num_left:
            return (yield from self._feed(rows, embeds))
        if self.thinking is not None:  # its thoughts may go on when the words are out
            feeds_left = max(feeds_left, self.thinking.due)
        watched, seen = ahead.take(-(-ahead.num_left // feeds_left))
        self.num_fused += 1
        both = Layout.cat([watched, rows]), torch.cat([seen, embeds])
        decides = len(watched) - 1 if self.decider.listens and not ahead.num_left else None
        logits = yield from self._feed(*both, decides)
        if decides is not None:
            logits, ahead.not_yet = logits
        if not ahead.num_left:
            yield from self._tell_watched(ahead.index, ahead.step, ahead.patch)
        return logits

    def _begin_look(self, incoming: Incoming) -> Run:
        """Set the vision tower going, where the step has video."""
        for i, part in enumerate(incoming.parts):
            if isinstance(part, Look):
                incoming.parts[i] = yield replace(part, aside=True)


def _looked(incoming: Incoming) -> list[VideoFeatures]:
    return [part for part in incoming.parts if isinstance(part, VideoFeatures)]
