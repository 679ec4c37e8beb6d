"""How many servers of this machine stand behind a door, by the sessions that there are."""

import math
from dataclasses import dataclass

from swwatch.serve.log import log

SPARE = 0.25  # of all places that are to be free, for those who come while another model loads; see docs/scale.md


@dataclass(frozen=True)
class Scale:
    """The limits of their number.

    Attributes:
        least, most: servers.
        places: sessions that each may have.
        idle_s: one that is not needed ends when nobody has used it for so long.
    """

    least: int
    most: int
    places: int
    idle_s: float = math.inf

    def wanted(self, sessions: int) -> int:
        """Servers for so many sessions, and for newcomers."""
        enough = math.ceil(sessions / (self.places * (1 - SPARE)))
        return max(self.least, min(self.most, enough))

    def adjust(self, servers: list, now_s: float) -> list:
        """Start some of the servers, or end some.

        Args:
            servers: each as children.Child.
            now_s: of time.monotonic().
        Returns:
            Those that are not needed, and so should get no newcomer while others have room; who then sleeps was ended.
        """
        awake = [one for one in servers if not one.asleep]
        sessions = sum(one.sessions for one in awake)
        wanted = self.wanted(sessions)
        why = {"sessions": sessions, "servers": len(awake), "wanted": wanted}
        asleep = [one for one in servers if one.asleep and not one.runs]
        for one in asleep[: max(0, wanted - len(awake))]:
            log("replica begins", replica=one.name, **why)
            one.wake(now_s)
        for one in awake:
            if one.in_use:
                one.used_s = now_s
        by_need = sorted(reversed(awake), key=lambda one: (one.up, one.sessions))
        spare = by_need[: max(0, len(awake) - wanted)]
        for one in spare:
            if now_s - one.used_s > self.idle_s:
                log("replica rests", replica=one.name, unused_s=round(now_s - one.used_s, 1), **why)
                one.rest(now_s)
        return spare
