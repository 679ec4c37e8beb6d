"""From the runs of a point to its figures: medians, spread, gains next to their bounds."""

import statistics
from collections.abc import Sequence

import numpy as np

from swwatch.bench.stream.bounds import Roof, overlap_gain
from swwatch.bench.stream.played import Played, differences
from swwatch.bench.stream.settings import BASELINE, REFERENCE, Point
from swwatch.metrics.timing import distribution


def engine_row(plays: Sequence[Played], *, peak: int | None) -> dict:
    """The figures of one engine at one point.

    Args:
        plays: its runs over the same stream, warm-ups left out.
        peak: bytes of memory in use at most.
    Returns:
        step_s: seconds a step, mean over the steps of each step's median over the runs (the first and the last step
        left out, see `Played.step_times`); step_times: these medians; spread: see `spread`; growth: see `growth`,
        growth_aside without the time in attention, where that was measured; cpu_step_s; watch_s, speak_s, think_s,
        vision_s: seconds of a step while the model was watching, speaking (work that does both counts to both),
        thinking and nothing else, in the vision tower; first_token_s; gap_s: seconds between tokens, while nothing
        and while something is watched.
    """
    times = [play.step_times() for play in plays]
    medians = _median_steps(times)
    beside = [play.beside_s for play in plays if play.beside_s is not None]

    def median_of(*kinds: str) -> float:
        return statistics.median(play.seconds_of(*kinds) for play in plays)

    row = {
        "runs": len(plays),
        "fed": plays[0].fed,
        "num_tokens": len(plays[0].tokens),
        "peak_memory": peak,
        "step_s": statistics.mean(medians),
        "step_times": medians,
        "spread": spread(times),
        "growth": growth(medians),
        "cpu_step_s": statistics.median(map(_cpu_step, plays)),
        "watch_s": median_of("look", "watch", "both") + (statistics.median(beside) if beside else 0.0),
        "speak_s": median_of("speak", "both"),
        "think_s": median_of("think"),
        "vision_s": median_of("look"),
        "first_token_s": statistics.median(play.first_token_s() for play in plays),
    }
    if "attention_s" in plays[0].meters:
        row["growth_aside"] = growth(_median_steps([_aside(play) for play in plays]))
    alone, while_watching = ([gap for play in plays for gap in play.gaps()[i]] for i in range(2))
    row["gap_s"] = {"alone": distribution(alone), "while_watching": distribution(while_watching)}
    return row


def _median_steps(times: Sequence[Sequence[float]]) -> list[float]:
    """Of each step the median over the runs."""
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _cpu_step(play: Played) -> float:
    return play.cpu_s / len(play.at_step_ends(play.emit_s))


def _aside(play: Played) -> list[float]:
    """Step times without the time in attention."""
    attention = differences(play.at_step_ends(play.meters["attention_s"]))[:-1]
    return [whole - part for whole, part in zip(play.step_times(), attention, strict=True)]


def spread(times: Sequence[Sequence[float]]) -> float | None:
    """How far step times of several runs scatter about a smooth course: interquartile range by median.

    A step may cost more than the one before, so the course is a parabola through all runs; what is left of each time
    when it is divided by that. None where there are fewer than eight times.
    """
    steps = np.concatenate([np.arange(len(run)) for run in times])
    values = np.concatenate([np.asarray(run) for run in times])
    if len(values) < 8:
        return None
    course = np.polyval(np.polyfit(steps, values, 2), steps)
    low, middle, high = np.percentile(values / np.maximum(course, values.min()), (25, 50, 75))
    return float((high - low) / middle)


def growth(times: Sequence[float]) -> float:
    """What a step costs at the end by what it costs at the beginning: medians of the last and the first third."""
    third = max(1, len(times) // 3)
    return statistics.median(times[-third:]) / statistics.median(times[:third])


def compare(point: Point, rows: dict[str, dict], split: Played | None, roof: Roof, thoughts: int = 0) -> dict:
    """A point's figures: what its engines gain over the serial one, next to the bounds.

    Args:
        rows: engine -> `engine_row`, or {"not_measured": reason}. Gains are added to them.
        split: a serial run in which the device was waited for after each piece of work; None: the rows know.
        roof: of the LLM on this device.
        thoughts: tokens that are thought a step, at most.
    """
    serial = rows[REFERENCE]
    result = {**vars(point), "engines": rows}
    if "step_s" not in serial:
        return result
    parts = serial if split is None else _split(split)
    watch_s, speak_s, think_s, vision_s = (parts[key] for key in ("watch_s", "speak_s", "think_s", "vision_s"))
    decode = point.k / speak_s
    step = point.video_tokens, point.k, thoughts
    llm = roof.fused_gain(*step)
    forwards = roof.forward_s(point.video_tokens) + (point.k + thoughts) * roof.forward_s(1)
    result |= {
        "watch_s": watch_s,
        "speak_s": speak_s,
        "think_s": think_s,
        "vision_s": vision_s,
        "bound": overlap_gain(watch_s, speak_s, think_s=think_s),
        "fused_bound": llm,  # the LLM's part alone
        "fused_bound_in_line": (vision_s + forwards)
        / (vision_s + forwards / llm),  # a vision tower that waits its turn
        "serial_steps_bound": roof.serial_steps_per_s(*step),
        "fused_steps_bound": roof.fused_steps_per_s(*step),
        "decode_per_s": decode,
        "decode_bound_per_s": roof.decode_per_s(),
        "decode_share": decode / roof.decode_per_s(),
    }
    for name, row in rows.items():
        if "step_s" not in row:
            continue
        row["gain"] = serial["step_s"] / row["step_s"]
        row["gain_cpu"] = serial["cpu_step_s"] / row["cpu_step_s"]
        if name not in (REFERENCE, BASELINE):
            row["a"], row["b"] = row["watch_s"] / watch_s, row["speak_s"] / speak_s
    if "step_s" in rows.get(BASELINE, {}):
        for row in rows.values():
            if "step_s" in row:
                row["times_reprefill"] = rows[BASELINE]["step_s"] / row["step_s"]
                row["times_reprefill_cpu"] = rows[BASELINE]["cpu_step_s"] / row["cpu_step_s"]
    return result


def _split(play: Played) -> dict[str, float]:
    kinds = {"watch_s": ("look", "watch", "both"), "speak_s": ("speak",), "vision_s": ("look",)}
    kinds["think_s"] = ("think",)
    return {key: play.seconds_of(*names) for key, names in kinds.items()}


def same_tokens(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens agree before the first that does not."""
    pairs = zip(ours, theirs, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
