"""What becomes of one session that runs for minutes: step time, lag, memory and positions over time."""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

from swwatch.bench.memory import memory_now
from swwatch.bench.stream.measure import Stopwatch, attended
from swwatch.bench.stream.source import Camera
from swwatch.engine.requests import drive
from swwatch.engine.trace import RealTimeClock, Spoken

PERIODS = 10  # lines of the table


class Noted(Stopwatch):
    """Also notes the largest position that was fed."""

    largest = 0

    def step(self, cache, rows, embeds, predicts=-1):
        self.largest = max(self.largest, int(rows.position_ids.max()))
        return super().step(cache, rows, embeds, predicts)


def soak(open_session, model, pictures, *, minutes: float, rate: float, queue: int, cuda: bool) -> dict:
    """One session, paced in real time.

    Args:
        open_session: takes a clock, returns a session; model: answers it.
        pictures: steps to show in turn; rate: of them in a second.
    Returns:
        minutes, rate, steps, dropped, `periods` (see `summary`) and drift: the last period's step time by the first's.
    """
    clock = RealTimeClock()
    session = open_session(clock)
    stream = Camera(pictures, clock, rate, max(2, round(60 * minutes * rate)), queue)
    stopwatch, samples = Noted(model), []
    for event in drive(stopwatch, attended(session.run(stream), stopwatch)):
        if isinstance(event, Spoken):
            now = time.perf_counter()
            busy = sum(work.seconds for work in stopwatch.work)
            stopwatch.work.clear()
            memory = {"memory": memory_now(cuda), "cache": session.cache.nbytes, "position": stopwatch.largest}
            lag = event.t_emit_s - event.t_frame_s
            samples.append({"at_s": now, "step": event.step, "busy_s": busy, "lag_s": lag} | memory)
    periods = summary(samples)
    result = {"minutes": minutes, "rate": rate, "steps": stream.count, "dropped": stream.dropped, "periods": periods}
    return result | {"drift": periods[-1]["step_s"] / periods[0]["step_s"]}


def summary(samples: Sequence[dict], periods: int = PERIODS) -> list[dict]:
    """Samples of tokens -> equal stretches of time, each with from_s, step_s (median time that the model was busy in a
    step), lag_s (median) and what memory, cache and position were at its end."""
    first, last = samples[0]["at_s"], samples[-1]["at_s"]
    edges = [first + (last - first) * i / periods for i in range(periods)] + [float("inf")]
    found = []
    for begin, end in pairwise(edges):
        inside = [sample for sample in samples if begin <= sample["at_s"] < end]
        if not inside:
            continue
        steps: dict[int, float] = {}
        for sample in inside:
            steps[sample["step"]] = steps.get(sample["step"], 0.0) + sample["busy_s"]
        state = {key: inside[-1][key] for key in ("memory", "cache", "position")}
        lag = statistics.median(sample["lag_s"] for sample in inside)
        found.append({"from_s": begin - first, "step_s": statistics.median(steps.values()), "lag_s": lag} | state)
    return found
