"""The streaming benchmark as a page of Markdown that reads well in a terminal too."""

from collections.abc import Sequence

from swwatch.bench import page
from swwatch.bench.train.table import markdown, size
from swwatch.rules.schedule import STEP_S

WORDS = {
    "tokens fed": "tokens that the LLM's caches took in during one run, prompt included",
    "s a step": "seconds from the end of a step's last token to that of the next step: mean over the steps, without "
    "the first and the last, of each step's median over the runs",
    "spread": "interquartile range of the step times about a smooth course, by median",
    "S": "step time of the serial engine by this engine's; (CPU): the same in CPU time, which other programs hardly "
    "change",
    "x reprefill": "step time of the baseline by this engine's; (CPU): in CPU time",
    "a, b": "slow-down of watching and of speaking while both go on: S = (p + g) / max(a p, b g)",
    "first token": "from the arrival of the first frame to the first token, median",
    "gap": "seconds between two tokens while nothing is watched / while something is (P50, P95, P99)",
    "growth": "a step's time in the last third of the stream by that in the first; aside: without attention",
}


def report(result: dict) -> str:
    """All there is.

    Args:
        result: as swwatch.bench.stream.command writes it to JSON.
    """
    parts = [head(result), page.judged(result["verdict"])]
    for shape in result["shapes"]:
        points = [point for point in result["points"] if point["shape"] == shape]
        if not points:
            continue
        parts.append(f"## {title(points[0])}")
        parts += [bounds(points[0]), engines(points[0]), times(points[0])]
        if len(points) > 1:
            parts += [f"## Sweep, {shape}", sweep(points)]
        parts += _further(result, shape)
    if missing := left_out(result):
        parts += ["## Not measured", "\n".join(f"- {line}" for line in missing)]
    parts.append("What the columns mean: " + "; ".join(f"{name}: {text}" for name, text in WORDS.items()) + ".")
    return "\n\n".join(parts)


def title(point: dict) -> str:
    return f"{point['shape']}: {point['video_tokens']} video tokens a step, K = {point['k']}, {point['steps']} steps"


def head(result: dict) -> str:
    """Where it was measured, rates and models, one line each."""
    rates = result["rates"]
    lines = {
        "memory": f"{rates['bandwidth'] / 1e9:,.1f} GB/s ({rates['bandwidth_from']}; "
        f"measured here {rates['measured_bandwidth'] / 1e9:,.1f})",
        "computing": f"{rates['flops'] / 1e12:,.2f} TFLOP/s ({rates['flops_from']})",
    }
    for shape, facts in result["shapes"].items():
        lines[f"model {shape}"] = (
            f"{_count(facts['parameters'])} parameters, {_count(facts['vision_parameters'])} of them in the "
            f"vision tower; a forward of the LLM reads {size(facts['llm']['weight_bytes'])}; "
            f"{result['settings']['variant']}, {facts['precision']}"
        )
    return page.head(result, lines)


def bounds(point: dict) -> str:
    """What a step takes, and what is possible."""
    if "watch_s" not in point:
        return "The serial engine was not measured here, so that there is nothing to compare with."
    lines = [
        f"- p, watching a step: {_ms(point['watch_s'])} ({_ms(point['vision_s'])} of it in the vision tower); "
        f"g, speaking {point['k']} tokens: {_ms(point['speak_s'])}",
        f"- the paper's bound (p + g) / max(p, g): **{point['bound']:.2f}**; roofline of the fused engine: "
        f"**{point['fused_bound']:.2f}** for the LLM's part, {point['fused_bound_in_line']:.2f} with a vision tower "
        "that waits its turn",
        f"- decoding: {point['decode_per_s']:,.1f} tokens/s, {point['decode_share']:.0%} of the "
        f"{point['decode_bound_per_s']:,.1f} that reading the weights allows",
        f"- steps a second that the LLM could take at most: serial {point['serial_steps_bound']:,.1f}, "
        f"fused {point['fused_steps_bound']:,.1f}",
    ]
    return "\n".join(lines)


def engines(point: dict) -> str:
    """One line for every engine."""
    heads = ("engine", "tokens fed", "s a step", "spread", "S (CPU)", "a, b", "x reprefill (CPU)", "growth", "aside")
    lines = [(*heads, "peak memory", "same tokens", "runs")]
    for name, row in point["engines"].items():
        if "not_measured" in row:
            lines.append((name, "not measured", *[""] * (len(lines[0]) - 2)))
            continue
        slow = f"{row['a']:.2f}, {row['b']:.2f}" if "a" in row else ""
        again = f"{row['times_reprefill']:.1f} ({row['times_reprefill_cpu']:.1f})" if "times_reprefill" in row else ""
        cells = [name, f"{row['fed']:,}", f"{row['step_s']:.4f}", _share(row["spread"])]
        cells += [f"{row['gain']:.2f} ({row['gain_cpu']:.2f})" if "gain" in row else "", slow, again]
        cells += [f"{row['growth']:.2f}", f"{row['growth_aside']:.2f}" if "growth_aside" in row else ""]
        same = "all" if row["same_tokens"] == row["num_tokens"] else f"the first {row['same_tokens']}"
        lines.append((*cells, size(row["peak_memory"]), same, str(row["runs"])))
    return markdown(lines)


def times(point: dict) -> str:
    """First token and gaps of every engine."""
    lines = [("engine", "first token", "gap alone P50, P95, P99", "gap while watching P50, P95, P99")]
    for name, row in point["engines"].items():
        if "gap_s" in row:
            gaps = [_three(row["gap_s"][key]) for key in ("alone", "while_watching")]
            lines.append((name, _ms(row["first_token_s"]), *gaps))
    return markdown(lines) if len(lines) > 1 else ""


def sweep(points: Sequence[dict]) -> str:
    """One line for every point: bounds and gains."""
    names = list(points[0]["engines"])
    heads = ("video tokens", "K", "steps", "p", "g", "bound", "fused bound", "decode of bound")
    lines = [(*heads, *(f"{name}: s a step, S" for name in names))]
    for point in points:
        place = [str(point[key]) for key in ("video_tokens", "k", "steps")]
        told = [_ms(point["watch_s"]), _ms(point["speak_s"])] if "watch_s" in point else ["", ""]
        shares = [f"{point[key]:.2f}" if key in point else "" for key in ("bound", "fused_bound", "decode_share")]
        cells = [
            "not measured" if "not_measured" in row else f"{row['step_s']:.4f}, {row.get('gain', 0):.2f}"
            for row in point["engines"].values()
        ]
        lines.append((*place, *told, *shares, *cells))
    return markdown(lines)


def _further(result: dict, shape: str) -> list[str]:
    """Paced runs, highest rates, the soak."""
    parts = []
    if paced := [row for row in result["paced"] if row["shape"] == shape]:
        lines = [("engine", "pace", "steps/s", "staleness P50, P95, P99", "longest queue")]
        for row in paced:
            stale = _three(row["staleness_s"])
            lines.append((row["engine"], row["pace"], f"{row['rate']:.2f}", stale, str(row["longest_queue"])))
        note = "Staleness: emission of a token - arrival of the newest step that it could see. The clock counts all "
        note += "computing and skips idle waiting; nothing is dropped."
        parts += [f"## Paced, {shape}", markdown(lines), note]
    if held := [row for row in result["sustain"] if row["shape"] == shape and "trials" in row]:
        lines = [("engine", "highest rate", "video frames/s", "lowest rate that failed", "dropped there", "trials")]
        lines += [_rate(row) for row in held]
        how = held[0]
        note = f"Held: no step dropped from a queue of {how['queue']} and at most one waiting at the end, over "
        note += (
            f"{how['hold_s']:g} s of the stream at least; sessions of {how['session_steps']} steps follow one another."
        )
        parts += [f"## Highest rate while narrating, {shape}", markdown(lines), note]
    for row in [row for row in result["soak"] if row["shape"] == shape]:
        parts += [f"## {row['minutes']:g} minutes of one session, {shape}, {row['engine']}", _soak(row)]
    return parts


def _rate(row: dict) -> tuple[str, ...]:
    failed = sorted((trial for trial in row["trials"] if not trial["held"]), key=lambda trial: trial["rate"])
    lowest = (f"{failed[0]['rate']:.2f}", str(failed[0]["dropped"])) if failed else ("none", "")
    if row["rate"] is None:
        return (row["engine"], "none held", "", *lowest, str(len(row["trials"])))
    frames = f"{row['frames_per_s']:.1f}"
    return (row["engine"], f"{row['rate']:.2f} steps/s", frames, *lowest, str(len(row["trials"])))


def _soak(row: dict) -> str:
    lines = [("from", "busy in a step", "lag", "memory", "keys and values", "largest position")]
    for period in row["periods"]:
        sizes = (size(period["memory"]), size(period["cache"]))
        times = (f"{period['from_s']:.0f} s", _ms(period["step_s"]), _ms(period["lag_s"]))
        lines.append((*times, *sizes, f"{period['position']:,}"))
    told = f"{row['steps']} steps at {row['rate']:g} a second ({row['rate'] / STEP_S:g} times real time), "
    told += (
        f"{row['dropped']} dropped; a step at the end takes {row['drift']:.2f} times what it takes at the beginning."
    )
    return f"{markdown(lines)}\n\n{told}"


def left_out(result: dict) -> list[str]:
    """What was not measured, and why, one line each; reasons that many points share are told once."""
    reasons: dict[str, list[str]] = {}
    for point in result["points"]:
        for name, row in point["engines"].items():
            if "not_measured" in row:
                reasons.setdefault(f"{name}: {row['not_measured']}", []).append(title(point))
    lines = [f"{reason} ({len(where)} of {len(result['points'])} points)" for reason, where in reasons.items()]
    lines += [
        f"highest rate of {row['engine']}: {row['not_measured']}" for row in result["sustain"] if "not_measured" in row
    ]
    return lines + [f"{row['part']}: {row['reason']}" for row in result["left_out"]]


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e8 else f"{number / 1e6:.2f} M"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _three(told: dict) -> str:
    if not told["n"]:
        return "none"
    return ", ".join(f"{1000 * told[key]:,.1f}" for key in ("median", "p95", "p99")) + " ms"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.0%}"
