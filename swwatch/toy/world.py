"""The toy world: coloured shapes that move, one event after another, and the sentence that tells them.

Nothing here reads or writes files.
"""

import re
import zlib
from dataclasses import asdict, dataclass, field

import numpy as np

from swwatch.toy.levels import LEVELS, MIXTURES, SCENES, WORLDS

COLORS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (50, 90, 240), "yellow": (240, 220, 40)}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x grows to the right, y downwards
WORDY = {"left": "left", "right": "to the right", "up": "straight up", "down": "down"}  # in level wordy
BACKGROUND = (16, 16, 20)
OPENING = "The video shows"
SPLITS = ("train", "test")
SIDE = 56  # pixels: 2 x 2 merged tokens of Qwen2.5-VL
MARGIN = 14  # pixels: a shape's centre stays this far from the edge, so the whole shape stays inside
TEST_SHARE = 8  # one caption in eight belongs to the test split


@dataclass(frozen=True)
class SceneEvent:
    """One shape on its way. Times in seconds; a caption does not tell them, so a parsed event has none."""

    color: str
    shape: str
    direction: str
    new_color: str | None = None  # level recolor: the colour of the second half
    start_s: float | None = None
    end_s: float | None = None
    wordy: bool = field(default=False, compare=False)  # a manner of speaking: the same thing happened

    def words(self) -> str:
        turning = f" turning {self.new_color}" if self.new_color else ""
        way = WORDY[self.direction] if self.wordy else self.direction
        return f"a {self.color} {self.shape}{turning} moving {way}"


@dataclass(frozen=True)
class Track:
    """How an event is drawn: half size of the shape and the centre's coordinate across its way, in pixels."""

    event: SceneEvent
    panel: int  # 0 left, 1 right (level pair)
    radius: float
    across: float


@dataclass(frozen=True)
class Scene:
    level: str
    tracks: tuple[Track, ...]

    @property
    def events(self) -> list[SceneEvent]:
        """In the order of telling: by time, then from left to right."""
        return [track.event for track in self.tracks]

    @property
    def duration_s(self) -> float:
        return self.tracks[-1].event.end_s

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return SIDE, SIDE * SCENES[self.level].shapes_at_once

    @property
    def caption(self) -> str:
        at_once = SCENES[self.level].shapes_at_once
        words = [event.words() for event in self.events]
        groups = [" and ".join(words[i : i + at_once]) for i in range(0, len(words), at_once)]
        return f"{OPENING} {', '.join(groups)}."

    def record(self) -> list[dict]:
        """The events as JSON values."""
        return [asdict(event) for event in self.events]

    def notes(self) -> list[dict]:
        """What happened, as soon as it is over, in the form of a record's `thoughts`."""
        over = sorted(self.events, key=lambda event: event.end_s)
        return [{"at_s": event.end_s, "text": event.words()} for event in over]


def make_scene(seed: int, index: int, *, level: str = "single", split: str = "train") -> Scene:
    """The `index`-th scene of a split: the same arguments give the same scene.

    No caption occurs in both splits, whatever the seeds: a hash of the caption says to which split it belongs, and
    scenes are drawn until one fits.
    """
    if level in MIXTURES:
        level = MIXTURES[level][
            np.random.default_rng([seed, index, SPLITS.index(split)]).integers(len(MIXTURES[level]))
        ]
    number = [*sorted(LEVELS), *WORLDS].index(level)  # which another row at the end leaves as it is
    rng = np.random.default_rng([seed, index, SPLITS.index(split), number])
    while True:
        scene = _draw_scene(rng, level)
        if (zlib.crc32(scene.caption.encode()) % TEST_SHARE == 0) == (split == "test"):
            return scene


def _draw_scene(rng: np.random.Generator, level: str) -> Scene:
    rule, start_s = SCENES[level], 0.0
    tracks, before = [], {}  # before: what each panel showed last; a repeat could not be told from one long event
    for number in range(int(rng.integers(rule.num_events[0], rule.num_events[1] + 1))):
        if number and rule.pause_s[1]:
            start_s += float(rng.integers(rule.pause_s[0], rule.pause_s[1] + 1))
        for panel in range(rule.shapes_at_once):
            color, shape = before.get(panel, (None, None))
            while (color, shape) == before.get(panel, (None, None)):
                color, shape = str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))
            before[panel] = (color, shape)
            new_color = str(rng.choice([c for c in COLORS if c != color])) if rule.recolors else None
            direction = str(rng.choice(list(DIRECTIONS)))
            event = SceneEvent(color, shape, direction, new_color, start_s, start_s + rule.event_s, rule.wordy)
            tracks.append(Track(event, panel, float(rng.uniform(11, 13)), float(rng.uniform(MARGIN, SIDE - MARGIN))))
        start_s += float(rule.event_s)
    return Scene(level, tuple(tracks))


def render(scene: Scene, t: float) -> np.ndarray:
    """The picture at `t` seconds (before the start: the first, after the end: the last): (H, W, 3) uint8."""
    height, width = scene.size
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = BACKGROUND
    last = scene.tracks[-1].event
    t = min(max(t, 0.0), np.nextafter(last.end_s, 0))
    for track in scene.tracks:
        event = track.event
        if event.start_s <= t < event.end_s:
            progress = (t - event.start_s) / (event.end_s - event.start_s)
            color = event.new_color if event.new_color and progress >= 0.5 else event.color
            panel = frame[:, track.panel * SIDE : (track.panel + 1) * SIDE]
            panel[_inside(event.shape, *_center(track, progress), track.radius)] = COLORS[color]
    return frame


def _center(track: Track, progress: float) -> tuple[float, float]:
    """Pixel coordinates (x, y): from one margin of the panel to the opposite one as progress goes from 0 to 1."""
    dx, dy = DIRECTIONS[track.event.direction]
    along = SIDE / 2 + (progress - 0.5) * (SIDE - 2 * MARGIN) * (dx + dy)
    return (along, track.across) if dx else (track.across, along)


def _inside(shape: str, center_x: float, center_y: float, radius: float) -> np.ndarray:
    """(SIDE, SIDE) bool: the pixels that the shape covers."""
    y, x = np.ogrid[:SIDE, :SIDE]
    x, y = x + 0.5 - center_x, y + 0.5 - center_y
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.9 * radius
    return (abs(y) <= radius) & (2 * abs(x) <= y + radius)  # a triangle standing on its base


def _choice(words) -> str:
    return "|".join(words)


_EVENT = re.compile(
    rf"a (?P<color>{_choice(COLORS)}) (?P<shape>{_choice(SHAPES)})(?: turning (?P<new_color>{_choice(COLORS)}))?"
    rf" moving (?P<way>{_choice(dict.fromkeys([*DIRECTIONS, *WORDY.values()]))})"
)


def parse_caption(text: str) -> list[SceneEvent] | None:
    """The events of a caption in the toy world's exact grammar, without their times; None for any other text."""
    text = text.strip()
    if not (text.startswith(OPENING + " ") and text.endswith(".")):
        return None
    parts = re.split(", | and ", text[len(OPENING) + 1 : -1])
    matches = [_EVENT.fullmatch(part) for part in parts]
    return [_event(**match.groupdict()) for match in matches] if all(matches) else None


def _event(color: str, shape: str, new_color: str | None, way: str) -> SceneEvent:
    direction = way.split()[-1]
    return SceneEvent(color, shape, direction, new_color, wordy=way != direction)
