"""As many tokens as fit before the next step comes, by the clock: LyraV's chunks, or wait-k made adaptive.

A token takes what those of the newest words took on average, on this machine and beside whatever else it does. Who is
late is silent until the newest step is in; who is not says at least one token, for a slow one, such as the first,
would else silence it for ever. So what is said goes by the machine, and by nothing that is seen.
Source: arXiv 2606.06991, where a small network says how many tokens fit; that this one measures is our choice, and so
is the most that it says.
"""

from dataclasses import dataclass
from typing import ClassVar

from swwatch.policies.speak.policy import CLOCK, Deciding, Stateless
from swwatch.policies.table import option
from swwatch.rules.schedule import Now

LEAST_S = 1e-6  # that a token can take


@dataclass(frozen=True)
class Pace(Deciding):
    """At most `most` tokens a step; k as long as none has been timed."""

    name: ClassVar[str] = "pace"
    needs: ClassVar[frozenset[str]] = frozenset({CLOCK})
    most: int = option(16, least=1)

    def begin(self) -> "PaceState":
        return PaceState(self)


class PaceState(Stateless):
    def budget(self, now: Now) -> int:
        if now.left_s <= 0:
            return 0
        if now.token_s is None:
            return min(self.policy.k, self.policy.most)
        return max(1, min(self.policy.most, int(now.left_s / max(now.token_s, LEAST_S))))
