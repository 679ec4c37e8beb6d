"""Summaries as Markdown."""

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
    key, name = FIGURES[task]
    first, of_b = reports[0], f" {name} of B |" if task == "livesports-cc" else ""  # ties are losses: the rest is ties
    lines = [
        f"# {first['a']}: {task}",
        "",
        f"{RULES[task]} Judge: {first['model']} at {first['endpoint']}, by {first['criterion']}. The values "
        "depend on the judge and on its prompt: they do not compare across papers, nor with another judge.",
        "",
        f"| A | B | {name} of A | 95 % interval |{of_b} compared | A silent | B silent | failed | "
        "shown first preferred |",
        "|---" * (10 if of_b else 9) + "|",
    ]
    for report in reports:
        rate_of_b = f" {percent(report['win_rate_of_b'])} |" if of_b else ""
        interval = "-" if report["ci95"] is None else " to ".join(percent(value) for value in report["ci95"])
        lines.append(
            f"| {report['a']} | {report['b']} | {percent(report[key])} | {interval} |{rate_of_b} "
            f"{report['num_judged']} | {report['num_silent']['A']} | {report['num_silent']['B']} | "
            f"{report['num_failed']} | {percent(report['first_share'])} |"
        )
    lines += ["", "Silent texts, missing ones among them, lose without being shown. Intervals: bootstrap over videos."]
    if task == "inf-streams":
        lines += ["", f"| video | B | segments | votes A | votes B | {name} of A |", "|---|---|---|---|---|---|"]
        for report in reports:
            for video, part in report["per_video"].items():
                votes = part["votes"]
                lines.append(
                    f"| {video} | {report['b']} | {part['num_pairs']} | {votes['A']} | {votes['B']} | "
                    f"{percent(part[key])} |"
                )
    return "\n".join(lines) + "\n"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
