"""What a question is, whatever benchmark it comes from."""

from dataclasses import dataclass
from pathlib import Path

from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.evaluate.rows import FileRow

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Moment:
    """When something is to be said.

    Attributes:
        asked_s: from when on it counts; due_s: when it is time; last_s: what comes later is not looked at.
        every_s: so often a model that is asked is asked whether it is time.
        tolerance_s: so much earlier or later is in time.
        word: the word that says that it is time, or the count that is reached then.
        then: what is asked once it is time; "": nothing.
        instruction: what a model that speaks by itself is told.
        output: what the words must hold; "": anything. Where there is one, any word of a model that speaks by itself
            says that it is time.
    """

    asked_s: float
    due_s: float
    last_s: float
    every_s: float = 1.0
    tolerance_s: float = 2.0
    word: str = "yes"
    then: str = ""
    instruction: str = ""
    output: str = ""


@dataclass(frozen=True)
class Round:
    """A question of a dialogue, what is the right answer, and where what is shown for it ends."""

    question: str
    answer: str
    end_s: float


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
        moment: of a question that is about when; `end_s` is then the last moment that is looked at.
        rounds: of a dialogue, whose questions have no choices; `end_s` is then that of the last one.
        own_history: questions are asked with the replies that were given before, and not with the true answers.
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
    moment: Moment | None = None
    rounds: tuple[Round, ...] = ()
    own_history: bool = False

    def __post_init__(self):
        if self.rounds and any(not 0 < one.end_s <= self.end_s for one in self.rounds):
            raise UserError(f"the dialogue {self.key} has a question behind its end or before its beginning")
        if self.rounds:
            return
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise UserError(f"the question {self.key} needs two different choices at least, not {self.choices}")
        if self.start_s < 0 or (self.end_s is not None and self.end_s <= 0):
            raise UserError(f"the question {self.key} is about the seconds {self.start_s} to {self.end_s}")

    @property
    def is_ordered(self) -> bool:
        """Whether its moment is asked about before it comes; a public file may hold one that is not."""
        when = self.moment
        return when is None or 0 <= when.asked_s <= when.due_s <= when.last_s

    def locate(self, root: Path) -> Path:
        """The file or folder of the video, below the folder of all videos.

        Raises:
            UserError: its moment cannot be asked about.
            VideoError: there is none.
        """
        if not self.is_ordered:
            when = self.moment
            times = f"asked at {when.asked_s:g}, true at {when.due_s:g}, over at {when.last_s:g} s"
            raise UserError(f"the moment {self.key} is {times}: these must follow one another")
        for place in self.places:
            path = root / place
            if path.is_dir() if self.frames_per_second else path.is_file():
                return path
        kind = "folder" if self.frames_per_second else "file"
        raise VideoError(root / self.places[0], f"there is no such {kind}")


def lettered(options: list[str]) -> list[str]:
    """Options with their letters; those that carry them already stay as they are."""
    marks = [f"{letter}." for letter in LETTERS[: len(options)]]
    if len(options) == len(marks) and all(map(str.startswith, options, marks)):
        return options
    return [f"{mark} {option}" for mark, option in zip(marks, options, strict=True)]


def letters_of(row: FileRow, options: list[str]) -> tuple[str, ...]:
    if not 2 <= len(options) <= len(LETTERS):
        raise row.wrong(f"{len(options)} options: from 2 to {len(LETTERS)} can be told apart")
    return tuple(LETTERS[: len(options)])


def by_letter(row: FileRow, name: str, choices: tuple[str, ...], options: list[str]) -> str:
    """The letter of the answer, which a file may give as a letter, as "C. ..." or as the option's own words."""
    answer = row.text(name).strip()
    bare = [
        option.split(".", 1)[1].strip() if option.startswith(f"{letter}.") else option
        for letter, option in zip(choices, options, strict=True)
    ]
    same = [letter for letter, option, own in zip(choices, options, bare, strict=True) if answer in (option, own)]
    if answer.strip("().") in choices:
        return answer.strip("().")
    if same:
        return same[0]
    raise row.wrong(f"{name} {answer!r} is none of its {len(options)} options")


def by_words(row: FileRow, name: str, choices: tuple[str, ...], options: list[str]) -> str:
    """The letter of the answer where the file gives the option's own words, which may be a letter themselves."""
    answer = row.text(name).strip()
    if answer not in options:
        raise row.wrong(f"{name} {answer!r} is none of its {len(options)} options")
    return choices[options.index(answer)]


def by_index(row: FileRow, name: str, choices: tuple[str, ...], options: list[str]) -> str:
    """The choice whose number from 0 the file gives."""
    return choices[row.index(name, len(choices))]


def by_number(row: FileRow, name: str, choices: tuple[str, ...], options: list[str]) -> str:
    """A count, which is the answer itself."""
    return str(row.index(name))


ANSWERS = {"letter": by_letter, "words": by_words, "index": by_index, "number": by_number}
