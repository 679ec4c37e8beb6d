"""Dialogues about segments of a video, as samples of systems that think: of each segment its video, what is thought
about it, and the questions that end it, each with its answer.

Words that end in a segment are its thought; a question belongs to the segment that ends with it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from swwatch.data.turns.conversation import Commentary
from swwatch.data.turns.prompt import Grid, Turns
from swwatch.data.turns.transcript import by_turn, text_of
from swwatch.policies.keep import Keep
from swwatch.rules.spans import Part, Span

TOLERANCE = 1e-6  # of a step
Turn = list[Span]  # of video, perhaps without a thought; or of a question


def turns_of(
    turns: Turns, commentary: Commentary, ends_s: Sequence[float], grid: Grid, start_s: float, step_s: float
) -> list[Turn]:
    """The turns of a dialogue, as a stream would hold them.

    Args:
        ends_s: of segments, where the record names none, seconds of the video.
        grid: of the whole clip; start_s: where in its video it begins; step_s: seconds of a patch.
    """
    questions = [row for row in commentary.questions if row.time_s > start_s]
    ends = {
        math.ceil((at_s - start_s) / step_s - TOLERANCE)
        for at_s in (*(commentary.ends_s or ends_s), *_times(questions))
    }
    cuts = [0, *sorted(end for end in ends if 0 < end < grid[0]), grid[0]]
    words, _ = by_turn(commentary.words, [start_s + cut * step_s for cut in cuts[1:]])
    done: list[Turn] = []
    for (begin, end), said in zip(pairwise(cuts), words, strict=True):
        when = start_s + begin * step_s, start_s + end * step_s
        segment = turns.turn(len(done), *when, (end - begin, *grid[1:]), opens=not _said(done))
        thought = text_of(said)
        done.append([*_closing(turns, done), *(segment if thought else segment[:-1])])
        if thought:
            done[-1].append(Span(Part.ANSWER, turns.answer(thought), None, len(done) - 1, *when))
        while questions and questions[0].time_s <= when[1] + TOLERANCE:
            row, number = questions.pop(0), len(done)
            question = turns.turn(number, when[1], when[1], None, row.question, opens=not _said(done))
            answer = Span(Part.ANSWER, turns.answer(row.answer, reply=True), None, number, when[1], when[1])
            done.append([*_closing(turns, done), *question, answer])
    while done and done[-1][-1].part is not Part.ANSWER:  # of which nothing is learned
        done.pop()
    return done


def slices_of(turns: Turns, begin: list[Span], done: Sequence[Turn], keep: Keep) -> list[tuple[list[Span], range]]:
    """What a system that answers aside reads to think about each segment, and to answer each question: the beginning,
    with the thoughts before, and the segment.

    Returns:
        The spans of each, and the patches of the clip that they show.
    """
    slices, shown, segment, place = [], [], [], range(0)
    for turn in done:
        turn = [span for span in turn if span.part is not Part.CLOSE]
        video = next((span for span in turn if span.part is Part.VIDEO), None)
        if video is not None:
            shown += segment
            segment, place = turn, range(place.stop, place.stop + _patches(turn))
        if turn[-1].part is Part.ANSWER:
            context = turns.folded([*begin, *shown])
            memory = [span for span, _ in keep.left(context, (), 0.0, ())] if keep.folds else context
            seen = [] if video is not None else [s for s in segment if s.part not in (Part.HEADER, Part.ANSWER)]
            slices.append(([*memory, *seen, *turn], place))
    return slices


def _times(questions) -> list[float]:
    return [row.time_s for row in questions]


def _said(done: Sequence[Turn]) -> bool:
    return any(turn[-1].part is Part.ANSWER for turn in done)


def _patches(turn: Turn) -> int:
    return sum(span.grid[0] for span in turn if span.grid)


def _closing(turns: Turns, done: Sequence[Turn]) -> list[Span]:
    """What closes the turn before."""
    if not done or done[-1][-1].part is not Part.ANSWER:
        return []
    close = turns.close(len(done) - 1)
    return [close] if len(close) else []
