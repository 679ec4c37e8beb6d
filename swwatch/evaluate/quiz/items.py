"""What a question is, whatever benchmark it comes from, and how rows of local files are read."""

import ast
import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swwatch.data.annotations import decode_line
from swwatch.data.video import VideoError
from swwatch.errors import UserError

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Item:
    """One question about one video.

    Attributes:
        key: names it among all of its task; stays the same from run to run.
        video: what the benchmark calls the video: questions of one video are drawn together by the bootstrap.
        places: where its file may lie, relative to the folder of the videos; the first that is there counts.
        start_s, end_s: what is shown: [start_s, end_s) of the file; end_s None: to its end.
        prompt: all that the user says behind the video.
        choices: what the model may say, as words: letters, Yes and No, or digits.
        answer: the right one. One that is not among the choices can only be missed.
        group: what accuracies are told apart by.
        tags: further groups that it counts in.
        frames_per_second: of a folder of pictures; None for a video file.
    """

    key: str
    video: str
    places: tuple[str, ...]
    prompt: str
    choices: tuple[str, ...]
    answer: str
    group: str
    tags: tuple[str, ...] = ()
    start_s: float = 0.0
    end_s: float | None = None
    frames_per_second: float | None = None

    def __post_init__(self):
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise UserError(f"the question {self.key} needs two different choices at least, not {self.choices}")
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= 0):
            raise UserError(f"the question {self.key} is about the seconds {self.start_s} to {self.end_s}")

    def locate(self, root: Path) -> Path:
        """The file or folder of the video, below the folder of all videos.

        Raises:
            VideoError: there is none.
        """
        for place in self.places:
            path = root / place
            if path.is_dir() if self.frames_per_second else path.is_file():
                return path
        kind = "folder" if self.frames_per_second else "file"
        raise VideoError(root / self.places[0], f"there is no such {kind}")


class FileRow:
    """A row of a file whose fields are checked as they are read; errors name the file and the row."""

    def __init__(self, values: Mapping, where: str):
        self.values, self.where = values, where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, *names: str) -> str:
        """The first of these fields that is there, as text."""
        for name in names:
            if name in self:
                return str(self.values[name])
        raise self.wrong(f"no {' or '.join(names)}; it has {', '.join(map(str, self.values)) or 'no field'}")

    def number(self, *names: str) -> float:
        text = self.text(*names)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.wrong(f"{names[0]} is no number: {text!r}")
        return value

    def index(self, name: str, end: int | None = None) -> int:
        """A whole number from 0 on, below `end`."""
        value = self.number(name)
        if value != int(value) or value < 0 or (end is not None and value >= end):
            raise self.wrong(
                f"{name} {self.values[name]!r} is no whole number from 0 to {'...' if end is None else end - 1}"
            )
        return int(value)

    def texts(self, *names: str) -> list[str]:
        """A list of texts, or what csv files have instead: a list written as Python writes it."""
        name = next((name for name in names if name in self), names[0])
        found = self.values.get(name)
        if isinstance(found, str) and found.lstrip().startswith("["):
            try:
                found = ast.literal_eval(found)
            except (ValueError, SyntaxError) as error:
                raise self.wrong(f"{name} is no list: {found!r}") from error
        if not isinstance(found, list | tuple) or not found:
            raise self.wrong(f"no list in {' or '.join(names)}")
        return [str(text).strip() for text in found]

    def rows(self, name: str) -> list["FileRow"]:
        found = self.values.get(name)
        if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
            raise self.wrong(f"no list of objects in {name}")
        return [FileRow(row, f"{self.where}, {name} {i}") for i, row in enumerate(found)]

    def wrong(self, problem: str) -> UserError:
        return UserError(f"{self.where}: {problem}")


def read_rows(path: Path) -> list[FileRow]:
    """The rows of a json (a list), jsonl, csv, tsv or parquet file.

    Raises:
        UserError: no such file, another kind of file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the benchmark's own annotation file by --data")
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            from pyarrow.parquet import read_table

            found = read_table(path).to_pylist()
        elif kind in (".csv", ".tsv"):
            csv.field_size_limit(1 << 26)  # a question may hold subtitles of an hour
            with path.open(newline="", encoding="utf-8-sig") as file:
                found = list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
        elif kind == ".jsonl":
            found = [decode_line(line) for line in path.read_bytes().split(b"\n") if line.strip()]
        elif kind == ".json":
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            raise ValueError("a json, jsonl, csv, tsv or parquet file is wanted")
    except (ValueError, OSError, csv.Error, UserError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise UserError(f"{path}: a list of objects is wanted")
    if not found:
        raise UserError(f"{path} holds no question")
    return [FileRow(row, f"{path}, row {number}") for number, row in enumerate(found, start=1)]


def lettered(options: list[str]) -> list[str]:
    """Options with their letters; those that carry them already stay as they are."""
    marks = [f"{letter}." for letter in LETTERS[: len(options)]]
    if len(options) == len(marks) and all(map(str.startswith, options, marks)):
        return options
    return [f"{mark} {option}" for mark, option in zip(marks, options, strict=True)]


def multiple_choice(
    row: FileRow, ask, options: list[str], *, key: str, video: str, places: tuple[str, ...], group: str, **more
) -> Item:
    """A question whose choices are the letters of its options.

    Args:
        row: it has `question`, and `answer` unless that is among `more`.
        ask: question, options -> what the user says.
        more: further fields of the Item.
    """
    if "answer" not in more:
        more["answer"] = letter_answer(row, options)
    prompt, choices = ask(row.text("question"), options), letters_of(row, options)
    return Item(key=key, video=video, places=places, group=group, prompt=prompt, choices=choices, **more)


def letters_of(row: FileRow, options: list[str]) -> tuple[str, ...]:
    if not 2 <= len(options) <= len(LETTERS):
        raise row.wrong(f"{len(options)} options: from 2 to {len(LETTERS)} can be told apart")
    return tuple(LETTERS[: len(options)])


def letter_answer(row: FileRow, options: list[str], name: str = "answer") -> str:
    """The letter of the answer, which a file may give as a letter, as "C. ..." or as the option's own words."""
    answer, letters = row.text(name).strip(), letters_of(row, options)
    bare = [
        option.split(".", 1)[1].strip() if option.startswith(f"{letter}.") else option
        for letter, option in zip(letters, options, strict=True)
    ]
    same = [letter for letter, option, own in zip(letters, options, bare, strict=True) if answer in (option, own)]
    if answer.strip("().") in letters:
        return answer.strip("().")
    if same:
        return same[0]
    raise row.wrong(f"{name} {answer!r} is none of its {len(options)} options")


def worded_answer(row: FileRow, options: list[str]) -> str:
    """The letter of the answer where the file gives the option's own words, which may be a letter themselves."""
    answer, letters = row.text("answer").strip(), letters_of(row, options)
    if answer not in options:
        raise row.wrong(f"answer {answer!r} is none of its {len(options)} options")
    return letters[options.index(answer)]


def seconds(row: FileRow, name: str) -> float:
    """A time as seconds, or written h:mm:ss or mm:ss."""
    try:
        return clock(row.text(name))
    except ValueError:
        raise row.wrong(f"{name} {row.text(name)!r} is no time") from None


def clock(text: str) -> float:
    """Seconds of a time written so. Raises: ValueError: it is none."""
    parts = text.split(":")
    value = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    if not math.isfinite(value) or value < 0 or len(parts) > 3:
        raise ValueError(f"{text!r} is no time")
    return value
