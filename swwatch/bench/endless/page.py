"""The endless benchmark as a page of Markdown."""

import statistics
from collections.abc import Callable

from swwatch.bench import page
from swwatch.bench.endless.modes import mode_of
from swwatch.bench.page import known, size, table
from swwatch.rules.schedule import FPS, seconds_of_step
from swwatch.rules.systems import TURN_S

PARTS = 5  # stretches of the stream, a column each


def _milliseconds(digits: int) -> Callable[[float], str]:
    return lambda seconds: f"{1000 * seconds:,.{digits}f} ms"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


# column of the curve -> heading, what is told of a stretch, how a number is written
QUANTITIES: dict[str, tuple[str, Callable, Callable[[float], str]]] = {
    "token_s": ("Wall time a token, watching included", statistics.median, _milliseconds(1)),
    "cpu_s": ("CPU time a step", statistics.median, _milliseconds(0)),
    "gap_s": ("From one word to the next", statistics.median, _milliseconds(1)),
    "fed": ("Tokens fed a step", max, _whole),
    "cache": ("Keys and values", max, size),
    "host": ("Parked in host memory", max, size),
    "memory": ("Memory of the process, more than before", max, size),
    "position": ("Largest position", max, _whole),
}


def report(result: dict) -> str:
    """All there is.

    Args:
        result: as swwatch.bench.endless.measure gives it.
    """
    parts = [head(result), page.judged(result["verdict"], "the wall times"), "## Modes", summary(result)]
    if result["modes"]:
        names = {name for mode in result["modes"].values() for name in mode["curve"]}
        for name, (heading, _, _) in QUANTITIES.items():
            if name != "host" or name in names:  # which older files lack
                parts += [f"## {heading}", over_time(result, name)]
    parts += [f"Not measured: {one['part']}: {one['reason']}." for one in result["left_out"]]
    return "\n\n".join(parts)


def head(result: dict) -> str:
    """Where it was measured, the stream and the windows, one line each."""
    given = result["settings"]
    model, video = given.get("model"), given.get("video")  # which older files lack
    what = model or f"shape {given['shape']}, random weights"
    watched = f"{video}, to second {given['seconds']} at most" if video else f"{given['seconds']} s"
    tokens = result.get("video_tokens", given["video_tokens"])
    said = f"{given['tokens']} said tokens" + (", in chat turns as many as are said," if model else "")
    return page.head(
        result,
        {
            "model": f"{what}, {result.get('parameters', 0):,} parameters, {given['precision']}",
            "stream": f"{watched}, {tokens} video tokens and {said} a second",
            "windows": f"{given['vision_s']} s of video; {given['text_sink']} first and {given['text_window']} last "
            f"tokens of what was said; without overlap {given['restart_s']:g} s; flush after {given['flush_s']:g} s",
            "serial, fused": f"variant {given['variant']}",
        },
    )


def summary(result: dict) -> str:
    """One line for each mode: how far it came, and whether it keeps up with its stream."""
    given = result["settings"]
    step_s = seconds_of_step(given.get("fps") or FPS)
    turn_s = max(TURN_S, step_s)
    lasts_s = {name: step_s if mode_of(name).engine else turn_s for name in result["modes"]}
    columns = (
        ("mode", lambda mode: mode["name"]),
        ("what it does", lambda mode: mode["what"]),
        ("came to", lambda mode: f"{mode['reached_s']:.0f} s" + (f" ({mode['ended']})" if mode["ended"] else "")),
        ("steps slower than real time", lambda mode: _late(mode["curve"]["step_s"][1:], lasts_s[mode["name"]])),
        ("growth (CPU)", lambda mode: known(growth_of(mode["curve"]["cpu_s"]), ".2f")),
    )
    modes = [{"name": name} | mode for name, mode in result["modes"].items()]
    needed = f"Real time needs {given['tokens']} tokens a second: a step a second."
    if step_s != 1:
        needed = f"Real time is a step every {step_s:g} s, a chat turn every {turn_s:g} s."
    elif given.get("model"):
        needed = "Real time is a step a second, whatever is said in it."
    note = "Growth: CPU time of a step in the last fifth by that in the second fifth; 1 is flat."
    return f"{table(modes, columns)}\n\n{needed} {note}"


def _late(steps: list[float], lasts_s: float) -> str:
    return f"{sum(step_s > lasts_s for step_s in steps)} of {len(steps)}"


def growth_of(values: list[float]) -> float | None:
    """Mean of the last fifth by that of the second; None where there are too few, or no clock."""
    part = len(values) // PARTS
    early = statistics.fmean(values[part : 2 * part]) if part else 0
    return statistics.fmean(values[-part:]) / early if early else None


def over_time(result: dict, quantity: str) -> str:
    """A line for each mode, a column for each fifth of the stream."""
    tokens, part_s = result["settings"]["tokens"], result["settings"]["seconds"] / PARTS
    _, take, write = QUANTITIES[quantity]

    def stretch(mode: dict, end: float) -> str:
        curve = mode["curve"]
        values = curve.get(quantity) or [step_s / tokens for step_s in curve["step_s"]]  # token_s of older files
        at = zip(curve["at_s"], values, strict=True)
        inside = [value for at_s, value in at if end - part_s < at_s <= end and value is not None]
        return write(take(inside)) if inside else "not measured"

    columns = [("mode", lambda mode: mode["name"])]
    for number in range(1, PARTS + 1):
        end = number * part_s
        columns.append((f"to {end:.0f} s", lambda mode, end=end: stretch(mode, end)))
    return table([{"name": name} | mode for name, mode in result["modes"].items()], columns)
