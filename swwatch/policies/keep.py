"""KEEP: what stays of a stream without end, where it stands then, and whether it is read anew. One table.

Written as text like all policies: `window:16`, `sink_window:16:text_sink=512`, `flush:240`. Nothing here touches a
cache: a policy answers with what is left, and engine/keeping.py carries it out. A narration is asked when a step is
in, chat turns when the next one is about to begin: what is left of their context are the old spans, shortened ones, or
words moved into the block of previous text. Windows are seconds of video, so that turns of any length are treated
alike.
Sources: arXiv 2510.09608, section 2.1 (sinks and windows); arXiv 2504.16030 (flush).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from swwatch.errors import UserError
from swwatch.policies.memory.carrier import Carrier
from swwatch.policies.memory.key_norm import KeyNorm
from swwatch.policies.memory.livevlm import LiveVlm
from swwatch.policies.memory.peak_end import PeakEnd
from swwatch.policies.memory.pieces import TOLERANCE_S, Piece, seconds_of_video, whole
from swwatch.policies.memory.policy import Keep, Sliding
from swwatch.policies.memory.recent import Recent
from swwatch.policies.memory.rekv import Rekv
from swwatch.policies.memory.thoughts import Thoughts
from swwatch.policies.memory.vstream import VStream
from swwatch.policies.table import option, parse, table
from swwatch.rules.spans import Part, Span
from swwatch.rules.variants import Speaks

APPEND = "append"  # what flags and benchmarks call `all` in chat turns


@dataclass(frozen=True)
class KeepAll(Keep):
    """Everything: full attention over all that was. Its numbers are for text from before the stream."""

    name: ClassVar[str] = "all"
    for_whom: ClassVar[tuple[Speaks, ...]] = tuple(Speaks)
    forgets: ClassVar[bool] = False
    text_sink: int | None = option(None, least=0)
    text_window: int | None = option(None, least=0)


@dataclass(frozen=True)
class Window(Sliding):
    """The newest seconds of video, and the first and last tokens of the answer; each axis is closed up by itself
    (engine/endless.py)."""

    name: ClassVar[str] = "window"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL,)
    moves: ClassVar[bool] = True
    vision_s: int = option(16, least=1)
    text_sink: int = option(512, least=0)
    text_window: int = option(512, least=1)


@dataclass(frozen=True)
class SinkWindow(Sliding):
    """StreamingVLM: old video goes first, old words stay at both ends.

    Attributes:
        vision_s: seconds of video, the turn about to come included; None: all.
        turns_s: seconds for which an answer stays a turn of its own, before its words join the previous text.
        text_sink, text_window: tokens of the previous text that stay, the first and the last. Both None: all.
    """

    name: ClassVar[str] = "sink_window"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.TURNS,)
    moves: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("vision_s", "turns_s", "text_sink", "text_window")
    vision_s: float | None = option(16.0, least=0)
    turns_s: float | None = option(16.0, least=0)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=0)


@dataclass(frozen=True)
class Recompute(SinkWindow):
    """The same window, read anew at every turn."""

    name: ClassVar[str] = "recompute"
    anew: ClassVar[bool] = True
    every_turn: ClassVar[bool] = True


@dataclass(frozen=True)
class Flush(Keep):
    """LiveCC's paper: all video goes when there are so many seconds of it, all text stays and is read anew."""

    name: ClassVar[str] = "flush"
    anew: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("flush_s",)
    flush_s: float = option(240.0, least=0)
    text_sink: int | None = option(None, least=0)
    text_window: int | None = option(None, least=0)

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        pieces = whole(context)
        if seconds_of_video(context) < self.flush_s:
            return pieces
        return [piece for piece in pieces if piece[0].part not in (Part.VISION, Part.VIDEO)]


@dataclass(frozen=True)
class Restart(Keep):
    """A window without overlap: after it everything begins anew."""

    name: ClassVar[str] = "restart"
    anew: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("vision_s",)
    vision_s: float = option(16.0, least=0)
    text_sink: int | None = option(None, least=0)
    text_window: int | None = option(None, least=0)

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        begun = min(span.start_s for span in context if span.round >= 0)
        return whole(context if end_s - begun <= self.vision_s + TOLERANCE_S else begin)


ALL = KeepAll()
KEEP = table(
    KeepAll,
    Window,
    SinkWindow,
    Flush,
    Restart,
    Recompute,
    Recent,
    KeyNorm,
    Rekv,
    PeakEnd,
    LiveVlm,
    Carrier,
    VStream,
    Thoughts,
)
WINDOWS = ("vision_s", "turns_s", "flush_s", "text_sink", "text_window")
EVICTIONS = [APPEND, *(name for name, kind in KEEP.items() if kind.forgets and Speaks.TURNS in kind.for_whom)]


def parse_keep(text: str | Keep) -> Keep:
    """Inverse of `str(policy)`; options that are left out take their defaults.

    Raises:
        UserError: not one of the forms, or a number out of its range.
    """
    return parse(KEEP, text)


def check_eviction(name: str | None) -> None:
    """Raises UserError: there is no such policy for chat turns."""
    if name is not None and name not in EVICTIONS:
        raise UserError(f"no eviction policy {name!r}: choose one of {', '.join(EVICTIONS)}")


def name_of(eviction: str) -> str:
    """The name in KEEP of what flags call so."""
    return KeepAll.name if eviction == APPEND else eviction


def with_numbers(own: str | Keep, name: str | None, numbers: Mapping[str, Any]) -> Keep:
    """The policy for chat turns that flags ask for: name and numbers, and a system's own where these are silent.

    Args:
        own: of the system.
        name: one of EVICTIONS; None: the system's own.
        numbers: options that were given; those that the policy does not know are passed over.
    Raises:
        UserError: no such policy, or nothing says how much it keeps.
    """
    check_eviction(name)
    own = parse_keep(own)
    kind = type(own) if name is None else KEEP[name_of(name)]
    # what no system has of its own has the policy's own default
    silent = {o.name: None if o.name in WINDOWS else o.default for o in kind.options()} | vars(own)
    known = {option.name: numbers.get(option.name, silent[option.name]) for option in kind.options()}
    for needed in ("vision_s", "flush_s"):
        if needed in known and known[needed] is None:
            flag = needed.replace("_s", "-seconds")
            raise UserError(f"--eviction {kind.name} would keep all video here: give --{flag}")
    return kind(**known)
