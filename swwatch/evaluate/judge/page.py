"""The judge's results as text for a terminal."""

from pathlib import Path

from swwatch.metrics.tables import as_text, interval


def describe_grades(reports: list[dict]) -> str:
    """A row a run, then what was left out, what was asked and where it is written."""
    first = reports[0]
    heads = ("run", first["criterion"], "95 % interval", "judged", "empty", "failed", *"12345")
    rows = [
        (
            Path(report["run"]).stem.removesuffix("_infer"),
            f"{report['fluency']:.2f}",
            interval(report["ci95"]),
            *(str(report[name]) for name in ("num_judged", "num_empty", "num_failed")),
            *(str(count) for count in report["grades"].values()),
        )
        for report in reports
    ]
    lines = [
        f"{first['criterion'].capitalize()} from 1 to 5, judged by {first['model']} (last columns: clips per grade)",
        as_text([heads, *rows]),
        "Empty captions were not asked and count as 1. Failed clips are in no mean.",
        *_last_lines(reports),
    ]
    return "\n".join(lines)


def describe_scales(reports: list[dict]) -> str:
    """A row a run, a column a scale, then what was asked and where it is written."""
    names = list(reports[0]["scales"])
    lines = [("run", *names, "judged", "failed")]
    for report in reports:
        scored = [report["scales"][name] for name in names]
        cells = ["-" if one["mean"] is None else f"{one['mean']:.2f} {interval(one['ci95'])}" for one in scored]
        lines.append((Path(report["run"]).stem, *cells, str(report["num_judged"]), str(report["num_failed"])))
    head = f"Scales from 0 to 10 with 95 % intervals over videos, judged by {reports[0]['model']}"
    return "\n".join([head, as_text(lines), *_last_lines(reports)])


def describe_pair(reports: list[dict]) -> str:
    """A block a pair: the win rate, its interval, and what the order of showing did."""
    blocks = []
    for report in reports:
        bias = report["position_bias"]
        lines = [
            f"{report['a']} against {report['b']} by {report['criterion']}, judged by {report['model']}",
            f"  win rate of {report['a']}  {100 * report['win_rate']:.1f} %  {interval(report['ci95'], '.1f', 100)}  "
            "(95 %; 50 is no difference)",
            f"  clips: {report['num_won']} won, {report['num_tied']} tied, {report['num_lost']} lost; "
            f"{report['num_not_asked']} of them equal or empty, not asked; {report['num_failed']} failed, left out",
        ]
        if bias:
            lines.append(
                f"  position: shown first gets {100 * bias['first_share']:.1f} % of the answers; first preferred in "
                f"both orders in {100 * bias['first_in_both']:.1f} % of {bias['num_clips']} clips, second in "
                f"{100 * bias['second_in_both']:.1f} %"
            )
        if any(report["only_in"].values()):
            lines.append(
                f"  left out: {report['only_in']['a']} clips only in the first run, "
                f"{report['only_in']['b']} only in the second"
            )
        blocks.append("\n".join(lines))
    return "\n".join([*blocks, *_last_lines(reports)])


def _last_lines(reports: list[dict]) -> list[str]:
    lines = []
    for report in reports:
        if report["num_failed"]:
            clip, why = next(iter(report["why_failed"].items()))
            lines.append(f"failed in {report['file']}: {report['num_failed']} clips, such as {clip}: {why}")
    for name, origin in (("this_run", "asked now"), ("from_cache", "from disk")):
        tokens = [report["tokens"][name] for report in reports]
        count = {key: sum(part[key] for part in tokens) for key in tokens[0]}
        cost = [report["cost"][name] for report in reports if report["cost"]]
        lines.append(
            f"{origin}: {count['num_answers']} answers, {count['prompt_tokens']:,} prompt and "
            f"{count['completion_tokens']:,} completion tokens"
            + (f" ({count['num_unmetered']} answers told none)" if count["num_unmetered"] else "")
            + (f", cost {sum(cost):.4f}" if cost else "")
        )
    return lines + [f"results in {report['file']}" for report in reports]
