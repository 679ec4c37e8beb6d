"""What becomes of one session that runs for minutes: step time, lag, memory and positions over time."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

from swwatch.bench.process import memory_now
from swwatch.bench.source import Camera
from swwatch.bench.stream.engines import Engines
from swwatch.bench.stream.played import differences, play
from swwatch.bench.stream.settings import Point, StreamBenchSettings
from swwatch.engine.trace import RealTimeClock

PERIODS = 10  # lines of the table


def soak(engines: Engines, engine: str, point: Point, settings: StreamBenchSettings) -> dict:
    """One session, paced in real time.

    Returns:
        minutes, rate, steps, dropped, `periods` (see `summary`) and drift: the last period's step time by the first's.
    """
    clock, steps = RealTimeClock(), settings.soak_steps
    session = engines.open(engine, point.k, steps, clock)
    stream = Camera(engines.pictures(point.video_tokens, 8), clock, settings.soak_rate, steps, settings.queue)
    meters = {"memory": lambda: memory_now(engines.cuda), "cache": lambda: session.cache.held_nbytes}
    played = play(session, engines.answering(engine), stream, meters=meters)

    columns = {"at_s": played.emit_s, "step": played.steps, "lag_s": played.lags_s, **played.meters}
    columns["busy_s"] = differences([0.0, *played.meters["busy_s"]])
    samples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    periods = summary(samples)
    result = {"minutes": settings.soak, "rate": settings.soak_rate, "steps": steps, "dropped": stream.dropped}
    result["fps"] = settings.fps
    return result | {"periods": periods, "drift": periods[-1]["step_s"] / periods[0]["step_s"]}


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
        lag_s = statistics.median(sample["lag_s"] for sample in inside)
        found.append({"from_s": begin - first, "step_s": statistics.median(steps.values()), "lag_s": lag_s} | state)
    return found
