"""The streaming benchmark as a page of Markdown that reads well in a terminal too."""

from collections.abc import Callable, Sequence

from swwatch.bench import page
from swwatch.bench.page import known, milliseconds, size, table
from swwatch.rules.schedule import FPS, seconds_of_step

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
        result: as swwatch.bench.stream.measure gives it.
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
    thinks = point.get("think_s", 0) > 0  # files of before know none
    bound = "the bound (p + g + c) / max(p, g, c)" if thinks else "the paper's bound (p + g) / max(p, g)"
    thinking = f"; c, thinking: {milliseconds(point['think_s'])}" if thinks else ""
    lines = [
        f"- p, watching a step: {milliseconds(point['watch_s'])} ({milliseconds(point['vision_s'])} of it in the "
        f"vision tower); g, speaking {point['k']} tokens: {milliseconds(point['speak_s'])}{thinking}",
        f"- {bound}: **{point['bound']:.2f}**; roofline of the fused engine: "
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
    return table(_engine_rows(point), ENGINE_COLUMNS)


def _engine_rows(point: dict) -> list[dict]:
    return [{"engine": name} | row for name, row in point["engines"].items()]


def _in_cpu_time(key: str, form: str) -> Callable[[dict], str]:
    """A ratio, and in brackets the same in CPU time."""
    return lambda row: f"{row[key]:{form}} ({row[key + '_cpu']:{form}})" if key in row else ""


def _same(row: dict) -> str:
    return "all" if row["same_tokens"] == row["num_tokens"] else f"the first {row['same_tokens']}"


ENGINE_COLUMNS = (
    ("engine", lambda row: row["engine"]),
    ("tokens fed", lambda row: f"{row['fed']:,}"),
    ("s a step", lambda row: f"{row['step_s']:.4f}"),
    ("spread", lambda row: known(row["spread"], ".0%")),
    ("S (CPU)", _in_cpu_time("gain", ".2f")),
    ("a, b", lambda row: f"{row['a']:.2f}, {row['b']:.2f}" if "a" in row else ""),
    ("x reprefill (CPU)", _in_cpu_time("times_reprefill", ".1f")),
    ("growth", lambda row: f"{row['growth']:.2f}"),
    ("aside", lambda row: f"{row['growth_aside']:.2f}" if "growth_aside" in row else ""),
    ("peak memory", lambda row: size(row["peak_memory"])),
    ("same tokens", _same),
    ("runs", lambda row: str(row["runs"])),
)


def times(point: dict) -> str:
    """First token and gaps of every engine."""
    columns = (
        ("engine", lambda row: row["engine"]),
        ("first token", lambda row: milliseconds(row["first_token_s"])),
        ("gap alone P50, P95, P99", lambda row: _three(row["gap_s"]["alone"])),
        ("gap while watching P50, P95, P99", lambda row: _three(row["gap_s"]["while_watching"])),
    )
    rows = [row for row in _engine_rows(point) if "gap_s" in row]
    return table(rows, columns) if rows else ""


def sweep(points: Sequence[dict]) -> str:
    """One line for every point: bounds and gains."""

    def where_known(key: str, write: Callable[[float], str]) -> Callable[[dict], str]:
        return lambda point: write(point[key]) if key in point else ""

    def step(name: str) -> Callable[[dict], str]:
        return lambda point: _step(point["engines"][name])

    ratio = "{:.2f}".format
    columns = [
        ("video tokens", lambda point: str(point["video_tokens"])),
        ("K", lambda point: str(point["k"])),
        ("steps", lambda point: str(point["steps"])),
        ("p", where_known("watch_s", milliseconds)),
        ("g", where_known("speak_s", milliseconds)),
        ("bound", where_known("bound", ratio)),
        ("fused bound", where_known("fused_bound", ratio)),
        ("decode of bound", where_known("decode_share", ratio)),
    ]
    return table(points, columns + [(f"{name}: s a step, S", step(name)) for name in points[0]["engines"]])


def _step(row: dict) -> str:
    return "not measured" if "not_measured" in row else f"{row['step_s']:.4f}, {row.get('gain', 0):.2f}"


def _further(result: dict, shape: str) -> list[str]:
    """Paced runs, highest rates, the soak."""
    parts = []
    paced, sustained, soaked = (
        [row for row in result[name] if row["shape"] == shape] for name in ("paced", "sustain", "soak")
    )
    if paced:
        parts += [f"## Paced, {shape}", table(paced, PACED_COLUMNS), STALENESS]
    if held := [row for row in sustained if "trials" in row]:
        note = HELD.format(**held[0])
        parts += [f"## Highest rate while narrating, {shape}", table(held, RATE_COLUMNS), note]
    for row in soaked:
        parts += [f"## {row['minutes']:g} minutes of one session, {shape}, {row['engine']}", _soak(row)]
    return parts


STALENESS = (
    "Staleness: emission of a token - arrival of the newest step that it could see. The clock counts all computing "
    "and skips idle waiting; nothing is dropped."
)
PACED_COLUMNS = (
    ("engine", lambda row: row["engine"]),
    ("pace", lambda row: row["pace"]),
    ("steps/s", lambda row: f"{row['rate']:.2f}"),
    ("staleness P50, P95, P99", lambda row: _three(row["staleness_s"])),
    ("longest queue", lambda row: str(row["longest_queue"])),
)


def _lowest_failed(row: dict) -> dict | None:
    failed = [trial for trial in row["trials"] if not trial["held"]]
    return min(failed, key=lambda trial: trial["rate"], default=None)


HELD = (
    "Held: no step dropped from a queue of {queue} and at most one waiting at the end, over {hold_s:g} s of the "
    "stream at least; sessions of {session_steps} steps follow one another."
)
RATE_COLUMNS = (
    ("engine", lambda row: row["engine"]),
    ("highest rate", lambda row: "none held" if row["rate"] is None else f"{row['rate']:.2f} steps/s"),
    ("video frames/s", lambda row: "" if row["rate"] is None else f"{row['frames_per_s']:.1f}"),
    ("lowest rate that failed", lambda row: f"{failed['rate']:.2f}" if (failed := _lowest_failed(row)) else "none"),
    ("dropped there", lambda row: str(failed["dropped"]) if (failed := _lowest_failed(row)) else ""),
    ("trials", lambda row: str(len(row["trials"]))),
)
SOAK_COLUMNS = (
    ("from", lambda period: f"{period['from_s']:.0f} s"),
    ("busy in a step", lambda period: milliseconds(period["step_s"])),
    ("lag", lambda period: milliseconds(period["lag_s"])),
    ("memory", lambda period: size(period["memory"])),
    ("keys and values", lambda period: size(period["cache"])),
    ("largest position", lambda period: f"{period['position']:,}"),
)


def _soak(row: dict) -> str:
    times = row["rate"] * seconds_of_step(row.get("fps", FPS))
    sentence = (
        f"{row['steps']} steps at {row['rate']:g} a second ({times:g} times real time), "
        f"{row['dropped']} dropped; a step at the end takes {row['drift']:.2f} times what it takes at the beginning."
    )
    return f"{table(row['periods'], SOAK_COLUMNS)}\n\n{sentence}"


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


def _three(times: dict) -> str:
    if not times["n"]:
        return "none"
    return ", ".join(f"{1000 * times[key]:,.1f}" for key in ("median", "p95", "p99")) + " ms"
