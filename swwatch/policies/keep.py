"""KEEP: what stays of a stream without end, where it stands then, and whether it is read anew. One table.

Written as text like all policies: `window:16`, `sink_window:16:text_sink=512`, `flush:240`. Nothing here touches a
cache: a policy answers with what is left, and engine/keeping.py carries it out. A narration is asked when a step is
in, chat turns when the next one is about to begin: what is left of their context are the old spans, shortened ones, or
words moved into the block of previous text. Windows are seconds of video, so that turns of any length are treated
alike.
Sources: arXiv 2510.09608, section 2.1 (sinks and windows); arXiv 2504.16030 (flush).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from swwatch.errors import UserError
from swwatch.policies.table import Policy, option, parse, table
from swwatch.rules.spans import Part, Span
from swwatch.rules.variants import Speaks, Variant, speaking

if TYPE_CHECKING:  # a table costs no import of torch
    import torch

TOLERANCE_S = 1e-6
APPEND = "append"  # what flags and benchmarks call `all` in chat turns

Piece = tuple[Span, range]  # a span that stays, and which tokens of the old context it holds


@dataclass(frozen=True)
class Keep(Policy):
    """A policy of this table.

    Attributes:
        for_whom: how variants speak that can be kept so.
        moves: tokens may stand elsewhere afterwards, so that the cache must be one that can be re-indexed.
        anew: what is left is read anew, into an empty cache; every_turn: at every turn, whether anything went or not.
        windows: options that say how much is forgotten.
    """

    table: ClassVar[str] = "keep"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.TURNS,)
    moves: ClassVar[bool] = False
    anew: ClassVar[bool] = False
    every_turn: ClassVar[bool] = False
    windows: ClassVar[tuple[str, ...]] = ()

    def check(self, variant: Variant) -> None:
        """Refuse a variant that cannot be kept so.

        Raises:
            UserError: it names those that can.
        """
        if variant.speaks not in self.for_whom:
            able = ", ".join(name for speaks in self.for_whom for name in speaking(speaks))
            more = ", or a chat system, which forgets in a way of its own" if Speaks.TURNS not in self.for_whom else ""
            raise UserError(f"keep {self}: the variant {variant.name!r} cannot be kept so, take {able}{more}")

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        """What is left of chat turns when one that ends at `end_s` is about to begin.

        Args:
            context: all spans, in order.
            begin: those that the stream began with.
            mute: ids at the end of an answer that are no words: " ..." and <|im_end|>.
        Returns:
            The pieces that stay, in their new order; the tokens of a piece follow one another in the old context too.
        """
        return whole(context)

    def beginning(self, context: Sequence[Span]) -> list[Span]:
        """What chat turns begin with: the first and the last tokens of the previous text, where the policy has limits
        for it (text_sink, text_window; None: none)."""
        return [span for span, _ in _shorten(whole(context), self)]


@dataclass(frozen=True)
class All(Keep):
    """Everything: full attention over all that was. Its numbers are for text from before the stream."""

    name: ClassVar[str] = "all"
    for_whom: ClassVar[tuple[Speaks, ...]] = tuple(Speaks)
    text_sink: int | None = option(None, least=0)
    text_window: int | None = option(None, least=0)


@dataclass(frozen=True)
class Window(Keep):
    """The newest seconds of video, and the first and last tokens of the answer; each axis is closed up by itself
    (engine/endless.py)."""

    name: ClassVar[str] = "window"
    for_whom: ClassVar[tuple[Speaks, ...]] = (Speaks.PARALLEL,)
    moves: ClassVar[bool] = True
    vision_s: int = option(16, least=1)
    text_sink: int = option(512, least=0)
    text_window: int = option(512, least=1)

    def said(self, is_word: "torch.Tensor") -> "torch.Tensor | None":
        """(K',) which of the said tokens stay, given which of them are words (K,); None: all. Headers always stay."""
        words = is_word.nonzero()[:, 0]
        if len(words) <= self.text_sink + self.text_window:
            return None
        stays = is_word | ~is_word
        stays[words[self.text_sink : len(words) - self.text_window]] = False
        return stays.nonzero()[:, 0]


@dataclass(frozen=True)
class SinkWindow(Keep):
    """StreamingVLM: old video goes first, old words stay at both ends.

    Attributes:
        vision_s: seconds of video, the turn about to come included; None: all.
        turns_s: seconds for which an answer stays a turn of its own, before its words join the previous text.
        text_sink, text_window: tokens of the previous text that stay, the first and the last. Both None: all.
    """

    name: ClassVar[str] = "sink_window"
    moves: ClassVar[bool] = True
    windows: ClassVar[tuple[str, ...]] = ("vision_s", "turns_s", "text_sink", "text_window")
    vision_s: float | None = option(16.0, least=0)
    turns_s: float | None = option(16.0, least=0)
    text_sink: int | None = option(512, least=0)
    text_window: int | None = option(512, least=0)

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        return _slide(context, end_s, self, mute)


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
    windows: ClassVar[tuple[str, ...]] = ("vision_s",)
    vision_s: float = option(16.0, least=0)
    text_sink: int | None = option(None, least=0)
    text_window: int | None = option(None, least=0)

    def left(self, context: Sequence[Span], begin: Sequence[Span], end_s: float, mute: tuple[int, ...]) -> list[Piece]:
        begun = min(span.start_s for span in context if span.round >= 0)
        return whole(context if end_s - begun <= self.vision_s + TOLERANCE_S else begin)


ALL = All()
KEEP = table(All, Window, SinkWindow, Flush, Restart, Recompute)
EVICTIONS = [APPEND, *(name for name, kind in KEEP.items() if kind.for_whom == (Speaks.TURNS,))]


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
    return All.name if eviction == APPEND else eviction


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
    known = {option.name: numbers.get(option.name, vars(own).get(option.name)) for option in kind.options()}
    for needed in ("vision_s", "flush_s"):
        if needed in known and known[needed] is None:
            flag = needed.replace("_s", "-seconds")
            raise UserError(f"--eviction {kind.name} would keep all video here: give --{flag}")
    return kind(**known)


def whole(context: Sequence[Span]) -> list[Piece]:
    """A context of which everything stays."""
    pieces, place = [], 0
    for span in context:
        pieces.append((span, range(place, place + len(span))))
        place += len(span)
    return pieces


def _slide(context: Sequence[Span], end_s: float, windows: SinkWindow, mute: tuple[int, ...]) -> list[Piece]:
    """A question outlives the turn it was asked in: it stays as a user turn of text alone."""
    pieces, moved = [], []
    asked = {span.round for span in context if span.part is Part.QUERY}
    has_previous = any(span.part is Part.AROUND for span in context)
    for span, place in whole(context):
        unseen = windows.vision_s is not None and span.start_s < end_s - windows.vision_s - TOLERANCE_S
        folded = windows.turns_s is not None and span.start_s < end_s - windows.turns_s - TOLERANCE_S
        if span.round < 0:
            pieces.append((span, place))
        elif span.part in (Part.VISION, Part.VIDEO):
            if not unseen:
                pieces.append((span, place))
        elif span.part is Part.LABEL:
            if not folded:
                pieces.append((span, place))
        elif span.part in (Part.HEAD, Part.QUERY, Part.TAIL):
            if not (unseen and folded) or span.round in asked:
                pieces.append((span, place))
        elif not folded:
            pieces.append((span, place))
        elif span.part is Part.ANSWER and has_previous:
            words = len(span) - len_of_mute(span.ids, mute)
            moved.append((Span(Part.PREVIOUS, span.ids[:words]), place[:words]))
    if moved:
        door = max(i for i, (span, _) in enumerate(pieces) if span.part is Part.AROUND)  # what closes the block
        pieces[door:door] = moved
    return _shorten(pieces, windows)


def len_of_mute(ids: Sequence[int], mute: tuple[int, ...]) -> int:
    """How many ids at the end of an answer are no words: all of `mute`, or the last of it, or none."""
    for start in (0, len(mute) - 1):
        tail = mute[start:]
        if tail and tuple(ids[-len(tail) :]) == tail:
            return len(tail)
    return 0


def _shorten(pieces: list[Piece], windows: Keep) -> list[Piece]:
    """Leave the first and the last tokens of the previous text."""
    if windows.text_sink is None and windows.text_window is None:
        return pieces
    sink, window = windows.text_sink or 0, windows.text_window or 0
    total = sum(len(span) for span, _ in pieces if span.part is Part.PREVIOUS)
    if total <= sink + window:
        return pieces
    left, seen = [], 0
    for span, place in pieces:
        if span.part is not Part.PREVIOUS:
            left.append((span, place))
            continue
        for keep in (range(0, sink), range(total - window, total)):
            first, last = (min(max(edge - seen, 0), len(span)) for edge in (keep.start, keep.stop))
            if first < last:
                left.append((replace(span, ids=span.ids[first:last]), place[first:last]))
        seen += len(span)
    return left


def joined(pieces: Sequence[Piece]) -> list[Span]:
    """The context that pieces make; previous text becomes one span."""
    context: list[Span] = []
    for span, _ in pieces:
        if context and span.part is context[-1].part is Part.PREVIOUS:
            context[-1] = replace(span, ids=context[-1].ids + span.ids)
        else:
            context.append(span)
    return context


def seconds_of_video(context: Sequence[Span]) -> float:
    """Seconds whose video is in a context."""
    return sum(span.end_s - span.start_s for span in context if span.part is Part.VIDEO)
