"""Accuracies of a quiz, with what guessing would give, as an object and as a Markdown table."""

from collections.abc import Iterable, Mapping

import numpy as np

from swwatch.errors import UserError
from swwatch.evaluate.quiz.tasks import Task
from swwatch.metrics.significance import Statistic, interval
from swwatch.metrics.tables import as_markdown
from swwatch.metrics.tables import interval as span

Rows = list[Mapping]


def summarize(rows: Rows, task: Task, num_items: int, num_skipped: int) -> dict:
    """Accuracies of predictions.

    Intervals are bootstrapped over videos: questions about one video rise and fall together. One video alone tells
    nothing about others, so `ci95` is None there.

    Returns:
        accuracy, ci95, guessing (all chosen by chance, averaged in the same way), mean (how groups are averaged),
        num_questions, num_answered, num_skipped, num_videos; groups, modes and tags: name -> accuracy, ci95,
        guessing, num_questions.
    Raises:
        UserError: no predictions.
    """
    if not rows:
        raise UserError("there is no answer to count")
    groups = list(dict.fromkeys(row["group"] for row in rows))
    modes = [(name, [group for group in parts if group in groups]) for name, parts in task.modes]
    modes = [(name, parts) for name, parts in modes if parts]
    tree = {"questions": [[groups]], "groups": [[[group] for group in groups]]}
    tree["modes"] = [[[group] for group in parts] for _, parts in modes]
    tags = list(dict.fromkeys(tag for row in rows for tag in row.get("tags", ())))
    return {
        "task": task.name,
        **_score(rows, tree[task.mean]),
        "mean": task.mean,
        "num_items": num_items,
        "num_skipped": num_skipped,
        "num_videos": len({row["video"] for row in rows}),
        "modes": {name: _score(rows, [[[group] for group in parts]]) for name, parts in modes},
        "groups": {group: _score(rows, [[[group]]]) for group in groups},
        "tags": {tag: _score([row for row in rows if tag in row["tags"]], [[groups]]) for tag in tags},
    }


def _score(rows: Rows, tree: list[list[list[str]]]) -> dict:
    """The accuracy of a tree of groups: the mean over its branches of the mean over their leaves of the share of
    right answers among all questions of a leaf's groups."""
    inside = {group for branch in tree for leaf in branch for group in leaf}
    rows = [row for row in rows if row["group"] in inside]
    right = accuracy(rows, [float(row["correct"]) for row in rows], tree)
    chance = [float(row["answer"] in row["choices"]) / len(row["choices"]) for row in rows]
    return {
        "accuracy": right.value,
        "ci95": interval(right) if len(right.per_clip) > 1 else None,
        "guessing": accuracy(rows, chance, tree).value,
        "num_questions": len(rows),
    }


def accuracy(rows: Rows, points: Iterable[float], tree: list[list[list[str]]]) -> Statistic:
    """The mean of points over a tree of groups (see _score), to be resampled over videos.

    Resampled sets in which a leaf has no question at all average over the others.
    """
    leaves = [leaf for branch in tree for leaf in branch]
    leaf_of = {group: i for i, leaf in enumerate(leaves) for group in leaf}
    videos = {video: i for i, video in enumerate(dict.fromkeys(row["video"] for row in rows))}
    sums = np.zeros((len(videos), 2 * len(leaves)))
    for row, point in zip(rows, points, strict=True):
        place, leaf = videos[row["video"]], leaf_of[row["group"]]
        sums[place, leaf] += point
        sums[place, len(leaves) + leaf] += 1
    ends = np.cumsum([len(branch) for branch in tree])

    def finish(sums: np.ndarray, num_videos: int) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = sums[..., : len(leaves)] / sums[..., len(leaves) :]
        branches = [_mean(part) for part in np.split(shares, ends[:-1], axis=-1)]
        return _mean(np.stack(branches, axis=-1))

    return Statistic(sums, finish)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the last axis, leaving out what is no number; nan where nothing is left."""
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)


MEANS = {
    "questions": "all questions count the same",
    "groups": "mean of the groups",
    "modes": "mean of the modes, each the mean of its groups",
}


def describe(report: Mapping) -> str:
    """The report as a Markdown table, percent."""
    title = f"# {report['task']}" + (f", {report['how']}" if report.get("how") else "")
    lines = [("", "accuracy", "95 %", "guessing", "questions"), _line("**all**", report)]
    lines += [_line(f"*{name}*", row) for name, row in report["modes"].items()]
    lines += [_line(name, row) for kind in ("groups", "tags") for name, row in report[kind].items()]
    told = f"{report['num_questions']} of {report['num_items']} questions about {report['num_videos']} videos answered"
    skipped = f", {report['num_skipped']} skipped" if report["num_skipped"] else ""
    note = f"{told}{skipped}. **all**: {MEANS[report['mean']]}. Intervals: bootstrap over videos."
    return "\n\n".join([title, as_markdown(lines), note]) + "\n"


def _line(name: str, row: Mapping) -> tuple[str, ...]:
    shares = [f"{100 * row[key]:.1f}" for key in ("accuracy", "guessing")]
    return name, shares[0], span(row["ci95"], ".1f", 100), shares[1], str(row["num_questions"])
