"""VideoScan: of every patch one token stays that has read it, and of these a bank; neighbours that are alike go first.

Source: arXiv 2503.09387. A carrier is the mean of a patch's features, read behind the patch; then the patch goes.
When the bank is full, of the two neighbours most alike (cosine) the earlier one goes. So what merges are the features
before the LLM, and not cached keys: in every layer a carrier's keys are made of what it has read. What is left of a
patch keeps the place of its grid.
Weights that never saw carriers may read them, or be trained to, as the paper's are, under a mask by which later text
sees them alone (rules.visibility; model.late puts them into samples).
Chosen here: a carrier stands where the last token of its patch stood. Words have windows, too. In a narration the
words of a step see its carrier, as in the paper. In chat turns the words of a turn see its video whole, and its
carriers (which do not see those words) are read when the next one is about to begin; they stay or go together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from swwatch.policies.memory.pieces import Piece
from swwatch.policies.memory.policy import Shown, Sliding
from swwatch.policies.table import option
from swwatch.rules.spans import Part, Span


@dataclass(frozen=True)
class Carrier(Sliding):
    """A bank of the carriers of `most` pieces of video."""

    name: ClassVar[str] = "carrier"
    moves: ClassVar[bool] = True
    carries: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("turns_s", "text_sink", "text_window")
    vision_s: ClassVar[None] = None
    most: int = option(64, least=1)
    turns_s: float | None = option(16.0, least=0)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=1)

    def shown(self, video: Sequence[Shown]) -> list[int]:
        pieces = list(video if video[-1].feature is not None else video[:-1])  # of the newest one nothing may be fed
        empty = [piece.number for piece in pieces if piece.feature is None]  # they hold their place, and go first
        over = max(0, len(pieces) - self.most)
        pieces = [piece for piece in pieces if piece.number not in empty[:over]]
        unit = [piece.feature.float() / piece.feature.float().norm() for piece in pieces if piece.feature is not None]
        while len(pieces) > self.most:
            alike = [float(one @ other) for one, other in pairwise(unit)] or [1.0]
            gone = alike.index(max(alike))
            del pieces[gone], unit[gone]
        return sorted({piece.number for piece in (*pieces, video[-1])})

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        pieces = super().left(context, begin, end_s, mute)
        used = {span.round for span, _ in pieces if span.part in (Part.VIDEO, Part.QUERY, Part.ANSWER)}
        return [(span, place) for span, place in pieces if span.round < 0 or span.round in used]
