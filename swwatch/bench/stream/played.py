"""One run of one engine: when its tokens came out, and what the model was asked for meanwhile."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swwatch.bench.process import cpu_seconds
from swwatch.bench.source import MadeSource
from swwatch.bench.stopwatch import TimedCall, TimedModel, attended
from swwatch.engine.requests import drive
from swwatch.engine.trace import Spoken

Meters = dict[str, Callable[[], float]]


@dataclass
class Played:
    """What one run gave.

    Attributes:
        tokens: ids in order; emit_s: when each came out, on time.perf_counter; steps: at which step each was said.
        lags_s: of each token, emission - arrival of the newest step that it could see, on the engine's own clock.
        meters: name -> what it read when each token came out. Always there: "watched" (rows and patches asked for so
            far), "busy_s" (of the work that is over), "position" (the largest so far).
        work: what the model was asked for since the first step was.
        first_s: when the first step was asked for (the prompt had been fed).
        cpu_s: CPU time from then to the end, see `cpu_seconds`.
        fed: tokens that the caches took in; beside_s: seconds a step that a watcher of its own was busy.
    """

    tokens: list[int] = field(default_factory=list)
    emit_s: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    meters: dict[str, list[float]] = field(default_factory=dict)
    work: list[TimedCall] = field(default_factory=list)
    first_s: float = 0.0
    cpu_s: float = 0.0
    fed: int = 0
    beside_s: float | None = None

    def at_step_ends(self, values: Sequence[float]) -> list[float]:
        """Of values for each token, those of the last token of each step."""
        return list(dict(zip(self.steps, values, strict=True)).values())

    def step_times(self) -> list[float]:
        """Seconds from the end of a step's last token to that of the next, for all steps but the first and the last.

        An engine that watches ahead has done so in the first step and has nothing left to watch in the last. Between
        the two every engine watches and speaks as often.
        """
        return differences(self.at_step_ends(self.emit_s))[:-1]

    def seconds_of(self, *kinds: str) -> float:
        """Seconds of such work in a step, mean over those steps."""
        ends = self.at_step_ends(self.emit_s)
        inside = [work.seconds for work in self.work if work.what in kinds and ends[0] <= work.begin_s < ends[-2]]
        return sum(inside) / (len(ends) - 2)

    def gaps(self) -> tuple[list[float], list[float]]:
        """Seconds between tokens: those in which nothing was watched, those in which something was."""
        found: tuple[list[float], list[float]] = ([], [])
        watched = differences(self.meters["watched"])
        for gap, more in zip(differences(self.emit_s), watched, strict=True):
            found[more > 0].append(gap)
        return found

    def first_token_s(self) -> float:
        """From when the first step was asked for, which is when it arrives, to the first token."""
        return self.emit_s[0] - self.first_s


def differences(values: Sequence[float]) -> list[float]:
    """Of each value to the one before."""
    return [b - a for a, b in zip(values, values[1:], strict=False)]


def play(session, model, source: MadeSource, *, wait: bool = False, meters: Meters | None = None) -> Played:
    """Run a session over a source to its end.

    Args:
        model: answers its requests.
        wait: see `TimedModel`.
        meters: read whenever a token comes out.
    """
    stopwatch, played = TimedModel(model, wait), Played()
    meters = {
        "watched": lambda: stopwatch.watched,
        "busy_s": lambda: stopwatch.busy_s,
        "position": lambda: stopwatch.largest_position,
    } | (meters or {})
    played.meters = {name: [] for name in meters}
    for event in drive(stopwatch, attended(session.run(source), stopwatch)):
        if isinstance(event, Spoken):
            played.emit_s.append(time.perf_counter())
            played.tokens.append(event.token_id)
            played.steps.append(event.step)
            played.lags_s.append(event.t_emit_s - event.t_frame_s)
            for name, read in meters.items():
                played.meters[name].append(read())
    stopwatch.stop()
    played.first_s, played.cpu_s = source.first_s, cpu_seconds() - source.first_cpu_s
    played.work = [work for work in stopwatch.work if work.begin_s >= source.first_s]
    return played
