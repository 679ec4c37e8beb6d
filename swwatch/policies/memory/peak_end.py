"""LiveStar's peak-end memory: of every event the seconds stay whose words were the least surprising, and the newest.

Source: arXiv 2511.05299. There a frame's weight is the perplexity of the last caption with it in view, by a probe;
once there are more than so many, each caption keeps the half of its frames with the lowest ones, rounded up, and the
caption stays. So an event never loses its last frame, and what is kept grows with the stream, by one piece an event.
Chosen here: a second's (in chat turns a turn's) weight is the perplexity of the words that were said at it, without a
probe; one without words goes first; an event is `group_s` seconds. Positions stay what they were.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from swwatch.policies.memory.policy import Keep, Shown
from swwatch.policies.table import option
from swwatch.rules.variants import Speaks


@dataclass(frozen=True)
class PeakEnd(Keep):
    """All text, and video of which every event loses half once more than `most` pieces have been spoken about."""

    name: ClassVar[str] = "peak_end"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL, Speaks.TURNS)
    weighs: ClassVar[bool] = True
    most: int = option(24, least=1)
    group_s: float = option(8.0, least=1)

    def shown(self, video: Sequence[Shown]) -> list[int]:
        *spoken, newest = video
        if len(spoken) <= self.most:
            return [piece.number for piece in video]
        left = [newest.number]
        for _, event in groupby(spoken, lambda piece: piece.start_s // self.group_s):
            by_peak = sorted(event, key=lambda piece: math.inf if piece.perplexity is None else piece.perplexity)
            left += [piece.number for piece in by_peak[: math.ceil(len(by_peak) / 2)]]
        return sorted(left)
