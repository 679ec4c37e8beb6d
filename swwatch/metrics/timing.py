"""How timely a narration was, from the trace of its tokens.

All times are stream seconds on the run's own clock: frames at their arrival, tokens at their emission. Nothing is a
sum of computing times. docs/metrics.md explains every number to the reader of a report.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from swwatch.errors import UserError
from swwatch.metrics.events import DEFINITIONS as EVENT_DEFINITIONS
from swwatch.metrics.events import Matcher, event_timing, shares, timed
from swwatch.policies.speak import Speak, parse_schedule
from swwatch.rules.schedule import seconds_of_step

DEFINITIONS = {
    "time_to_first_token_s": "emission of the first token - arrival of the first frame (stream second 0), the first "
    "one that it could have seen",
    "gap_s": "emission of a token - emission of the one before it, in one clip",
    "gap_within_step_s": "gaps between tokens of one step: no video is taken in between",
    "gap_across_steps_s": "gaps between tokens of different steps: waiting for video and taking it in count",
    "staleness_s": "emission of a token - arrival of the newest step that it could see",
    "lag_steps": "steps that had arrived when a token was emitted and that it could not see",
    "step_load": "(last token of a step - arrival of the step) / (next arrival - arrival of the step); steps that "
    "arrive together are one; 1: out just as the next video comes; the last step has no next",
    "keeps_pace": "share of steps with a step_load of at most 1",
    "real_time_factor": "(end - first arrival) / (deadline - first arrival); end: last token of the last step that "
    "spoke before the final one, deadline: the next arrival after that step; 1 just keeps pace, above 1 falls behind "
    "and tells how many seconds each second of video took",
    "tail_s": "emission of the last token - arrival of the last step",
    "laal_s": "Length-Adaptive Average Lagging (Papi et al. 2022, arXiv 2206.05807), computation-aware: mean over "
    "words 1..tau of (emission - (i - 1) X / max(Y, Y*)); X: arrival of the last step, Y and Y*: words of the "
    "narration and of the reference, tau: first word that could see the last step",
    "laal_policy_s": "laal_s with the arrival of the newest visible step in place of the emission: the part of the "
    "lag that is the schedule's, with computing taken as instant",
}
PERCENTILES = "linear interpolation between order statistics (numpy's default; type 7 of Hyndman and Fan 1996)"
POOLED = ("gap_s", "gap_within_step_s", "gap_across_steps_s", "staleness_s", "lag_steps", "step_load")  # many a clip
SINGLE = ("time_to_first_token_s", "real_time_factor", "tail_s", "laal_s", "laal_policy_s")  # one a clip
AGREE_S = 0.001
TOLD = ("lag_s", "delay_s", "time_diff_s")  # one a told event


def summarize(
    traces: Mapping[str, Sequence[Mapping]],
    records: Mapping[str, Mapping],
    mentions: Matcher | None = None,
    *,
    arrivals: Mapping[str, Sequence[float]] | None = None,
    note: str | None = None,
) -> dict:
    """All timing metrics of a run.

    Args:
        traces: clip -> its tokens in the order of emission, each with step, newest_visible_step, t_frame_s, t_emit_s
            and text. A clip that said nothing has an empty list; it is counted and has no timing.
        records: clip -> annotation; `human_caption` serves LAAL, `events` with start_s and end_s the event metrics.
        mentions: says which token finishes the mention of which event; without it there are no event metrics.
        arrivals: clip -> arrival of every step in stream seconds (`planned_arrivals`). Without it a step that said
            nothing left no arrival in the trace, and is taken to have arrived with the next one that spoke: that can
            only flatter lag_steps, step_load, keeps_pace and real_time_factor, and touches nothing else.
        note: what a reader must know of the clock, such as that several clips shared the device.
    Returns:
        JSON-able: definitions, percentiles (the method), arrivals ("given", "from the trace", or for how many clips
        which), note (where given), num_clips, num_silent, num_tokens; each metric as {n, mean, median, p95, p99} (over
        all tokens, gaps or steps of all clips, or over clips; None where n is 0); keeps_pace {n, share}; events:
        {num_..., coverage, redundancy, unfounded, unseen, lag_s, delay_s, time_diff_s} or {"value": None, "why": ...};
        per_clip: clip -> the same as single numbers (means within the clip), with events where known.
    Raises:
        UserError: a token lacks a field, or times run backwards.
    """
    clips = {key: _clip(key, traces[key], records.get(key, {}), (arrivals or {}).get(key)) for key in traces}
    values = {name: [x for clip in clips.values() for x in clip[name]] for name in (*POOLED, *SINGLE)}
    loads = values["step_load"]
    timings = {}
    for key, tokens in traces.items():
        events = records.get(key, {}).get("events")
        if mentions is not None and timed(events):
            timings[key] = event_timing(tokens, events, mentions([token["text"] for token in tokens], events))
    summary = {
        "definitions": {**DEFINITIONS, "events": EVENT_DEFINITIONS},
        "percentiles": PERCENTILES,
        "arrivals": _arrivals_of(traces, arrivals or {}),
        "num_clips": len(traces),
        "num_silent": sum(not tokens for tokens in traces.values()),
        "num_tokens": sum(len(tokens) for tokens in traces.values()),
        **{name: distribution(values[name]) for name in (*SINGLE, *POOLED)},
        "keeps_pace": {"n": len(loads), "share": _mean([load <= 1 for load in loads])},
        "events": _all_events(
            timings, "no matcher" if mentions is None else "no clip has events with start_s and end_s"
        ),
        "per_clip": {key: _per_clip(traces[key], clips[key], timings.get(key)) for key in traces},
    }
    return summary if note is None else {"note": note, **summary}


def distribution(values: Sequence[float]) -> dict:
    """{n, mean, median, p95, p99} of a set of numbers; None for each where there are none. Method: PERCENTILES."""
    if not values:
        return {"n": 0, "mean": None, "median": None, "p95": None, "p99": None}
    median, p95, p99 = (float(x) for x in np.percentile(values, (50, 95, 99)))
    return {"n": len(values), "mean": _mean(values), "median": median, "p95": p95, "p99": p99}


def laal(delays: Sequence[float], reaches_end: Sequence[bool], source_s: float, reference_len: int) -> float:
    """Length-Adaptive Average Lagging in seconds.

    LAAL = 1/tau * sum over i = 1..tau of (d_i - (i - 1) * X / max(Y, Y*)): how far the output is behind an oracle that
    starts at once and spreads its words evenly over the source. The longer of the two lengths keeps a talkative system
    from looking fast.

    Source: Papi et al. 2022 (arXiv 2206.05807), from Ma et al. 2019 (Average Lagging, arXiv 1810.08398). Adapted: the
    source is video, so X and d_i are stream seconds; d_i is an emission time (computation-aware) or the arrival of
    what had been seen; tau is the first word that could see the whole source, or all words where none could.

    Args:
        delays: d_i of the Y words, seconds.
        reaches_end: for each word, whether the last step was visible.
        source_s: X, arrival of the last step.
        reference_len: Y*, words of the reference; 0 where there is none.
    """
    tau = next((i for i, end in enumerate(reaches_end, start=1) if end), len(delays))
    pace = source_s / max(len(delays), reference_len)
    return _mean([delay - i * pace for i, delay in enumerate(delays[:tau])])


def step_arrivals(tokens: Sequence[Mapping], given: Sequence[float] | None = None) -> list[float]:
    """Arrival of step 0, 1, ... in stream seconds: as given, else what the trace knows (see `summarize`)."""
    if given is not None:
        return list(given)
    known = {token["newest_visible_step"]: token["t_frame_s"] for token in tokens}
    arrivals: list[float] = []
    for step in range(max(known, default=-1), -1, -1):
        arrivals.append(known[step] if step in known else arrivals[-1])
    return arrivals[::-1]


def planned_arrivals(
    traces: Mapping[str, Sequence[Mapping]], schedule: str | Speak, step_s: float = seconds_of_step()
) -> dict[str, list[float]]:
    """Arrival of every step that a clip's trace reaches, in stream seconds, silent steps too: `summarize`'s arrivals.

    For runs whose steps come `step_s` apart but for what the schedule does to them (bursts, stalls), as in `swwatch
    eval`. The first token of a clip tells when the clip began. A clip whose trace says otherwise is left out: its
    steps did not come as the schedule has it.
    """
    planned = {}
    for key, tokens in traces.items():
        rule, first = parse_schedule(schedule).for_clip(key), tokens[0] if tokens else None
        if first is not None:
            step, num_steps = first["newest_visible_step"], max(token["newest_visible_step"] for token in tokens) + 1
            began_s = first["t_frame_s"] - rule.arrival_s(step, step * step_s, step_s)
            arrivals = [began_s + rule.arrival_s(i, i * step_s, step_s) for i in range(num_steps)]
            if all(abs(arrivals[token["newest_visible_step"]] - token["t_frame_s"]) < AGREE_S for token in tokens):
                planned[key] = arrivals
    return planned


def _arrivals_of(traces: Mapping[str, Sequence], given: Mapping[str, Sequence]) -> str:
    spoken = [key for key, tokens in traces.items() if tokens]
    known = sum(key in given for key in spoken)
    if 0 < known < len(spoken):
        return f"given for {known} of {len(spoken)} clips, from the trace for the others"
    return "given" if known else "from the trace"


def _clip(key: str, tokens: Sequence[Mapping], record: Mapping, given: Sequence[float] | None) -> dict:
    """One clip: metric -> its values, of which there are none where the clip has no such thing."""
    _check(key, tokens, given)
    if not tokens:
        return {name: [] for name in (*POOLED, *SINGLE)}
    arrivals, emits = step_arrivals(tokens, given), [token["t_emit_s"] for token in tokens]
    gaps = [(b["t_emit_s"] - a["t_emit_s"], a["step"] == b["step"]) for a, b in pairwise(tokens)]
    finished, words = _finished(tokens, arrivals), _word_ends(tokens)
    seen = [words[i]["newest_visible_step"] >= len(arrivals) - 1 for i in range(len(words))]
    source_s, reference_len = arrivals[-1], len(str(record.get("human_caption") or "").split())

    def lagging(field: str) -> list[float]:
        return [laal([word[field] for word in words], seen, source_s, reference_len)] if words else []

    return {
        "time_to_first_token_s": [emits[0]],
        "gap_s": [gap for gap, _ in gaps],
        "gap_within_step_s": [gap for gap, same in gaps if same],
        "gap_across_steps_s": [gap for gap, same in gaps if not same],
        "staleness_s": [token["t_emit_s"] - token["t_frame_s"] for token in tokens],
        "lag_steps": [
            bisect_right(arrivals, token["t_emit_s"]) - 1 - token["newest_visible_step"] for token in tokens
        ],
        "step_load": [(end_s - a) / (next_s - a) for a, end_s, next_s in finished],
        "real_time_factor": _real_time_factor(finished, arrivals[0]),
        "tail_s": [emits[-1] - arrivals[-1]],
        "laal_s": lagging("t_emit_s"),
        "laal_policy_s": lagging("t_frame_s"),
    }


def _check(key: str, tokens: Sequence[Mapping], given: Sequence[float] | None) -> None:
    fields = ("step", "newest_visible_step", "t_frame_s", "t_emit_s", "text")
    for number, token in enumerate(tokens):
        if lacking := [field for field in fields if field not in token]:
            raise UserError(f"trace of clip {key!r}, token {number}: no {', '.join(lacking)}; evaluate the clip again")
        if number and token["t_emit_s"] < tokens[number - 1]["t_emit_s"]:
            raise UserError(f"trace of clip {key!r}, token {number}: emitted before the token in front of it")
        if given is not None and token["newest_visible_step"] >= len(given):
            raise UserError(
                f"trace of clip {key!r}, token {number}: saw a step without arrival; {len(given)} have one"
            )


def _finished(tokens: Sequence[Mapping], arrivals: Sequence[float]) -> list[tuple[float, float, float]]:
    """(arrival, last token's emission, next arrival) of every step that spoke and has a next; steps that arrive
    together are one."""
    done = {arrivals[token["newest_visible_step"]]: token["t_emit_s"] for token in tokens}
    following = {arrival_s: bisect_right(arrivals, arrival_s) for arrival_s in done}
    return [(a, end_s, arrivals[following[a]]) for a, end_s in done.items() if following[a] < len(arrivals)]


def _real_time_factor(finished: Sequence[tuple[float, float, float]], first_s: float) -> list[float]:
    return [(end_s - first_s) / (next_s - first_s) for _, end_s, next_s in finished[-1:]]


def _word_ends(tokens: Sequence[Mapping]) -> list[Mapping]:
    """For each word of the narration (cut at white space), the token that holds its last character."""
    text = "".join(token["text"] for token in tokens)
    ends = np.cumsum([len(token["text"]) for token in tokens])
    last = [i for i, c in enumerate(text) if not c.isspace() and (i + 1 == len(text) or text[i + 1].isspace())]
    return [tokens[int(np.searchsorted(ends, i, side="right"))] for i in last]


def _all_events(timings: Mapping[str, dict], why_not: str) -> dict:
    if not timings:
        return {"value": None, "why": why_not}
    first = next(iter(timings.values()))
    counts = {name: sum(clip[name] for clip in timings.values()) for name in first if name.startswith("num_")}
    pooled = {name: [x for clip in timings.values() for x in clip[name] if x is not None] for name in TOLD}
    return {"num_clips": len(timings), **counts, **shares(counts)} | {k: distribution(v) for k, v in pooled.items()}


def _per_clip(tokens: Sequence[Mapping], clip: Mapping[str, list], timing: dict | None) -> dict:
    row = {"num_tokens": len(tokens)} | {name: _mean(clip[name]) for name in (*SINGLE, *POOLED)}
    row["keeps_pace"] = _mean([load <= 1 for load in clip["step_load"]])
    if timing is not None:
        means = {name: _mean([x for x in timing[name] if x is not None]) for name in TOLD}
        counts = {name: value for name, value in timing.items() if name.startswith("num_")}
        row["events"] = {**counts, **shares(timing), **means, "told_s": timing["told_s"]}
    return row


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
