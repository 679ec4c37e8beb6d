"""TimeChat-Online's trigger made causal: speak when more of the picture changes than it mostly does.

They take the tenth of all steps of a video whose patches change most, which is known when it is over. Here a step is
compared with those before it: it speaks where its share of changed tokens is among the largest `share` of the newest
`steps` steps, itself included. Steps at which nothing changes never speak, however few have done.
Source: arXiv 2504.17343, by pixels as in policies/see/dtd.py. Their 10 % stay; how far back it compares, and how many
tokens it says, is our choice.
"""

from dataclasses import dataclass
from typing import ClassVar

from swwatch.policies.speak.policy import CHANGE, Deciding
from swwatch.policies.table import option
from swwatch.rules.schedule import Now


@dataclass(frozen=True)
class Change(Deciding):
    """k tokens at a step that changes more than most."""

    name: ClassVar[str] = "change"
    needs: ClassVar[frozenset[str]] = frozenset({CHANGE})
    k: int = option(12, least=1)
    share: float = option(0.1, least=0, most=1)
    steps: int = option(120, least=1)

    def begin(self) -> "ChangeState":
        return ChangeState(self)


class ChangeState:
    """The newest steps' shares of change."""

    def __init__(self, policy: Change):
        self.policy, self.changes = policy, []

    def budget(self, now: Now) -> int:
        if now.change is not None:  # the first picture is compared with none
            self.changes = [*self.changes, now.change][-self.policy.steps :]
        return self.policy.k if now.begins or self._stands_out(now.change) else 0

    def _stands_out(self, change: float | None) -> bool:
        """Whether fewer than a share of the steps changed more or as much, but for this one."""
        if not change:
            return change is None
        others = sum(other >= change for other in self.changes) - 1
        return others < self.policy.share * len(self.changes)
