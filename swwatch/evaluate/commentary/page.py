"""Summaries as Markdown."""

from collections.abc import Mapping, Sequence

from swwatch.evaluate.commentary.tasks import RATE, SHARE, CommentaryTask
from swwatch.evaluate.provenance import side_by_side
from swwatch.metrics.tables import as_markdown, interval

FIGURES = {SHARE: "win_share", RATE: "win_rate"}
RULES = {
    SHARE: "Win share: votes for A / all votes, each segment judged in both orders.",
    RATE: "Win rate: wins of A / (2 x events), each event judged in both orders; ties count as losses.",
}


def markdown(task: CommentaryTask, reports: list[dict], provenance: Sequence[Mapping]) -> str:
    """A row an opponent, then one a video, with what the figures rest on, and how each run was made.

    Args:
        reports: of match.summarize, with the names of the runs and the judge.
        provenance: how A and each of these opponents were made, and what was measured of them.
    """
    name, first = task.average, reports[0]
    key, has_ties = FIGURES[name], task.has_ties  # ties are losses of both: the rest is ties
    heads = ["A", "B", f"{name} of A", "95 % interval", *[f"{name} of B"] * has_ties, "compared"]
    lines = [[*heads, "A silent", "B silent", "failed", "shown first preferred"]]
    for report in reports:
        rate_of_b = [percent(report["win_rate_of_b"])] if has_ties else []
        counts = (report["num_judged"], *(report["num_silent"][side] for side in "AB"), report["num_failed"])
        shares = [percent(report[key]), interval(report["ci95"], times=100), *rate_of_b]
        lines.append([report["a"], report["b"], *shares, *map(str, counts), percent(report["first_share"])])
    parts = [
        f"# {first['a']}: {task.name}",
        f"{RULES[name]} Judge: {first['model']} at {first['endpoint']}, by {first['criterion']}. The values "
        "depend on the judge and on its prompt: they do not compare across papers, nor with another judge.",
        as_markdown(lines, num_names=2),
        "Silent texts, missing ones among them, lose without being shown. Intervals, in percent: bootstrap over "
        "videos.",
    ]
    if task.of_games:
        videos = [["video", "B", "segments", "votes A", "votes B", f"{name} of A"]]
        for report in reports:
            for video, part in report["per_video"].items():
                counts = (part["num_pairs"], part["votes"]["A"], part["votes"]["B"])
                videos.append([video, report["b"], *map(str, counts), percent(part[key])])
        parts.append(as_markdown(videos, num_names=2))
    against = {
        f"{name} against {report['b']}": {"accuracy": report[key], "ci95": report["ci95"]}
        for report in reports
        if report[key] is not None
    }
    runs = [{**one, "averages": {} if i else against} for i, one in enumerate(provenance)]
    parts.append(side_by_side(runs))
    return "\n\n".join(parts) + "\n"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"
