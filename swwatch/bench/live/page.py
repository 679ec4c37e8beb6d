"""The benchmark of live sessions as a page of Markdown."""

from collections.abc import Callable

from swwatch.bench import page
from swwatch.bench.page import known, table

MEANING = (
    "first response: from the arrival of a session's first step (its second frame) to its first token. lag: from the "
    "arrival of the newest step that a token could see to the token. held: no step lost, every session answered, lag "
    "P95 at most {max_lag_s:g} s. cores: CPU cores used by model and senders. Seconds each."
)


def report(result: dict) -> str:
    """All there is.

    Args:
        result: as swwatch.bench.live.measure gives it.
    """
    settings = result["settings"]
    held = (
        f"Sessions held with first response P95 under {settings['max_first_s']:g} s: **{_most(result, 'good')}** "
        f"(whatever the first response: {_most(result, 'held')})"
    )
    trials = sorted(result["trials"], key=lambda trial: trial["sessions"])
    verdict = page.judged(result["verdict"])
    return "\n\n".join([head(result), held, table(trials, COLUMNS), verdict, MEANING.format(**settings)])


def _most(result: dict, name: str) -> str:
    count, tried = result[f"sessions_{name}"], [trial["sessions"] for trial in result["trials"]]
    if not count:
        return f"fewer than {min(tried)}"
    return f"{count}, the most that was tried" if count == max(tried) else str(count)


def head(result: dict) -> str:
    """Where it was measured, model and pace, one line each."""
    settings = result["settings"]
    model = settings["model"] or f"shape {settings['shape']}, random weights"
    return page.head(
        result,
        {
            "model": f"{model}: {result['parameters']:,} parameters; {settings['variant']}, {settings['precision']}",
            "engine": f"{result['engine']} ({result['why']})",
            "each session": f"{settings['rate']:g} frames of {settings['width']}x{settings['height']} a second, "
            f"{result['video_tokens']} video tokens and {settings['k']} words a step, {settings['session_s']:g} s "
            "long",
        },
    )


def _held(trial: dict) -> str:
    if trial["held"]:
        return "yes"
    return f"no: {trial['errors'][0]}" if trial["errors"] else "no"


def _percentile(times: str, name: str) -> Callable[[dict], str]:
    return lambda trial: known(trial[times].get(name), ".3f")


def _figure(name: str, form: str) -> Callable[[dict], str]:
    return lambda trial: format(trial[name], form)


COLUMNS = (  # one line for every number of sessions
    ("sessions", _figure("sessions", "d")),
    ("held", _held),
    ("first response P50", _percentile("first_response_s", "p50")),
    ("P95", _percentile("first_response_s", "p95")),
    ("lag P50", _percentile("lag_s", "p50")),
    ("P95", _percentile("lag_s", "p95")),
    ("P99", _percentile("lag_s", "p99")),
    ("lost", _figure("lost", "d")),
    ("most queued", _figure("most_queued", "d")),
    ("tokens/s", _figure("tokens_per_s", ".1f")),
    ("steps/s", _figure("steps_per_s", ".1f")),
    ("cores", _figure("cores", ".1f")),
    ("load", _figure("load", ".1f")),
)
