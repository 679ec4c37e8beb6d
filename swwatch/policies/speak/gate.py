"""VideoLLM-online's gate: after every step the model itself says "not yet", or that it begins.

The last token of a step that is watched is trained to predict what comes next: another picture, which is "not yet", or
the header of an answer. Each answer has a header of its own and ends by itself; once begun it is said to its end,
k tokens a step, and decided is again when it is over. So a model learns when to speak from captions with their times,
and is silent wherever nothing is told.
Source: arXiv 2406.11816 and its demo, in which "not yet" counts from a chance of 0.725 on. There another picture is a
comma, here it is the token of a video; words wait there until the answer is whole, k tokens a step is our choice. In
parallel variants, whose video sees no words, a decision knows what was watched and not what was said.
"""

from dataclasses import dataclass
from typing import ClassVar

from swwatch.policies.speak.policy import NOT_YET, Deciding, Stateless
from swwatch.policies.table import option
from swwatch.rules.schedule import Now
from swwatch.rules.variants import Speaks


@dataclass(frozen=True)
class Gate(Deciding):
    """k tokens a step while an answer lasts; one begins where the chance of "not yet" is below `floor`.

    Attributes:
        balanced: in training the silent steps of a sample weigh together as much as those at which an answer begins,
            of which there are far fewer.
    """

    name: ClassVar[str] = "gate"
    needs: ClassVar[frozenset[str]] = frozenset({NOT_YET})
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.ALTERNATING, Speaks.PARALLEL)
    learned: ClassVar[bool] = True
    k: int = option(12, least=1)
    floor: float = option(0.725, least=0, most=1)
    balanced: bool = option(False)

    def begin(self) -> "GateState":
        return GateState(self)

    def check_training(self) -> None:
        """It is trained, on captions with their times."""


class GateState(Stateless):
    def budget(self, now: Now) -> int:
        silent = now.not_yet is None or now.not_yet >= self.policy.floor
        return self.policy.k if now.begins or now.going or not silent else 0
