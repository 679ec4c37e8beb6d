"""Accuracies of a quiz, with what guessing would give and how they came about, as an object and as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from swwatch.errors import UserError
from swwatch.evaluate.provenance import named, side_by_side
from swwatch.evaluate.quiz.rounds import describe_moments, moments
from swwatch.evaluate.quiz.tasks import Task
from swwatch.judge.scales import TOP
from swwatch.metrics.significance import Statistic, interval
from swwatch.metrics.tables import as_markdown
from swwatch.metrics.tables import interval as span

Rows = list[Mapping]
SHOWN = {"fps": "frames a second", "nframes": "frames"}  # settings that are told where they are no default
Tree = list[list[list[str]]]


def summarize(
    rows: Rows, task: Task, num_items: int, num_skipped: int, took_s: Iterable[float] = (), judged: Mapping = {}
) -> dict:
    """Accuracies of predictions; of dialogues a judge's scales, as shares of the highest grade.

    Intervals are bootstrapped over videos: questions about one video rise and fall together. One video alone tells
    nothing about others, so `ci95` is None there.

    Args:
        took_s: of each answer.
        judged: of dialogues what `swwatch judge` wrote, if it was asked.
    Returns:
        accuracy, ci95, guessing (all chosen by chance, averaged in the same way) of the task's first average, which
        `mean` names, num_questions, num_skipped, num_videos; averages, groups, modes and tags: name -> accuracy, ci95,
        guessing (None of moments), num_questions, and of replies official, official_ci95 by the benchmark's own scorer
        (accuracy is by the strict one then); moments: see rounds; frames, tokens and seconds: means of a question,
        None where it is not known.
    Raises:
        UserError: no predictions.
    """
    if not rows:
        raise UserError("there is no answer to count")
    groups = list(dict.fromkeys(row["group"] for row in rows))
    modes = {name: [group for group in parts if group in groups] for name, parts in task.modes.items()}
    modes = {name: parts for name, parts in modes.items() if parts}
    averages = dict(_average(name, how, groups, modes) for name, how in task.averages.items())
    tags = list(dict.fromkeys(tag for row in rows for tag in row.get("tags", ())))
    counted = {
        "task": task.name,
        "num_items": num_items,
        "num_skipped": num_skipped,
        "num_videos": len({row["video"] for row in rows}),
        **{name: _mean_of(row.get(f"num_{name}") for row in rows) for name in ("frames", "tokens")},
        "seconds": _mean_of(took_s),
    }
    if not averages:
        return counted | _graded(rows, judged)
    scored = {name: _score(rows, tree) for name, tree in averages.items() if tree}
    if not scored:
        raise UserError(f"no answer is of a group of {task.name}: {', '.join(groups)}")
    first = next(iter(scored))
    return {
        **counted,
        **scored[first],
        "mean": first,
        "averages": scored,
        "modes": {name: _score(rows, [[[group] for group in parts]]) for name, parts in modes.items()},
        "groups": {group: _score(rows, [[[group]]]) for group in groups},
        "moments": moments(rows),
        "tags": {tag: _score([row for row in rows if tag in row["tags"]], [[groups]]) for tag in tags},
    }


def _mean_of(values: Iterable[float | None]) -> float | None:
    """None where one is not known, or there is none."""
    values = list(values)
    return fmean(values) if values and None not in values else None


def _graded(rows: Rows, judged: Mapping) -> dict:
    """Of dialogues: a judge's scales in the place of averages."""
    graded = {
        name: {"accuracy": scale["mean"] / TOP, "guessing": None, "num_questions": scale["num_graded"]}
        | {"ci95": scale["ci95"] and [end / TOP for end in scale["ci95"]]}
        for name, scale in judged.get("scales", {}).items()
        if scale["mean"] is not None
    }
    by = f"graded by {judged['model']}, of {TOP}" if graded else "not graded yet: swwatch judge --criterion dialogue"
    none = {name: {} for name in ("modes", "groups", "tags", "moments")}
    return {"averages": graded, "mean": by, "num_questions": len(rows), **none}


def _average(name: str, how: str | Sequence[str], groups: list[str], modes: dict[str, list[str]]) -> tuple[str, Tree]:
    """Its name, which tells what is missing of it, and what it is the mean of."""
    if how == "questions":
        return name, [[groups]]
    if how == "groups":
        return name, [[[group] for group in groups]]
    missing = [mode for mode in how if mode not in modes]
    name += f" (without {', '.join(missing)})" if missing else ""
    return name, [[[group] for group in modes[mode]] for mode in how if mode in modes]


def _score(rows: Rows, tree: Tree) -> dict:
    """The accuracy of a tree of groups: the mean over its branches of the mean over their leaves of the share of
    right answers among all questions of a leaf's groups."""
    inside = {group for branch in tree for leaf in branch for group in leaf}
    rows = [row for row in rows if row["group"] in inside]
    right = accuracy(rows, [float(row["correct"]) for row in rows], tree)
    chance = [float(row["answer"] in row["choices"]) / max(len(row["choices"]), 1) for row in rows]
    score = {
        "accuracy": right.value,
        "ci95": _interval(right),
        "guessing": accuracy(rows, chance, tree).value if all(row["choices"] for row in rows) else None,
        "num_questions": len(rows),
    }
    if all("official" in row for row in rows):
        official = accuracy(rows, [float(row["official"]) for row in rows], tree)
        score |= {"official": official.value, "official_ci95": _interval(official)}
    return score


def _interval(statistic: Statistic) -> list[float] | None:
    return interval(statistic) if len(statistic.per_clip) > 1 else None


def accuracy(rows: Rows, points: Iterable[float], tree: Tree) -> Statistic:
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


def described(facts: Mapping) -> dict[str, str]:
    """How answers were made, as cells of a table, from the facts of a run."""
    settings, about = facts.get("settings", {}), facts.get("about", {})
    context = settings.get("context_s")
    how = [settings.get("how", "")]
    how += [f"{settings[name]:g} {noun}" for name, noun in SHOWN.items() if settings.get(name)]
    how += [f"only {', '.join(settings['only'].split(','))}"] if settings.get("only") else []
    return {
        "how": ", ".join(filter(None, how)),
        "model": named(str(about.get("model", "-")), settings.get("model_fingerprint")),
        "prompt": settings.get("prompt", "-"),
        "context": "all" if context is None else f"{context:g} s",
        "policy": settings.get("keep") or settings.get("eviction") or "-",
        "commit": about.get("commit") or "-",
    }


def describe(report: Mapping) -> str:
    """The report as Markdown, percent."""
    title = f"# {report['task']}" + (f", {report['how']}" if report.get("how") else "")
    scores = ["accuracy", "95 %"] if "official" not in report else ["strict", "95 %", "official", "95 %"]
    lines = [("", *scores, "guessing", "questions")]
    lines += [_line(f"**{name}**", row) for name, row in report["averages"].items()]
    lines += [_line(f"*{name}*", row) for name, row in report["modes"].items()]
    lines += [_line(name, row) for kind in ("groups", "tags") for name, row in report[kind].items()]
    sentence = (
        f"{report['num_questions']} of {report['num_items']} questions about {report['num_videos']} videos answered"
    )
    skipped = f", {report['num_skipped']} skipped" if report["num_skipped"] else ""
    of = "Accuracy" if report["groups"] else "Dialogues"
    note = f"{sentence}{skipped}. {of}: {report['mean']}. Intervals: bootstrap over videos."
    timed = [describe_moments(report["moments"])] if report["moments"] else []
    return "\n\n".join([title, as_markdown(lines), *timed, side_by_side([report]), note]) + "\n"


def _line(name: str, row: Mapping) -> tuple[str, ...]:
    cells = [f"{100 * row['accuracy']:.1f}", span(row["ci95"], ".1f", 100)]
    if "official" in row:
        cells += [f"{100 * row['official']:.1f}", span(row["official_ci95"], ".1f", 100)]
    guessing = "-" if row["guessing"] is None else f"{100 * row['guessing']:.1f}"
    return name, *cells, guessing, str(row["num_questions"])
