"""Toy commentaries: the words that tell a toy clip's events, each at the time at which it is said.

An event's words are spread over it, from its beginning to half a second before its end, so that every word is over
before the event is, for systems that listen to a turn's end (StreamingVLM) and to its last frame (LiveCC) alike.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.toy.clips import clips_of
from swwatch.toy.world import SPLITS, SceneEvent

SILENCE_S = 0.5  # at the end of an event


def transcript(events: list[SceneEvent]) -> list[list]:
    """Rows of [start, end, word], seconds, in order; of events at the same time one is told after the other."""
    spans: dict[tuple[float, float], list[str]] = {}
    for event in events:
        spans.setdefault((event.start_s, event.end_s), []).extend(event.words().split())
    rows = []
    for (start_s, end_s), words in spans.items():
        each_s = (end_s - SILENCE_S - start_s) / len(words)
        times = [round(start_s + i * each_s, 3) for i in range(len(words) + 1)]
        rows += [list(row) for row in zip(times[:-1], times[1:], words, strict=True)]
    return rows


def write_transcripts(root: Path) -> dict[Path, int]:
    """Write transcripts_train.jsonl and transcripts_test.jsonl beside the clips of `swwatch toy data`.

    Args:
        root: of the toy data, in json form.
    Returns:
        How many clips each file tells.
    Raises:
        UserError: there are no such clips.
    """
    counts = {}
    for split in SPLITS:
        lines = list(_lines(root, split))
        if lines:
            out = root / f"transcripts_{split}.jsonl"
            write_atomic(out, lines)
            counts[out] = len(lines)
    if not counts:
        raise UserError(f"{root} holds no toy clips: make some with `swwatch toy data {root} --clips 100`")
    return counts


def _lines(root: Path, split: str) -> Iterator[str]:
    for record, video in clips_of(root, split):
        row = {
            "video": video,
            "title": "Moving shapes",
            "duration": record["video_duration_in_s"],
            "content": transcript([SceneEvent(**event) for event in record["events"]]),
        }
        yield json.dumps(row) + "\n"
