"""Many viewers on many replicas, simulated: how many are refused and how late words are, by the limit of sessions.

Viewers arrive by chance (Poisson), stay for a while (lognormal, cut off at --seconds), and are given to a replica. Its
time is shared by all n sessions of it: how late a word is with n is measured (`--measured`, the record of
`swwatch bench live`), or planned by the roofline of `plan.live`. Nothing here was measured on many machines.
"""

import bisect
import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.bench.gpus import GPUS
from swwatch.config import near, setting
from swwatch.errors import UserError
from swwatch.metrics.tables import as_aligned_markdown
from swwatch.plan.live import APPLE, LivePlan, LivePlanSettings, size_of


@dataclass(frozen=True)
class ReplicaPlanSettings(LivePlanSettings):
    """Which limit of sessions should replicas have? Viewers on them, simulated.

    For each limit (`swwatch serve --max-sessions`): who is refused, and how late words are, by share of all sessions'
    time. A replica's lag is planned (--device, --share), or measured (--measured). --placement least is a door that
    knows how full replicas are; random one that does not, and asks the next where a replica is full.
    """

    sessions: int = setting(10_000, "viewers who arrive", least=1)
    replicas: int = setting(100, "of one model on one device each", least=1)
    span_s: float = setting(3600.0, "seconds in which they arrive", above=0)
    mean_s: float = setting(300.0, "seconds that they stay, on average, before --seconds cuts that off", above=0)
    spread: float = setting(1.0, "sigma of the logarithm of that; 0: all stay alike", least=0)
    limits: list[int] | None = setting(None, "of sessions, with commas (default: around what is planned)", least=1)
    placement: Literal["least", "random"] = setting("least", "how a replica is chosen")
    max_lag_s: float = setting(1.0, "words later than that are late", above=0)
    device: str = setting("H100", f"of each replica, planned: {', '.join(GPUS | APPLE)}")
    measured: Path | None = setting(None, "bench_live.json of `swwatch bench live`, instead")
    seed: int = setting(0, "of what is drawn")

    def __post_init__(self):
        super().__post_init__()
        if self.device not in GPUS | APPLE:
            raise UserError(f"no device {self.device!r}{near(self.device, GPUS | APPLE)}")
        if self.measured is not None and not self.measured.is_file():
            raise UserError(f"no file {self.measured}: `swwatch bench live --output FOLDER` writes one")


@dataclass(frozen=True)
class ViewerOutcome:
    """What became of all viewers under a limit.

    Attributes:
        refused: of them; peak: sessions at once; time_at: number of sessions on a replica -> seconds of sessions spent
            among so many.
    """

    refused: int
    peak: int
    time_at: Counter

    def mean(self) -> float:
        """Sessions on a replica, as a session meets them; as many are lost where one is killed."""
        return sum(n * seconds for n, seconds in self.time_at.items()) / max(self.time_at.total(), 1e-9)

    def lag_at(self, lag_of: Callable[[int], float], share: float) -> float:
        """The lag that so large a share of all sessions' time stays below; lag_of must not fall with n."""
        wanted, passed = share * self.time_at.total(), 0.0
        for n in sorted(self.time_at):
            passed += self.time_at[n]
            if passed >= wanted:
                return lag_of(n)
        return math.nan  # nobody came in

    def late(self, lag_of: Callable[[int], float], most_s: float) -> float:
        """Share of all sessions' time in which words are later."""
        late = sum(seconds for n, seconds in self.time_at.items() if lag_of(n) > most_s)
        return late / max(self.time_at.total(), 1e-9)


def drawn_viewers(settings: ReplicaPlanSettings, drawn: random.Random) -> list[tuple[float, float]]:
    """When each arrives and how long he stays, in seconds, in order of arrival."""
    arrivals = sorted(drawn.uniform(0, settings.span_s) for _ in range(settings.sessions))
    centre = math.log(settings.mean_s) - settings.spread**2 / 2
    return [(now, min(settings.seconds, drawn.lognormvariate(centre, settings.spread))) for now in arrivals]


def simulate(settings: ReplicaPlanSettings, limit: int) -> ViewerOutcome:
    """One run; the same viewers for every limit."""
    drawn = random.Random(settings.seed)
    viewers = drawn_viewers(settings, drawn)
    counts, since, time_at = [0] * settings.replicas, [0.0] * settings.replicas, Counter()
    ends: list[tuple[float, int]] = []
    refused = peak = 0

    def change(replica: int, now: float, by: int) -> None:
        time_at[counts[replica]] += counts[replica] * (now - since[replica])
        counts[replica], since[replica] = counts[replica] + by, now

    for now, stay in viewers:
        while ends and ends[0][0] <= now:
            change(*reversed(heapq.heappop(ends)), -1)
        if settings.placement == "least":
            replica = min(range(settings.replicas), key=counts.__getitem__)
        else:
            first = drawn.randrange(settings.replicas)
            order = (*range(first, settings.replicas), *range(first))
            replica = next((one for one in order if counts[one] < limit), first)
        if counts[replica] >= limit:
            refused += 1
            continue
        change(replica, now, 1)
        heapq.heappush(ends, (now + stay, replica))
        peak = max(peak, len(ends))
    while ends:
        change(*reversed(heapq.heappop(ends)), -1)
    del time_at[0]
    return ViewerOutcome(refused, peak, time_at)


def planned_lag(settings: ReplicaPlanSettings) -> tuple[Callable[[int], float], int, int]:
    """n -> seconds from a picture to its words at most (it waits for a round of all n, and is in the next); how many
    sessions the plan allows; and how many fit at all.

    Raises:
        UserError: not even the model fits.
    """
    plan = LivePlan(settings, size_of(settings), (GPUS | APPLE)[settings.device], settings.share)
    if not plan.sessions_in_memory:
        raise UserError(f"{settings.model} does not fit on a {settings.device}: choose another --device or --dtype")

    def lag_of(n: int) -> float:
        round_s = plan.step_s(n)
        return 2 * round_s if round_s <= settings.step_s else math.inf  # it falls behind, further and further

    return lag_of, plan.sessions, plan.sessions_in_memory


def measured_lag(path: Path) -> tuple[Callable[[int], float], int, int]:
    """n -> lag P95 as measured, in straight lines between the numbers that were tried and infinite beyond; how many
    sessions were held; and how many were tried.

    Raises:
        UserError: it is no record of `swwatch bench live`, or holds no lag.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        tried = sorted((one["sessions"], one["lag_s"]["p95"]) for one in result["trials"] if one["lag_s"])
        held = result["sessions_held"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no record of `swwatch bench live`: give the bench_live.json that "
            "`swwatch bench live --output FOLDER` writes into its folder"
        ) from error
    if not tried:
        raise UserError(f"{path} holds no lag: no session of it spoke")
    numbers, lags = [n for n, _ in tried], [lag_s for _, lag_s in tried]
    lags = [max(lags[: i + 1]) for i in range(len(lags))]  # chance may make one fall

    def lag_of(n: int) -> float:
        at = bisect.bisect_left(numbers, n)
        if at == len(numbers):
            return math.inf
        if at == 0:
            return lags[0]
        share = (n - numbers[at - 1]) / (numbers[at] - numbers[at - 1])
        return lags[at - 1] + share * (lags[at] - lags[at - 1])

    return lag_of, held or numbers[0], numbers[-1]


def report(settings: ReplicaPlanSettings) -> str:
    """A row for each limit."""
    lag_of, good, most = measured_lag(settings.measured) if settings.measured else planned_lag(settings)
    where = f"measured: {settings.measured}" if settings.measured else f"planned: {settings.device}, {settings.model}"
    limits = settings.limits or sorted({min(most, max(1, round(good * share))) for share in (0.25, 0.5, 0.75, 1, 1.5)})
    if max(limits) > most:
        raise UserError(f"a limit of {max(limits)} is more than {most}, which is all that fits, or was tried")
    stay = sum(stay for _, stay in drawn_viewers(settings, random.Random(settings.seed))) / settings.sessions
    lines = [
        f"{settings.sessions:,} viewers in {settings.span_s:g} s, {stay:.0f} s each, on {settings.replicas} "
        f"replicas, placement {settings.placement}; {where}, {good} sessions a replica",
        "",
    ]
    rows = [("limit", "refused", "most at once", "on a replica", "lag P50", "P95", "P99", "late")]
    for limit in limits:
        found = simulate(settings, limit)
        lags = [f"{found.lag_at(lag_of, share):.3f} s" for share in (0.5, 0.95, 0.99)]
        cells = (f"{found.refused / settings.sessions:.1%}", f"{found.peak:,}", f"{found.mean():.1f}")
        rows.append((str(limit), *cells, *lags, f"{found.late(lag_of, settings.max_lag_s):.1%}"))
    lines.append(as_aligned_markdown(rows))
    lines += ["", f"late: share of all sessions' time in which words are more than {settings.max_lag_s:g} s behind;"]
    lines += ["on a replica: how many a session meets, and a replica that is killed costs"]
    return "\n".join(lines)
