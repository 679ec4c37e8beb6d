"""A dialogue of a system that thinks, laid out by its own forms and rules, for pictures and tables of it.

Segments of two steps are thought about, and a question ends the one that has begun. Tokenizer and words are small.
"""

from dataclasses import replace

import torch

from swwatch.data.turns.conversation import Commentary, TimedQuestion
from swwatch.data.turns.prompt import Turns
from swwatch.data.turns.samples import SampleFormat
from swwatch.data.turns.transcript import Word
from swwatch.errors import UserError
from swwatch.model.dummy import DummyTokenizer
from swwatch.rules import turn_positions
from swwatch.rules.cursor import layout_of
from swwatch.rules.layout import KINDS, Kind, Layout
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import SYSTEMS

SEGMENT_S = 2.0
T_PER_STEP = 2
BEGIN = (Part.SYSTEM, Part.AROUND)  # what precedes all turns


def readings(name: str, steps: int, grid: tuple[int, int]) -> list[Layout]:
    """What the system reads to think and to answer: all of it once, or anew each time where it answers aside.

    Args:
        steps: of video, a second each; a question comes one step before the end.
        grid: merged rows and columns of a step's patch.
    Returns:
        Layouts whose steps are turns, from 0.
    Raises:
        UserError: too short for a question amid the video.
    """
    if steps < 2:
        raise UserError("a question comes one step before the end: give --steps 2 or more")
    system = SYSTEMS[name]
    form = SampleFormat(Turns(DummyTokenizer(), system), system_text="", seconds_per_turn=SEGMENT_S)
    ends_s = sorted({*range(2, steps + 1, 2), steps - 1, steps})
    commentary = Commentary(
        "",
        tuple(Word(end_s - 0.5, end_s, "what is seen") for end_s in ends_s),
        (TimedQuestion(steps - 1, "who is it", "a cat"),),
        ends_s=tuple(ends_s),
    )
    size = (steps, *grid)
    read = [spans for spans, _ in form.slices(commentary, size)] if system.aside else [form.spans(commentary, size)[0]]
    turn_at = {(s.start_s, s.end_s): s.round for spans in read for s in spans if s.part is Part.VIDEO}
    return [_laid(name, spans, turn_at) for spans in read]


def _laid(name: str, spans: list[Span], turn_at: dict[tuple[float, float], int]) -> Layout:
    """Spans with the kinds of the variants' pictures; a thought in previous text is of the turn that it came from."""
    policy = turn_positions.of(SYSTEMS[name])
    where, _ = policy.place(spans, 0, T_PER_STEP)
    laid = layout_of(spans, where, 0, 0 if policy.apart else None)
    turns = [turn_at[s.start_s, s.end_s] if s.part is Part.PREVIOUS else max(s.round, 0) for s in spans for _ in s.ids]
    kinds = [KINDS.index(_kind(span)) for span in spans for _ in span.ids]
    return replace(laid, kind_ids=torch.tensor(kinds), step=torch.tensor(turns))


def _kind(span: Span) -> Kind:
    is_question = span.start_s == span.end_s  # the turn of a question has no video
    if span.part is Part.HEADER:
        return Kind.HEADER if is_question else Kind.NOTE
    if span.part in (Part.ANSWER, Part.PREVIOUS):
        return Kind.ANSWER if is_question else Kind.THOUGHT
    if span.part is Part.VIDEO:
        return Kind.VIDEO
    return Kind.PROMPT if span.part in (*BEGIN, Part.QUERY) else Kind.AROUND
