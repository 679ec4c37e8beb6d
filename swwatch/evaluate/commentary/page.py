"""Summaries as Markdown."""

from swwatch.metrics.tables import as_markdown, interval

FIGURES = {"inf-streams": ("win_share", "win share"), "livesports-cc": ("win_rate", "win rate")}
RULES = {
    "inf-streams": "Win share: votes for A / all votes, each segment judged in both orders.",
    "livesports-cc": "Win rate: wins of A / (2 x events), each event judged in both orders; ties count as losses.",
}


def markdown(task: str, reports: list[dict]) -> str:
    """A row an opponent, then one a video, with what the figures rest on.

    Args:
        reports: of match.summarize, with the names of the runs and the judge.
    """
    (key, name), first = FIGURES[task], reports[0]
    has_ties = task == "livesports-cc"  # ties are losses of both: the rest is ties
    heads = ["A", "B", f"{name} of A", "95 % interval", *[f"{name} of B"] * has_ties, "compared"]
    lines = [[*heads, "A silent", "B silent", "failed", "shown first preferred"]]
    for report in reports:
        rate_of_b = [percent(report["win_rate_of_b"])] if has_ties else []
        counts = (report["num_judged"], *(report["num_silent"][side] for side in "AB"), report["num_failed"])
        shares = [percent(report[key]), interval(report["ci95"], times=100), *rate_of_b]
        lines.append([report["a"], report["b"], *shares, *map(str, counts), percent(report["first_share"])])
    parts = [
        f"# {first['a']}: {task}",
        f"{RULES[task]} Judge: {first['model']} at {first['endpoint']}, by {first['criterion']}. The values "
        "depend on the judge and on its prompt: they do not compare across papers, nor with another judge.",
        as_markdown(lines, num_names=2),
        "Silent texts, missing ones among them, lose without being shown. Intervals, in percent: bootstrap over "
        "videos.",
    ]
    if task == "inf-streams":
        videos = [["video", "B", "segments", "votes A", "votes B", f"{name} of A"]]
        for report in reports:
            for video, part in report["per_video"].items():
                counts = (part["num_pairs"], part["votes"]["A"], part["votes"]["B"])
                videos.append([video, report["b"], *map(str, counts), percent(part[key])])
        parts.append(as_markdown(videos, num_names=2))
    return "\n\n".join(parts) + "\n"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
