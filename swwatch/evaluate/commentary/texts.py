"""From what was said turn by turn to the texts that are compared."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from swwatch.rules.systems import ELLIPSIS

LONGEST_TEXT = 8000  # characters that the judge sees of each


@dataclass(frozen=True)
class Item:
    """What was said in one turn; "" is silence. Seconds of the video. The names are the public files'."""

    response: str
    start_time: float
    end_time: float

    def row(self) -> dict:
        return asdict(self)


def has_words(text: str) -> bool:
    """Whether anything is said: dots alone are silence."""
    return any(letter.isalnum() for letter in text)


def text_between(items: Iterable[Item], start_s: float, end_s: float) -> str:
    """What was said in a segment: the turns whose end, in whole seconds, lies in (start_s, end_s].

    So segments that follow one another share no turn and lose none.
    """
    said = (_bare(item.response) for item in items if start_s < int(item.end_time) <= end_s)
    return " ".join(text for text in said if text)


def joined(responses: Iterable[str], *, ending: str = "") -> str:
    """The turns of a clip as one text: " ..." is removed from each, and the whole gets one ending.

    Args:
        ending: LiveCC's texts end in "...".
    """
    return " ".join(text for text in map(_bare, responses) if text) + ending


def cut(text: str) -> str:
    return text[:LONGEST_TEXT]


def _bare(response: str) -> str:
    text = response.replace(ELLIPSIS, "").strip()
    return "" if text == ELLIPSIS.strip() else text
