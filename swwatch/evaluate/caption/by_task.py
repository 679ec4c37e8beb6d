"""FunQA's scores: each sub-task on its own, and their plain mean as in the paper's table."""

from collections.abc import Mapping

from swwatch.data.tasks import SUBTASKS
from swwatch.metrics.captions import measure
from swwatch.metrics.paper import format_table, our_row, paper_rows


def by_task(predictions: list[dict], per_clip: Mapping[str, Mapping[str, float]] | None = None) -> dict:
    """Scores of the sub-tasks H2 H3 C2 C3 M2 M3 and their mean.

    Each sub-task is scored as a corpus of its own (the weights of CIDEr come from its own references), then the mean
    is taken over the sub-tasks with equal weights, however many clips they have.

    Args:
        predictions: objects with video_id, annotation, result, task; other tasks, and those without a reference, are
            left out.
        per_clip: {video_id: {metric: value}} of metrics that cost too much to compute again, such as BLEURT; their
            value for a sub-task is the mean over its clips.
    Returns:
        {} where no prediction is of a sub-task, else {task: {"num_clips", "corpus": {metric: value or {"value": None,
        "why": text}}}, ..., "mean": {"num_clips", "num_tasks", "missing": [tasks], "corpus"}}. With tasks missing the
        mean is over those that are there.
    """
    per_clip = per_clip or {}
    found = {}
    for task in SUBTASKS:
        rows = [row for row in predictions if row.get("task") == task and (row.get("annotation") or "").strip()]
        if rows:
            said, meant = ({str(row["video_id"]): row[field] for row in rows} for field in ("result", "annotation"))
            corpus = measure(said, meant).corpus
            given = _means([per_clip.get(key, {}) for key in said])
            found[task] = {"num_clips": len(rows), "corpus": given | corpus}
    if not found:
        return {}
    metrics = dict.fromkeys(name for scores in found.values() for name in scores["corpus"])
    mean = {
        "num_clips": sum(scores["num_clips"] for scores in found.values()),
        "num_tasks": len(found),
        "missing": [task for task in SUBTASKS if task not in found],
        "corpus": {
            name: _mean({task: scores["corpus"].get(name) for task, scores in found.items()}) for name in metrics
        },
    }
    return found | {"mean": mean}


def _means(clips: list[Mapping[str, float]]) -> dict[str, float]:
    """Means over clips of the metrics that every clip has."""
    names = set.intersection(*(set(clip) for clip in clips))
    return {name: sum(clip[name] for clip in clips) / len(clips) for name in sorted(names)}


def _mean(values: Mapping[str, float | dict | None]) -> float | dict:
    """The mean over tasks, or why there is none: a mean of fewer tasks would pass for one of all."""
    lacking = [task for task, value in values.items() if not isinstance(value, int | float)]
    if lacking:
        value = values[lacking[0]]
        why = value["why"] if isinstance(value, dict) else "no value for every clip"
        return {"value": None, "why": f"{', '.join(lacking)}: {why}"}
    return sum(values.values()) / len(values)


def describe_tasks(name: str, scores: dict, variant: str | None) -> list[str]:
    """What `by_task` returned as text: the sub-tasks and their mean beside the paper's, and what to know."""
    mean, tasks = scores["mean"], [task for task in SUBTASKS if task in scores]
    rows = [our_row(f"{task} ({scores[task]['num_clips']} clips)", scores[task]["corpus"]) for task in tasks]
    rows.append(our_row(f"{name}, here, mean of {mean['num_tasks']}", mean["corpus"]))
    lines = ["FunQA's sub-tasks, each scored on its own:"]
    lines.append(format_table([*rows, *(paper_rows(variant, "funqa") if variant else [])]))
    if variant:
        lines.append("The paper's row is Qwen2.5-VL 3B trained and tested on FunQA: no yardstick for other data.")
    if mean["missing"]:
        lines.append(f"The mean lacks {', '.join(mean['missing'])}: it is not the paper's mean of six.")
    return lines
