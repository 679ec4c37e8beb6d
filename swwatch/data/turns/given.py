"""Words that are given to a stream in place of those that it says: of a file, or of a training sample."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from swwatch.data.annotations import decode_line, no_file
from swwatch.data.turns.samples import Line
from swwatch.data.turns.transcript import TOLERANCE_S, Transcript
from swwatch.errors import UserError
from swwatch.rules.schedule import FPS
from swwatch.rules.systems import ELLIPSIS, System

TIME = re.compile(r"Time=(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)s")  # as rules.systems.LABEL writes it
FORMS = (
    'lines of {"start", "end", "text"}, as --jsonl writes them, a line of {"video", "content": [[start, end, word], '
    '...]}, or one of {"Time=0.0-1.0s": {"phrase"}, ...}'
)


@dataclass(frozen=True)
class Given:
    """What stands in a stream; a TurnSession's `given`.

    Attributes:
        words: (when they have been said, words), by time, in seconds as the labels of turns count.
        until_s: turns that end after it and for which there are no words keep what was said.
    """

    words: tuple[tuple[float, str], ...]
    until_s: float

    def __call__(self, start_s: float, end_s: float) -> str | None:
        """The words of a turn; "" is silence."""
        first, last = (bisect_right(self.words, at_s + TOLERANCE_S, key=itemgetter(0)) for at_s in (start_s, end_s))
        said = [text for _, text in self.words[first:last]]
        return None if not said and end_s > self.until_s + TOLERANCE_S else " ".join(said)

    @classmethod
    def of_script(cls, lines: Sequence[Line]) -> "Given":
        """The words of a training sample."""
        return cls(tuple((line.end_s, line.words) for line in lines if line.words), lines[-1].end_s)

    @classmethod
    def read(cls, path: Path, video: Path, system: System, fps: float = FPS, zero_s: float = 0.0) -> "Given":
        """The words of a file in one of FORMS.

        Args:
            video: which of several videos in the file is meant, by its name.
            fps: frames a second that are watched.
            zero_s: second of the video at which labels of turns count 0.
        Raises:
            UserError: another form, several videos of which none or more than one has this name, or no words.
        """
        rows = list(_rows(path))
        if rows and all(isinstance(row, dict) and row.keys() >= {"start", "end", "text"} for row in rows):
            if no_text := [row for row in rows if not isinstance(row["text"], str)]:
                raise UserError(f"{path}: {no_text[0]} has no text: words, or '' for silence, are wanted")
            turns = [[row["start"], row["end"], row["text"].removesuffix(ELLIPSIS)] for row in rows]
            words, early_s = Transcript.read(turns, str(path)).words, 0.0
            until_s = max(float(end) for _, end, _ in turns)
        else:
            row = _about(rows, video, path)
            early_s = system.words_early / fps if "content" in row else 0.0
            words = Transcript.read(row["content"] if "content" in row else _labelled(row, path), str(path)).words
            until_s = words[-1].end_s + early_s if words else 0.0
        if not words:
            raise UserError(f"{path} has no words to say")
        return cls(tuple((word.end_s + early_s - zero_s, word.text) for word in words), until_s - zero_s)


def _rows(path: Path) -> Iterable:
    if not path.is_file():
        raise no_file(path)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            if line.strip():
                yield decode_line(line)
        except UserError as error:
            raise UserError(f"{path}, line {number}: {error}") from None


def _about(rows: list, video: Path, path: Path) -> dict:
    """The one row that is meant."""
    if not all(isinstance(row, dict) and isinstance(row.get("content", []), list) for row in rows) or not rows:
        raise UserError(f"{path}: {FORMS} are wanted")
    if len(rows) == 1:
        return rows[0]
    named = [row for row in rows if Path(str(row.get("video"))).name == video.name]
    if len(named) != 1:
        raise UserError(f"{path}: {len(named)} of its {len(rows)} lines are about {video.name}; one is wanted")
    return named[0]


def _labelled(row: dict, path: Path) -> list:
    """Words of turns that are named by their labels, as StreamingVLM's public program reads them."""
    turns = []
    for label, said in row.items():
        time = TIME.fullmatch(label)
        if time is None or not isinstance(said, dict) or not isinstance(said.get("phrase"), str):
            raise UserError(f"{path}: {FORMS} are wanted, not {label!r}")
        turns.append([*time.groups(), said["phrase"].removesuffix(ELLIPSIS)])
    return turns
