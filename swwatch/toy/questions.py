"""What is asked of a toy clip, and the answer: multiple choice, about nothing after the moment of asking.

Which kinds a world is asked is in its row of toy.world; each kind once a clip. Files are in StreamingBench's form:
what is shown is [0, time_stamp).
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.toy.clips import NAME
from swwatch.toy.world import COLORS, DIRECTIONS, SCENES, SHAPES, SPLITS, Event

LETTERS = "ABCDE"
COUNTS = ("0", "1", "2", "3", "4 or more")


@dataclass(frozen=True)
class Question:
    """Asked at `at_s` seconds, of kind `kind`; `answer` is one of `options`."""

    at_s: float
    kind: str
    text: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Kind:
    """What is asked.

    Attributes:
        text: of the question; {} is a colour that is drawn.
        answer: (events that are over, that colour) -> the answer, from what has been seen.
        least: events that must be over.
        at_end: asked when the newest of them has just ended; else just before the next one begins.
    """

    text: str
    options: tuple[str, ...]
    answer: Callable[[Sequence[Event], str], str]
    least: int = 1
    at_end: bool = True


def _how_many(seen: Sequence[Event], color: str) -> str:
    return COUNTS[min(sum(event.color == color for event in seen), len(COUNTS) - 1)]


KINDS = {
    "colour now": Kind("What colour is it now?", tuple(COLORS), lambda seen, _: seen[-1].color),
    "shape now": Kind("What shape is it now?", SHAPES, lambda seen, _: seen[-1].shape),
    "way now": Kind("Which way is it moving now?", tuple(DIRECTIONS), lambda seen, _: seen[-1].direction),
    "last colour": Kind("What colour was shown last?", tuple(COLORS), lambda seen, _: seen[-1].color, at_end=False),
    "first colour": Kind("What colour was shown first?", tuple(COLORS), lambda seen, _: seen[0].color),
    "third colour": Kind("What colour was shown third?", tuple(COLORS), lambda seen, _: seen[2].color, least=3),
    "how many": Kind("How many were {}?", COUNTS, _how_many),
}


def ask(events: Sequence[Event], kinds: Sequence[str], seed: int) -> list[Question]:
    """One question of each kind for which enough happens, in the order of time.

    Args:
        events: of one clip, in order, with their times, in whole seconds.
        seed: decides when each is asked, and about which colour.
    """
    rng, asked = np.random.default_rng(seed), []
    for name in kinds:
        kind, color = KINDS[name], str(rng.choice(list(COLORS)))
        most = len(events) - (not kind.at_end)  # else there is no next one
        if most < kind.least:
            continue
        seen = events[: int(rng.integers(kind.least, most + 1))]
        at_s = seen[-1].end_s if kind.at_end else events[len(seen)].start_s
        asked.append(Question(at_s, name, kind.text.format(color), kind.options, kind.answer(seen, color)))
    return sorted(asked, key=lambda question: question.at_s)


def questions_of(record: dict) -> list[Question]:
    """What a record of the toy world is asked: the same each time; nothing where its level is no world."""
    events = [Event(**values) for values in record["events"]]
    return ask(events, SCENES[record["level"]].asks, zlib.crc32(record["video_id"].encode()))


def write_questions(root: Path) -> dict[Path, int]:
    """Write questions_train.json and questions_test.json beside the clips of `swwatch toy data`.

    Args:
        root: of the toy data, in json form.
    Returns:
        How many questions each file holds.
    Raises:
        UserError: there are no such clips, or no questions about their level.
    """
    made = {}
    for split in SPLITS:
        rows = []
        for path in sorted((root / NAME / split).glob("*.json")):
            asked = questions_of(json.loads(path.read_text(encoding="utf-8")))
            rows.append(
                {"video_path": f"./{NAME}/videos/{split}/{path.stem}.mp4", "questions": list(map(_row, asked))}
            )
        if count := sum(len(row["questions"]) for row in rows):
            out = root / f"questions_{split}.json"
            write_atomic(out, [json.dumps(rows, indent=1) + "\n"])
            made[out] = count
    if not made:
        worlds = ", ".join(name for name, level in SCENES.items() if level.asks)
        raise UserError(f"{root} holds no clips to ask about: `swwatch toy data {root} --level ...`, one of {worlds}")
    return made


def _row(question: Question) -> dict:
    minutes, seconds = divmod(round(question.at_s), 60)
    letter = LETTERS[question.options.index(question.answer)]
    options = [f"{mark}. {option}" for mark, option in zip(LETTERS, question.options, strict=False)]
    return {
        "task_type": question.kind,
        "question": question.text,
        "time_stamp": f"00:{minutes:02}:{seconds:02}",
        "answer": letter,
        "options": options,
    }
