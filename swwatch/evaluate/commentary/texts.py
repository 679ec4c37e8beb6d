"""From what was said turn by turn to the texts that are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from swwatch.rules.systems import ELLIPSIS

LONGEST_TEXT = 8000  # characters that the judge sees of each


@dataclass(frozen=True)
class Utterance:
    """What was said in one turn; "" is silence. Seconds of the video. The names are the public files'.

    Attributes:
        num_frames: that the turn brought; num_tokens: in view when its words began.
        took_s: from when its newest frames were here to its last word.
    """

    response: str
    start_time: float
    end_time: float
    num_frames: int = 0
    num_tokens: int = 0
    took_s: float = 0.0

    def row(self) -> dict:
        """As the public files have it."""
        return {name: getattr(self, name) for name in ("response", "start_time", "end_time")}


def measured(job: str, key: str, items: Iterable[Utterance]) -> dict:
    """A line of the trace: how the turns of a row were made. Args: job: the game or event that they are of."""
    items = list(items)
    counts = {"num_frames": sum(item.num_frames for item in items), "num_tokens": [item.num_tokens for item in items]}
    return {"video_id": key, "job": job, **counts, "took_s": [round(item.took_s, 4) for item in items]}


def means(lines: Iterable[Mapping]) -> dict[str, float | None]:
    """Of the lines of a trace: frames of a game or event, tokens and seconds of a turn; None where there is none."""
    lines = list(lines)
    tokens, seconds = ([one for line in lines for one in line[name]] for name in ("num_tokens", "took_s"))
    if not tokens:
        return dict.fromkeys(("frames", "tokens", "seconds"))
    frames = sum(line["num_frames"] for line in lines) / len({line["job"] for line in lines})
    return {"frames": frames, "tokens": fmean(tokens), "seconds": fmean(seconds)}


def has_words(text: str) -> bool:
    """Whether anything is said: dots alone are silence."""
    return any(letter.isalnum() for letter in text)


def text_between(items: Iterable[Utterance], start_s: float, end_s: float) -> str:
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
