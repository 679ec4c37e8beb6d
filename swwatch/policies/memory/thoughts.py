"""Video Streaming Thinking: of what was watched the thoughts stay, as text, and the newest segment alone is seen.

Source: arXiv 2603.12262, section 2.1, which lets the earliest go where there are too many. Its release goes on from
all of them, or from the last few.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from swwatch.errors import UserError
from swwatch.policies.memory.pieces import Piece, whole
from swwatch.policies.memory.policy import Keep
from swwatch.policies.table import option
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import Variant


@dataclass(frozen=True)
class Thoughts(Keep):
    """The first and the last thoughts, in the turn of previous text; everything is read anew at every turn.

    Attributes:
        last, first: how many stay. None: all.
    """

    name: ClassVar[str] = "thoughts"
    anew: ClassVar[bool] = True
    every_turn: ClassVar[bool] = True
    folds: ClassVar[bool] = True
    last: int | None = option(None, least=0)
    first: int = option(0, least=0)

    def check(self, variant: Variant) -> None:
        able = [name for name, system in SYSTEMS.items() if system.thinks and system.previous_text]
        if variant.name not in able:
            raise UserError(
                f"keep {self}: {variant.name!r} has no thoughts in its previous text, take {', '.join(able)}"
            )

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        pieces = whole(context)
        if self.last is None:
            return pieces
        thoughts = [i for i, (span, _) in enumerate(pieces) if span.part is Part.PREVIOUS and len(span)]
        gone = set(thoughts[self.first : max(len(thoughts) - self.last, self.first)])
        return [piece for i, piece in enumerate(pieces) if i not in gone]

    def beginning(self, context: Sequence[Span]) -> list[Span]:
        return [span for span, _ in self.left(context, (), 0.0, ())]
