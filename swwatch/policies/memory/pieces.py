"""What is left of chat turns, piece by piece: nothing here touches a cache.

Source: arXiv 2510.09608, section 2.1 (sinks and windows).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from swwatch.rules.spans import Part, Span

if TYPE_CHECKING:
    import torch

TOLERANCE_S = 1e-6

Piece = tuple[Span, range]  # a span that stays, and which tokens of the old context it holds


class Windows(Protocol):
    """How much stays; None: all.

    Attributes:
        vision_s: seconds of video, the turn about to come included.
        turns_s: seconds for which an answer stays a turn of its own, before its words join the previous text.
        text_sink, text_window: tokens of the previous text, the first and the last.
    """

    vision_s: float | None
    turns_s: float | None
    text_sink: int | None
    text_window: int | None


def whole(context: Sequence[Span]) -> list[Piece]:
    """A context of which everything stays."""
    pieces, place = [], 0
    for span in context:
        pieces.append((span, range(place, place + len(span))))
        place += len(span)
    return pieces


def slide(context: Sequence[Span], end_s: float, windows: Windows, mute: tuple[int, ...]) -> list[Piece]:
    """Old video goes, old words move into the previous text. A question outlives the turn it was asked in: it stays
    as a user turn of text alone."""
    pieces, moved = [], []
    rounds = {span.round for span in context if span.part is Part.QUERY}
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
            if not (unseen and folded) or span.round in rounds:
                pieces.append((span, place))
        elif not folded:
            pieces.append((span, place))
        elif span.part is Part.ANSWER and has_previous:
            words = len(span) - len_of_mute(span.ids, mute)
            moved.append((Span(Part.PREVIOUS, span.ids[:words]), place[:words]))
    if moved:
        door = max(i for i, (span, _) in enumerate(pieces) if span.part is Part.AROUND)  # what closes the block
        pieces[door:door] = moved
    return shorten(pieces, windows)


def len_of_mute(ids: Sequence[int], mute: tuple[int, ...]) -> int:
    """How many ids at the end of an answer are no words: all of `mute`, or the last of it, or none."""
    for start in (0, len(mute) - 1):
        tail = mute[start:]
        if tail and tuple(ids[-len(tail) :]) == tail:
            return len(tail)
    return 0


def shorten(pieces: list[Piece], windows: Windows) -> list[Piece]:
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


def seconds_of_video(context: Iterable[Span]) -> float:
    """Seconds whose video is in a context."""
    seconds = {span.round: span.end_s - span.start_s for span in context if span.part is Part.VIDEO}
    return sum(seconds.values())


def ends(tokens: "torch.Tensor", first: int | None, last: int | None) -> "torch.Tensor | None":
    """Numbers of the first and the last of tokens (N,), all where there is no limit; None where these are all."""
    limited, first, last = (first, last) != (None, None), first or 0, last or 0
    if not limited or len(tokens) <= first + last:
        return None
    number = tokens.new_ones(len(tokens)).nonzero()[:, 0]
    return number[(number < first) | (number >= len(tokens) - last)]
