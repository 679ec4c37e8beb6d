"""What is asked of a toy clip, and the answer: multiple choice, about nothing after the moment of asking.

Which kinds a world is asked is in its row of toy.levels. For each split these files:
    questions_SPLIT.json    for `swwatch quiz`, in StreamingBench's form: what is shown is [0, time_stamp)
    chat_SPLIT.jsonl        to train on: ordinary chat about whole clips, question after question, and the caption
    asked_SPLIT.jsonl       to train on: short streams in chat turns that are silent but for answers
    noted_SPLIT.jsonl       the same with notes of what happened, segment by segment, for chat systems that think
    watched_SPLIT.jsonl     the same for narrations: streams of whole clips that are silent but for answers, with notes
    timed_SPLIT.jsonl       nothing is asked: what happens is told as soon as it is over, for who decides when to speak
All but the first ask without options, and are answered in a word.
"""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.toy.clips import clips_of
from swwatch.toy.levels import SCENES, SEGMENT_S
from swwatch.toy.world import COLORS, DIRECTIONS, SHAPES, SPLITS, SceneEvent

LETTERS = "ABCDE"
STREAM_S = 24  # of a stream to train on: what happens later is left to those that are tested
DESCRIBE = "What is shown in this video?"
WATCH, SILENCE = "Watch, and answer.", "."  # what a narration is asked that waits for questions, and says till then
COUNTS = ("0", "1", "2", "3", "4 or more")


@dataclass(frozen=True)
class Question:
    """Asked at `at_s` seconds, of kind `kind`; `answer` is one of `options`, and follows from what was over at
    `since_s` or later: who remembers less may not know."""

    at_s: float
    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    since_s: float = 0.0

    @property
    def word(self) -> str:
        """The answer in a word, without options."""
        return self.answer.split()[0]


@dataclass(frozen=True)
class QuestionKind:
    """What is asked.

    Attributes:
        text: of the question; {} is a colour that is drawn.
        answer: (events that are over, that colour) -> the answer, from what has been seen.
        least: events that must be over.
        at_end: asked when the newest of them has just ended; else just before the next one begins.
    """

    text: str
    options: tuple[str, ...]
    answer: Callable[[Sequence[SceneEvent], str], str]
    least: int = 1
    at_end: bool = True


def _how_many(seen: Sequence[SceneEvent], color: str) -> str:
    return COUNTS[min(sum(event.color == color for event in seen), len(COUNTS) - 1)]


KINDS = {
    "colour now": QuestionKind("What colour is it now?", tuple(COLORS), lambda seen, _: seen[-1].color),
    "shape now": QuestionKind("What shape is it now?", SHAPES, lambda seen, _: seen[-1].shape),
    "way now": QuestionKind("Which way is it moving now?", tuple(DIRECTIONS), lambda seen, _: seen[-1].direction),
    "last colour": QuestionKind(
        "What colour was shown last?", tuple(COLORS), lambda seen, _: seen[-1].color, at_end=False
    ),
    "first colour": QuestionKind("What colour was shown first?", tuple(COLORS), lambda seen, _: seen[0].color),
    "third colour": QuestionKind(
        "What colour was shown third?", tuple(COLORS), lambda seen, _: seen[2].color, least=3
    ),
    "how many": QuestionKind("How many were {}?", COUNTS, _how_many),
}


def ask(events: Sequence[SceneEvent], kinds: Sequence[str], seed: int) -> list[Question]:
    """One question of each kind for which enough happens, in the order of time.

    Args:
        events: of one clip, in order, with their times, in whole seconds.
        seed: decides when each is asked, and about which colour.
    """
    rng, questions = np.random.default_rng(seed), []
    for name in kinds:
        kind, color = KINDS[name], str(rng.choice(list(COLORS)))
        most = len(events) - (not kind.at_end)  # else there is no next one
        if most < kind.least:
            continue
        seen = events[: int(rng.integers(kind.least, most + 1))]
        at_s = seen[-1].end_s if kind.at_end else events[len(seen)].start_s
        answer = kind.answer(seen, color)
        questions.append(
            Question(at_s, name, kind.text.format(color), kind.options, answer, _since(kind, seen, color))
        )
    return sorted(questions, key=lambda question: question.at_s)


def _since(kind: QuestionKind, seen: Sequence[SceneEvent], color: str) -> float:
    """When the latest event was over that one must remember, with all after it, to answer right."""
    enough = range(len(seen) - kind.least + 1)
    known = takewhile(lambda first: kind.answer(seen[first:], color) == kind.answer(seen, color), enough)
    return seen[max(known)].end_s


def questions_of(record: dict, until_s: float = math.inf, rounds: int = 1) -> list[Question]:
    """What a record of the toy world is asked: the same each time; nothing where its level is no world.

    Args:
        until_s: nothing that ends later is asked about, or counts.
        rounds: how often each kind is asked, at other times.
    """
    events = [SceneEvent(**values) for values in record["events"] if values["end_s"] <= until_s]
    kinds, seed = SCENES[record["level"]].asks, zlib.crc32(record["video_id"].encode())
    questions = [question for number in range(rounds) for question in ask(events, kinds, seed + number)]
    return sorted(questions, key=lambda question: question.at_s)


def at_the_end(record: dict) -> list[Question]:
    """Everything that the clip of a record can be asked when it is over, in an order that is drawn by its id; what is
    asked about a colour is asked about two."""
    events = [SceneEvent(**values) for values in record["events"]]
    rng, questions = np.random.default_rng(zlib.crc32(record["video_id"].encode())), []
    for name in SCENES[record["level"]].asks:
        kind = KINDS[name]
        if kind.at_end and len(events) >= kind.least:
            for color in rng.choice(list(COLORS), 1 + ("{}" in kind.text), replace=False).tolist():
                text, answer = kind.text.format(color), kind.answer(events, color)
                questions.append(Question(events[-1].end_s, name, text, kind.options, answer))
    return [questions[place] for place in rng.permutation(len(questions))]


def write_questions(root: Path) -> dict[Path, int]:
    """Write the files beside the clips of `swwatch toy data`.

    Args:
        root: of the toy data, in json form.
    Returns:
        How many clips each file is about.
    Raises:
        UserError: there are no such clips, or no questions about their level.
    """
    counts = {}
    for split in SPLITS:
        pairs = list(clips_of(root, split))
        if not any(questions_of(record) for record, _ in pairs):
            continue
        rows = [{"video_path": f"./{video}", "questions": list(map(_row, questions_of(r)))} for r, video in pairs]
        files = {
            f"questions_{split}.json": [json.dumps(rows, indent=1) + "\n"],
            f"chat_{split}.jsonl": [json.dumps(_chat(*pair)) + "\n" for pair in pairs],
            f"asked_{split}.jsonl": [json.dumps(_stream(*pair)) + "\n" for pair in pairs],
            f"noted_{split}.jsonl": [json.dumps(_stream(*pair, notes=True)) + "\n" for pair in pairs],
            f"watched_{split}.jsonl": [json.dumps(_watched(*pair)) + "\n" for pair in pairs],
            f"timed_{split}.jsonl": [json.dumps(_timed(*pair)) + "\n" for pair in pairs],
        }
        for name, lines in files.items():
            write_atomic(root / name, lines)
            counts[root / name] = len(pairs)
    if not counts:
        worlds = ", ".join(name for name, level in SCENES.items() if level.asks)
        raise UserError(f"{root} holds no clips to ask about: `swwatch toy data {root} --level ...`, one of {worlds}")
    return counts


def _row(question: Question) -> dict:
    minutes, seconds = divmod(round(question.at_s), 60)
    row = {"task_type": question.kind, "question": question.text, "time_stamp": f"00:{minutes:02}:{seconds:02}"}
    row["answer"] = LETTERS[question.options.index(question.answer)]
    row["options"] = [f"{mark}. {option}" for mark, option in zip(LETTERS, question.options, strict=False)]
    return row


def _chat(record: dict, video: str) -> list[dict]:
    pairs = [(question.text, question.word) for question in at_the_end(record)]
    pairs.insert(zlib.crc32(video.encode()) % (len(pairs) + 1), (DESCRIBE, record["human_caption"]))
    messages = []
    for text, answer in pairs:
        messages.append({"role": "user", "content": [{"type": "text", "text": text}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    messages[0]["content"].insert(0, {"type": "video", "video": video})
    return messages


def _asked_rows(record: dict, video: str, until_s: float = math.inf) -> list[list]:
    """[start, end, question, answer], twice about each kind, but once a second."""
    events = [SceneEvent(**values) for values in record["events"] if values["end_s"] <= until_s]
    asks, seed = SCENES[record["level"]].asks, zlib.crc32(video.encode())
    questions = {question.at_s: question for again in range(2) for question in ask(events, asks, seed + again)}
    return [[at_s, at_s, question.text, question.word] for at_s, question in sorted(questions.items())]


def _stream(record: dict, video: str, notes: bool = False) -> list[dict]:
    """A stream of the first seconds in chat turns."""
    over = [note for note in record["thoughts"] if note["at_s"] <= STREAM_S]
    end_s = over[-1]["at_s"]
    shown = {"type": "video", "video": video, "video_start": 0.0, "video_end": end_s}
    said = {"type": "text_stream", "text_stream": [], "qa_stream": _asked_rows(record, video, STREAM_S)}
    if notes:
        said["text_stream"] = [[note["at_s"], note["at_s"], note["text"]] for note in over]
        said["ends_s"] = [*range(SEGMENT_S, math.ceil(end_s), SEGMENT_S), end_s]
    return [{"role": "user", "content": [shown]}, {"role": "assistant", "content": [said]}]


def _watched(record: dict, video: str) -> dict:
    """A narration of a whole clip that says nothing by itself, in the form of annotations."""
    fields = {"question": WATCH, "human_caption": SILENCE, "qa_stream": _asked_rows(record, video)}
    return record | fields | {"video_path": video}


def _timed(record: dict, video: str) -> dict:
    """A whole clip whose caption comes in parts, each at its time."""
    return record | {"captions": record["thoughts"], "video_path": video}
