"""What a stream in turns forgets, and when: policies by name, as a choice among the spans of its context.

Nothing here touches a cache. A policy is asked at the beginning of a turn and answers with the context that is left,
whose spans are the old ones, shortened ones, or words moved into the block of previous text. All windows are measured
in seconds of video, so that turns of any length are treated alike.
Sources: arXiv 2510.09608, section 2.1 (sinks and windows); arXiv 2504.16030 (flush).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from swwatch.errors import UserError
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import System

TOLERANCE_S = 1e-6

Piece = tuple[Span, range]  # a span that stays, and which tokens of the old context it holds


@dataclass(frozen=True)
class Windows:
    """How much is kept.

    Attributes:
        vision_s: seconds of video, the turn about to come included; None: all.
        turns_s: seconds for which an answer stays a turn of its own, before its words join the previous text.
        text_sink, text_window: tokens of the previous text that stay, the first and the last. Both None: all.
        flush_s: seconds of video after which all of it goes at once; None: never.
    """

    vision_s: float | None = None
    turns_s: float | None = None
    text_sink: int | None = None
    text_window: int | None = None
    flush_s: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise UserError(f"{name} must not be below 0, not {value}")


@dataclass(frozen=True)
class Eviction:
    """A policy.

    Attributes:
        slides: turns leave one by one, as `Windows` says.
        flushes: all video leaves at once; the text is read anew.
        restarts: everything leaves at once after vision_s seconds.
        recomputes: what is left is read anew at every turn.
    """

    name: str
    why: str
    slides: bool = False
    flushes: bool = False
    restarts: bool = False
    recomputes: bool = False


POLICIES = {
    policy.name: policy
    for policy in (
        Eviction("append", "nothing is forgotten: full attention over all that was"),
        Eviction("sink_window", "StreamingVLM: old video goes first, old words stay at both ends", slides=True),
        Eviction("flush", "LiveCC's paper: all video goes every 240 s, all text stays", flushes=True),
        Eviction("recompute", "a sliding window read anew at every turn", slides=True, recomputes=True),
        Eviction("restart", "a window without overlap: after it everything begins anew", restarts=True),
    )
}


def default_windows(system: System) -> Windows:
    """What a system keeps."""
    seconds = system.vision_window_s
    return Windows(seconds, seconds, system.text_sink, system.text_window, system.flush_s)


def get(name: str) -> Eviction:
    """The policy of this name.

    Raises:
        UserError: no such policy.
    """
    if name not in POLICIES:
        raise UserError(f"no eviction policy {name!r}: choose one of {', '.join(POLICIES)}")
    return POLICIES[name]


def whole(context: Sequence[Span]) -> list[Piece]:
    """A context of which everything stays."""
    pieces, place = [], 0
    for span in context:
        pieces.append((span, range(place, place + len(span))))
        place += len(span)
    return pieces


def slide(context: Sequence[Span], end_s: float, windows: Windows, mute: tuple[int, ...]) -> list[Piece]:
    """What is left when a turn that ends at `end_s` is about to begin.

    A question outlives the turn it was asked in: it stays as a user turn of text alone.

    Args:
        context: all spans, in order.
        mute: ids at the end of an answer that are no words: " ..." and <|im_end|>.
    Returns:
        The pieces that stay, in their new order; the tokens of a piece follow one another in the old context too.
    """
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


def shorten(context: Sequence[Span], windows: Windows) -> list[Span]:
    """A context whose previous text has its first and last tokens alone: what a stream begins with."""
    return [span for span, _ in _shorten(whole(context), windows)]


def len_of_mute(ids: Sequence[int], mute: tuple[int, ...]) -> int:
    """How many ids at the end of an answer are no words: all of `mute`, or the last of it, or none."""
    for start in (0, len(mute) - 1):
        tail = mute[start:]
        if tail and tuple(ids[-len(tail) :]) == tail:
            return len(tail)
    return 0


def _shorten(pieces: list[Piece], windows: Windows) -> list[Piece]:
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
