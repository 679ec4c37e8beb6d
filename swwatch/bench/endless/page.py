"""The endless benchmark as a page of Markdown."""

import statistics
from collections.abc import Callable

from swwatch.bench import page
from swwatch.bench.train.table import markdown, size

PARTS = 5  # stretches of the stream, a column each

QUANTITIES: dict[str, tuple[str, Callable]] = {  # column of the curve -> heading, how a number is written
    "token_s": ("Wall time a token, watching included", lambda value: f"{1000 * value:,.1f} ms"),
    "cpu_s": ("CPU time a step", lambda value: f"{1000 * value:,.0f} ms"),
    "gap_s": ("From one word to the next", lambda value: f"{1000 * value:,.1f} ms"),
    "fed": ("Tokens fed a step", lambda value: f"{value:,.0f}"),
    "cache": ("Keys and values", size),
    "memory": ("Memory of the process, more than before", size),
    "position": ("Largest position", lambda value: f"{value:,.0f}"),
}
MEDIANS = ("token_s", "cpu_s", "gap_s")  # of a stretch; of the others the largest


def report(result: dict) -> str:
    """All there is.

    Args:
        result: as swwatch.bench.endless.command writes it to JSON.
    """
    parts = [head(result), page.judged(result["verdict"], "the wall times"), "## Modes", summary(result)]
    for name, (heading, _) in QUANTITIES.items():
        if rows := over_time(result, name):
            parts += [f"## {heading}", rows]
    parts += [f"Not measured: {line}." for line in result["left_out"]]
    return "\n\n".join(parts)


def head(result: dict) -> str:
    """Where it was measured, the stream and the windows, one line each."""
    given = result["settings"]
    return page.head(
        result,
        {
            "model": f"shape {given['shape']}, random weights, {result.get('parameters', 0):,} parameters, "
            f"{given['precision']}",
            "stream": f"{given['seconds']} s, {given['video_tokens']} video tokens and {given['tokens']} said tokens "
            "a second",
            "windows": f"{given['vision_s']} s of video; {given['text_sink']} first and {given['text_window']} last "
            f"tokens of what was said; without overlap {given['restart_s']:g} s; flush after {given['flush_s']:g} s",
            "serial, fused": f"variant {given['variant']}",
        },
    )


def summary(result: dict) -> str:
    """One line for each mode: how far it came, and whether it keeps up with its stream."""
    lines = [("mode", "what it does", "came to", "steps slower than real time", "growth (CPU)")]
    for name, mode in result["modes"].items():
        steps = mode["curve"]["step_s"]
        late = sum(step_s > 1 for step_s in steps[1:])
        came = f"{mode['reached_s']:.0f} s" + (f" ({mode['ended']})" if mode["ended"] else "")
        growth = growth_of(mode["curve"]["cpu_s"])
        told = "n/a" if growth is None else f"{growth:.2f}"
        lines.append((name, mode["what"], came, f"{late} of {max(0, len(steps) - 1)}", told))
    note = "Growth: CPU time of a step in the last fifth by that in the second fifth; 1 is flat."
    needed = f"Real time needs {result['settings']['tokens']} tokens a second: a step a second."
    return f"{markdown(lines)}\n\n{needed} {note}"


def growth_of(values: list[float]) -> float | None:
    """Mean of the last fifth by that of the second; None where there are too few, or no clock."""
    part = len(values) // PARTS
    early = statistics.fmean(values[part : 2 * part]) if part else 0
    return statistics.fmean(values[-part:]) / early if early else None


def over_time(result: dict, quantity: str) -> str:
    """A line for each mode, a column for each fifth of the stream."""
    seconds, write = result["settings"]["seconds"], QUANTITIES[quantity][1]
    ends = [seconds * (i + 1) / PARTS for i in range(PARTS)]
    lines = [("mode", *(f"to {end:.0f} s" for end in ends))]
    for name, mode in result["modes"].items():
        curve = mode["curve"]
        values = [step / result["settings"]["tokens"] for step in curve["step_s"]]
        values = values if quantity == "token_s" else curve[quantity]
        cells = []
        for i, end in enumerate(ends):
            begin = ends[i - 1] if i else 0.0
            inside = [v for at, v in zip(curve["at_s"], values, strict=True) if begin < at <= end and v is not None]
            take = statistics.median if quantity in MEDIANS else max
            cells.append(write(take(inside)) if inside else "not measured")
        lines.append((name, *cells))
    return markdown(lines) if len(lines) > 1 else ""
