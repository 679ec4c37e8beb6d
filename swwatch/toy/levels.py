"""What the toy world's scenes are made of, and what is asked about them.

Levels: `single` one shape at a time; `pair` two of those worlds side by side, the left one told first; `recolor` the
shape takes another colour half way; `wordy` directions told in more or fewer words, so that text and picture drift
apart; `long` as single, up to 30 s. For each scene `mixed` draws single, recolor or wordy, `hard` any level.
Worlds are levels that are asked about (toy/questions.py): `basics` short clips for what a model must know before all
else; `still` nothing to be seen for most of the time; `count` a minute of which the whole must be kept in mind;
`ten_minutes` events one behind the other for so long; `half_minute` as count, for those that are to be trained.
"""

from dataclasses import dataclass

SEGMENT_S = 8  # of a stream with notes


@dataclass(frozen=True)
class Level:
    """What the scenes of a level are made of. `event_s` keeps every caption between 3 and 5 tokens a second."""

    event_s: int
    num_events: tuple[int, int]  # fewest, most
    shapes_at_once: int = 1
    recolors: bool = False
    wordy: bool = False
    pause_s: tuple[int, int] = (0, 0)  # with nothing to be seen before each event but the first: shortest, longest
    asks: tuple[str, ...] = ()  # kinds of questions, of toy.questions.KINDS


LEVELS = {
    "single": Level(event_s=2, num_events=(3, 5)),
    "pair": Level(event_s=4, num_events=(2, 4), shapes_at_once=2),
    "recolor": Level(event_s=2, num_events=(3, 5), recolors=True),
    "long": Level(event_s=2, num_events=(6, 15)),
    "wordy": Level(event_s=2, num_events=(3, 5), wordy=True),
}
MIXTURES = {"mixed": ("single", "recolor", "wordy"), "hard": tuple(LEVELS)}
NOW, PAST = ("colour now", "shape now", "way now"), ("first colour", "third colour", "how many")
WORLDS = {
    "basics": Level(event_s=2, num_events=(1, 4), asks=(*NOW, *PAST)),
    "still": Level(event_s=2, num_events=(4, 6), pause_s=(5, 15), asks=(*NOW, "last colour", "first colour")),
    "count": Level(event_s=3, num_events=(10, 12), pause_s=(1, 3), asks=(*NOW, *PAST)),
    "ten_minutes": Level(event_s=2, num_events=(300, 300), asks=(*NOW, *PAST)),
    "half_minute": Level(event_s=3, num_events=(4, 5), pause_s=(1, 2), asks=(*NOW, *PAST)),
}
SCENES = LEVELS | WORLDS  # every level that a scene can be made of
