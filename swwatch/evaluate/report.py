"""From predictions to numbers: the metrics file and what is printed at the end."""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.metrics.captions import caption_scores
from swwatch.metrics.table import format_table, our_row, paper_rows
from swwatch.toy.world import Event, score_caption

EVENT_FIELDS = [field.name for field in fields(Event)]


def score(predictions: list[dict], records: Iterable[dict] = ()) -> dict:
    """All scores of a set of predictions (objects with video_id, annotation, result).

    Args:
        records: the annotations; those of the toy world carry `events`, which are then scored too.
    Returns:
        num_clips, num_empty (captions without a word), scores (see caption_scores), for toy data toy_events.
    """
    said = {str(row["video_id"]): row["result"] for row in predictions}
    scores = caption_scores(said, {str(row["video_id"]): row["annotation"] for row in predictions})
    report = {
        "num_clips": len(said),
        "num_empty": sum(not text.strip() for text in said.values()),
        "scores": scores,
    }
    events = {str(record["video_id"]): _toy_events(record) for record in records}
    told = {key: (text, events[key]) for key, text in said.items() if events.get(key)}
    return report | ({"toy_events": toy_accuracy(list(told.values()))} if told else {})


def toy_accuracy(clips: list[tuple[str, list[Event]]]) -> dict:
    """Share of all events told with the right color, shape, direction (and new_color, where there are such events),
    and share of the clips with the right number of events (`count`) and in the exact grammar (`parses`)."""
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for text, events in clips:
        for name, value in score_caption(text, events).items():
            weight = 1 if name in ("count", "parses") else len(events)
            sums[name] = sums.get(name, 0) + weight * value
            weights[name] = weights.get(name, 0) + weight
    shares = {name: sums[name] / weights[name] for name in sums}
    return {"num_clips": len(clips), "num_events": sum(len(events) for _, events in clips)} | shares


def _toy_events(record: dict) -> list[Event]:
    events = record.get("events")
    if not isinstance(events, list) or not all(
        isinstance(event, dict) and {"color", "shape", "direction"} <= event.keys() for event in events
    ):
        return []  # another data set's field of the same name
    return [Event(**{name: event[name] for name in EVENT_FIELDS if name in event}) for event in events]


def write_metrics(path: Path, report: dict) -> None:
    write_atomic(path, [json.dumps(report, indent=2, ensure_ascii=False) + "\n"])


def describe(report: dict, variant: str | None, num_skipped: int) -> str:
    """The report as text: counts, our row beside the paper's, what is unavailable, toy accuracies."""
    scores, name = report["scores"], variant or "these"
    lines = [
        f"{name}: {report['num_clips']} clips scored, {num_skipped} skipped, {report['num_empty']} empty captions "
        f"(tokenizer {scores['tokenizer']}; all values times 100)",
        format_table([our_row(f"{name}, here", scores["corpus"]), *(paper_rows(variant) if variant else [])]),
    ]
    if variant:
        lines.append(
            "The paper's rows are Qwen2.5-VL 3B and 7B trained and tested on PE-Video: no yardstick for other data."
        )
    if isinstance(scores["corpus"]["METEOR"], dict):
        lines.append(f"METEOR is not available: {scores['corpus']['METEOR']['why']}")
    if report["num_clips"] == 1:
        lines.append("CIDEr of a single clip is 0 by definition.")
    if "toy_events" in report:
        toy = report["toy_events"]
        values = ", ".join(f"{k} {100 * v:.1f} %" for k, v in toy.items() if not k.startswith("num_"))
        lines.append(f"toy events told right ({toy['num_events']} in {toy['num_clips']} clips): {values}")
    return "\n".join(lines)
