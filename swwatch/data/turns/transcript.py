"""Words with times, and which second of a stream they belong to. One rule for training, chunking and scoring."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from swwatch.data.prepare.pe_video_rules import is_unicode
from swwatch.errors import UserError

TOLERANCE_S = 1e-6


class Word(NamedTuple):
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """The words of a video in order of their ends.

    Attributes:
        mended: words whose start lay behind their end, as some public files have them; the two were exchanged.
    """

    words: tuple[Word, ...]
    mended: int = 0

    @classmethod
    def read(cls, rows: Iterable, where: str = "the transcript") -> "Transcript":
        """Take in rows of [start, end, word], seconds; rows without a word are left out.

        Raises:
            UserError: a row of another form.
        """
        words, mended = [], 0
        for number, row in enumerate(rows):
            try:
                start, end, text = row
                start, end, text = float(start), float(end), " ".join(str(text).split())
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{where}, word {number}: {row!r} is not [start, end, word]") from error
            if not (0 <= start < float("inf") and 0 <= end < float("inf")):
                raise UserError(f"{where}, word {number}: {row!r} has times that are none")
            if not is_unicode(text):
                raise UserError(f"{where}, word {number}: {text!r} holds half a character")
            mended += start > end
            if text:
                words.append(Word(min(start, end), max(start, end), text))
        return cls(tuple(sorted(words, key=lambda word: word.end_s)), mended)

    def between(self, start_s: float, end_s: float) -> tuple[Word, ...]:
        """Words that end in (start_s, end_s], so that spans which follow one another share no word and lose none."""
        return tuple(word for word in self.words if start_s + TOLERANCE_S < word.end_s <= end_s + TOLERANCE_S)

    def before(self, end_s: float) -> tuple[Word, ...]:
        """Words that end by end_s."""
        return tuple(word for word in self.words if word.end_s <= end_s + TOLERANCE_S)


def text_of(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)


def by_turn(words: Sequence[Word], ends_s: Sequence[float]) -> tuple[list[tuple[Word, ...]], tuple[Word, ...]]:
    """Give every word to the first turn that ends at or after it.

    Args:
        words: in order of their ends.
        ends_s: when turns end, rising.
    Returns:
        The words of each turn, and those that end after the last one, which no turn can say.
    """
    turns, place = [], 0
    for end_s in ends_s:
        first = place
        while place < len(words) and words[place].end_s <= end_s + TOLERANCE_S:
            place += 1
        turns.append(tuple(words[first:place]))
    return turns, tuple(words[place:])
