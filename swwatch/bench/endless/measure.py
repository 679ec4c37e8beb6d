"""All modes of the endless benchmark on one set of weights, one after the other."""

import statistics
from dataclasses import replace

import torch

from swwatch.bench.endless.modes import MODES
from swwatch.bench.endless.page import report
from swwatch.bench.endless.sessions import open_session, play
from swwatch.bench.endless.settings import EndlessSettings
from swwatch.bench.made import random_steps
from swwatch.bench.models import num_parameters, streaming_model
from swwatch.bench.record import Record

POINTS = 300  # of a curve at most
COLUMNS = ("at_s", "step_s", "cpu_s", "gap_s", "fed", "held", "cache", "memory", "position")


@torch.no_grad()
def measure(settings: EndlessSettings, command: str) -> dict:
    """Measure what is asked for, and write it after every mode.

    Args:
        settings: settled.
    Returns:
        What is written to JSON: settings, machine, `modes` (name -> what, curve, reached_s, ended) and the verdict.
    """
    record = Record("endless", settings, command, report, indent=None)
    result = record.result
    result["modes"] = {}
    spreads: list[tuple[str, float | None]] = []
    with record.until_stopped():
        model = streaming_model(settings, settings.shape)
        result["parameters"] = num_parameters(model)
        pictures = random_steps(model.config.vision_config, settings.video_tokens, 8, settings.seed, settings.device)
        for name in [name for name in MODES if name in settings.modes]:
            mode = MODES[name]
            record.say(f"{name}: {mode.what}")
            play(open_session(mode, model, settings), pictures, replace(settings, seconds=5))  # not counted
            seconds, ended = play(open_session(mode, model, settings), pictures, settings)
            reached = seconds[-1]["at_s"] if seconds else 0.0
            curve = thinned(seconds)
            result["modes"][name] = {"what": mode.what, "reached_s": reached, "ended": ended, "curve": curve}
            if mode.constant:
                spreads.append((name, spread([second["step_s"] for second in seconds[len(seconds) // 2 :]])))
            record.save(spreads)
    return record.save(spreads)


def thinned(seconds: list[dict]) -> dict[str, list]:
    """Seconds as columns, neighbours taken together where there are many: times are medians, sizes the largest."""
    size = -(-len(seconds) // POINTS) or 1
    columns: dict[str, list] = {}
    for name in COLUMNS:
        take = statistics.median if name in ("step_s", "cpu_s", "gap_s") else max
        values = [second[name] for second in seconds]
        columns[name] = [_number(take, values[at : at + size]) for at in range(0, len(values), size)]
    return columns


def spread(times: list[float]) -> float | None:
    """Interquartile range by median of step times that ought to be alike; None for fewer than 4."""
    if len(times) < 4:
        return None
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / middle


def _number(take, values: list):
    if any(value is None for value in values):
        return None
    taken = take(values)
    return round(taken, 7) if isinstance(taken, float) else taken
