"""Which phrase of a toy narration tells which event, in whole sentences and in broken ones.

A phrase begins at a colour word and lasts until the next one (the colour behind "turning" belongs to it); the first
shape and direction word in it count. Words of other kinds are passed over, so text that has fallen to pieces can be
read as well: "The a moving a blue triangle moving up moving left" holds one phrase, a blue triangle moving up.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from swwatch.metrics.events import Mention
from swwatch.toy.world import COLORS, DIRECTIONS, SHAPES

NEEDED = ("color", "shape")  # a phrase with these two tells the event, rightly or wrongly in the rest
REST = ("direction", "new_color")


@dataclass(frozen=True)
class Phrase:
    """What a phrase says of each kind, and where its last word of any kind ends, in characters of the text."""

    color: str
    shape: str | None = None
    direction: str | None = None
    new_color: str | None = None
    end: int = 0


def find_phrases(text: str) -> list[Phrase]:
    """All phrases of a text, in order."""
    found: list[dict] = []
    turning = False
    for match in re.finditer(r"[a-z]+", text.lower()):
        word = match.group()
        kinds = (("color", COLORS), ("shape", SHAPES), ("direction", DIRECTIONS))
        kind = next((kind for kind, known in kinds if word in known), None)
        if kind == "color":
            kind = "new_color" if turning and found else "color"
            if kind == "color":
                found.append({})
        turning = word == "turning"
        if kind is not None and found and kind not in found[-1]:
            found[-1] |= {kind: word, "end": match.end()}
    return [Phrase(**phrase) for phrase in found]


def align(phrases: Sequence[Phrase], events: Sequence[Mapping]) -> list[int | None]:
    """For each phrase the event that it tells, in order: an alignment that tells as many events as can be, and among
    those one with the most directions and new colours right, the earliest telling of an event first.

    A longest common subsequence of phrases and events, by dynamic programming.
    """
    gain = [[_likeness(phrase, event) for event in events] for phrase in phrases]
    rows, columns = len(phrases), len(events)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]  # best[i][j]: of phrases i.. and events j..
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            pair = gain[i][j] + best[i + 1][j + 1] if gain[i][j] else 0
            best[i][j] = max(pair, best[i][j + 1], best[i + 1][j])
    matches: list[int | None] = [None] * rows
    i = j = 0
    while i < rows and j < columns:
        if gain[i][j] and best[i][j] == gain[i][j] + best[i + 1][j + 1]:
            matches[i] = j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return matches


def mentions(pieces: Sequence[str], events: Sequence[Mapping]) -> list[Mention]:
    """The mentions of a narration given as the texts of its tokens: the matcher of `swwatch.metrics.timing`.

    A phrase left over by the alignment repeats the nearest event told before it (else after it) with its colour and
    shape; where there is none it tells nothing that happened at this point of the story.
    """
    ends = list(accumulate(len(piece) for piece in pieces))
    phrases = find_phrases("".join(pieces))
    matches = align(phrases, events)
    found = []
    for number, phrase in enumerate(phrases):
        again = matches[number] is None
        near = [*reversed(matches[:number]), *matches[number + 1 :]] if again else [matches[number]]
        event = next((i for i in near if i is not None and _likeness(phrase, events[i])), None)
        token = bisect_right(ends, phrase.end - 1)
        found.append(Mention(token, event, repeat=again and event is not None))
    return found


def _likeness(phrase: Phrase, event: Mapping) -> int:
    """0 where the phrase does not tell the event; else more for every further field that it has right. One more event
    told outweighs all further fields of up to 500 others."""
    if any(getattr(phrase, field) != event.get(field) for field in NEEDED):
        return 0
    return 1000 + sum(event.get(field) is not None and getattr(phrase, field) == event[field] for field in REST)
