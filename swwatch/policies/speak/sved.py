"""LiveStar's SVeD: speak when the newest words no longer fit what is seen.

After each step the model reads its newest words anew, as if it were to say them now: their perplexity is compared with
what it was when they were said. One forward over these words, which changes nothing; no training.
Source: arXiv 2511.05299, whose reference repeats the last frame after the words, and whose optimum of alpha is 1.02 to
1.04. Ours is their perplexity as they were said, which costs nothing; how many tokens a time is our choice.
"""

from dataclasses import dataclass
from typing import ClassVar

from swwatch.policies.speak.policy import PROBE, Deciding, Stateless
from swwatch.policies.table import option
from swwatch.rules.schedule import Now
from swwatch.rules.variants import Speaks


@dataclass(frozen=True)
class Sved(Deciding):
    """k tokens where the perplexity is above `alpha` times the reference. For variants whose words stand apart from
    the video: elsewhere the frames since would stand behind them."""

    name: ClassVar[str] = "sved"
    needs: ClassVar[frozenset[str]] = frozenset({PROBE})
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL,)
    k: int = option(12, least=1)
    alpha: float = option(1.03, least=0)

    def begin(self) -> "SvedState":
        return SvedState(self)


class SvedState(Stateless):
    def budget(self, now: Now) -> int:
        fits = now.perplexity is not None and now.perplexity <= self.policy.alpha * now.said_perplexity
        return self.policy.k if now.begins or not fits else 0
