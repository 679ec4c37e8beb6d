"""What a model streaming in chat turns has before it: spans of tokens, in order, each knowing what it is and when.

Prompts, training samples, positions and eviction all speak of the same spans, so that they cannot disagree.
"""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum


class Part(StrEnum):
    SYSTEM = "system"  # the system turn
    PREVIOUS = "previous"  # words said before, folded into a turn of their own (StreamingVLM)
    AROUND = "around"  # what opens and closes that turn
    HEAD = "head"  # <|im_start|>user\n
    LABEL = "label"  # the seconds that a turn is about
    VISION = "vision"  # what is around video: <|vision_start|> and <|vision_end|>, and a patch's time stamp
    VIDEO = "video"
    QUERY = "query"  # what the user asks in this turn
    TAIL = "tail"  # <|im_end|>\n, which ends a user turn
    HEADER = "header"  # <|im_start|>assistant\n, or what else begins an answer
    ANSWER = "answer"  # the words, " ..." and <|im_end|>: all that a loss is taken on
    CLOSE = "close"  # the line end between an answer and the next turn


SAID_PARTS = (Part.HEADER, Part.ANSWER)  # of a stream of their own, where a system has one


@dataclass(frozen=True)
class Span:
    """A run of tokens of one kind.

    Attributes:
        part: what it is.
        ids: its token ids; for video <|video_pad|> once per merged token.
        grid: of video, (patches, rows, columns) after the merge; else None.
        round: the turn it belongs to, from 0; -1 for what precedes all turns.
        start_s, end_s: the seconds of video that its turn is about.
    """

    part: Part
    ids: tuple[int, ...]
    grid: tuple[int, int, int] | None = None
    round: int = -1
    start_s: float = 0.0
    end_s: float = 0.0

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self):
        if (self.grid is not None) != (self.part is Part.VIDEO):
            raise ValueError(f"a grid belongs to video and to nothing else, not to {self.part}")
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] != len(self.ids):
            raise ValueError(f"a grid of {self.grid} has not {len(self.ids)} tokens")

    def state(self) -> tuple:
        """Plain values, from which `of_state` makes it again."""
        return str(self.part), *astuple(self)[1:]

    @classmethod
    def of_state(cls, state: Sequence) -> "Span":
        part, ids, grid, *rest = state
        return cls(Part(part), tuple(ids), None if grid is None else tuple(grid), *rest)


def ids_of(spans: Iterable[Span]) -> list[int]:
    """All token ids, in order."""
    return [token for span in spans for token in span.ids]
