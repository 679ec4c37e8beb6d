"""Other frame rates than 2 a second: streaming equals training, and where and when tokens are."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from swwatch.data.live.frames import LiveFrames
from swwatch.data.turns.prompt import Turns
from swwatch.data.turns.samples import SampleFormat
from swwatch.data.video import StepFrames
from swwatch.engine.session import Session
from swwatch.engine.source import StepEncoder
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import SinkWindow, Window
from swwatch.policies.speak import Speak
from swwatch.rules import systems, turn_positions
from swwatch.rules.families import t_step
from swwatch.rules.layout import Kind
from swwatch.rules.schedule import Now, seconds_of_step
from swwatch.rules.spans import Part, Span, ids_of
from swwatch.rules.visibility import WATCHED
from tests.helpers import streams
from tests.helpers.streams import at_fps
from tests.helpers.turn_streams import GRID, begin, forward, play, random_steps, streamed, told_of, watched

SIZES = [(2, 3)] * 6


@dataclass(frozen=True)
class EverySecond(Speak):
    """k tokens where a second of the stream is over; nothing at other steps."""

    name: ClassVar[str] = "every_second"

    def budget(self, now: Now) -> int:
        return self.k if now.at_s % 1 >= 0.5 else 0


@pytest.mark.parametrize(("variant", "fps"), [("group", 1), ("group", 4), ("group", 8), ("origin", 8), ("overlap", 8)])
def test_p1_of_the_variants(load_tiny, variant, fps):
    loaded, schedule = at_fps(load_tiny(variant), fps), EverySecond(2)
    stream = streams.random_stream(loaded, SIZES, answer_len=12)
    theirs, tokens = streams.full_forward(loaded, stream, schedule)
    session = streams.Told(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=12))
    spoken = streams.play(session.tell(stream.answer), stream)
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)
    said_last = tokens.position_ids[:, :-1].T.tolist()  # the last word is not fed
    assert streams.fed_positions(session) == sorted(map(tuple, said_last))
    frames_s = {token.newest_visible_step: token.t_frame_s for token in spoken}
    assert all(at_s == (step + 0.5) * 2 / fps for step, at_s in frames_s.items())


# those that think, whose turns hold thoughts, have test_turns_thinking.py
@pytest.mark.parametrize("system", [name for name, row in systems.SYSTEMS.items() if not row.thinks])
@pytest.mark.parametrize("fps", [1, 4, 8])
def test_p1_of_the_systems(load_tiny, system, fps):
    """A training sample has the spans and the logits of a stream that says its words."""
    loaded, row = at_fps(load_tiny(system), fps), systems.get(system)
    commentary = told_of([[i * 0.7, i * 0.7 + 0.4, f"w{i}"] for i in range(8)])
    form = SampleFormat(Turns(loaded.tokenizer, row), fps=fps, keep="all")
    spans, shown, _ = form.spans(commentary, (3 * fps, *GRID))
    session, _ = streamed(loaded, spans, commentary, 0.0, shown, {}, keep="all")
    ours, theirs = ([span for span in held if span.part is not Part.CLOSE] for held in (session.context, spans))
    assert ours == theirs and ids_of(session.context) == ids_of(spans)  # a line end does not know its seconds
    pictures = watched(loaded, random_steps(loaded, shown, (GRID,)))
    logits = forward(loaded, spans, row.positions, pictures)
    rows, place = [], 0
    for span in spans:
        if span.part is Part.ANSWER:
            rows += range(place - 1, place - 1 + len(span))
        place += len(span)
    torch.testing.assert_close(torch.stack(session.seen_logits), logits[rows], atol=1e-4, rtol=0)
    lasts = [(span.grid[0], span.end_s - span.start_s) for span in spans if span.part is Part.VIDEO]
    assert set(lasts[1:]) == {(max(1, fps // 2), max(1.0, 2 / fps))}
    first = {"streamingvlm": 1, "livecc": 3}[system]
    assert lasts[0] == (-(-first * fps // 2), {1: 2 * -(-first // 2)}.get(fps, first))


# tokens of a step: 2 before the video, patches of 1 x 2, <|vision_end|><|im_end|>\n, header, 4 spoken
BY_HAND = {
    1: [0, 1, 2, 6, 10, 14],
    2: [0, 1, 2, 4, 6, 8],
    4: [0, 1, 2, 3, 4, 5],
    8: [0, 1, 2, 2, 3, 3],  # two patches share a position
}


@pytest.mark.parametrize(("fps", "starts"), BY_HAND.items())
def test_patches_of_a_variant_stand_at_their_time_rounded_down(load_tiny, fps, starts):
    step_s = seconds_of_step(fps)
    how = {"t_per_step": t_step(load_tiny("group").model.config, step_s), "step_s": step_s}
    for variant in ("origin", "batch", "group", "gap"):
        tokens = streams.layout(variant, 2, [(1, 2)] * 4, 4, **how)
        video = tokens.position_ids[:, tokens.where(Kind.VIDEO)].T.tolist()
        assert video == [[t, 2, w] for t in starts[2:] for w in (2, 3)]
        end = max(starts[-1], 3)
        suffix = tokens.position_ids[:, tokens.where(Kind.SUFFIX)]
        assert suffix.tolist() == [[end + 1, end + 2, end + 3]] * 3 and tokens.position_ids.dtype == torch.int64
    for variant in ("overlap", "interleave"):  # where every patch begins anew
        theirs = streams.layout(variant, 2, [(1, 2)] * 4, 4)
        assert torch.equal(streams.layout(variant, 2, [(1, 2)] * 4, 4, **how).position_ids, theirs.position_ids)


def test_streamingvlms_positions_at_8_frames_a_second_are_fractions_and_liveccs_are_rounded_down():
    def place(system: str, grid: tuple[int, int, int]):
        video = Span(Part.VIDEO, (0,) * grid[0] * grid[1] * grid[2], grid, 0)
        spans = [Span(Part.HEAD, (0, 0), round=0), video, Span(Part.TAIL, (0, 0), round=0)]
        where, end = turn_positions.of(systems.get(system)).place(spans, 0, 2 * seconds_of_step(8))
        return where.tolist(), end

    times, still = [0, 1, 2, 2.5, 3, 3.5], [0, 1, 2, 2, 2, 2]
    assert place("streamingvlm", (4, 1, 1)) == ([times + [4.5, 5.5], still + [4.5, 5.5], still + [4.5, 5.5]], 6.5)
    times = [0, 1, 2, 2, 3, 3]
    assert place("livecc", (4, 1, 1)) == ([times + [4, 5], still + [4, 5], still + [4, 5]], 6)
    where, end = place("streamingvlm", (2, 1, 4))  # a picture wider than its time is long
    assert where[0] == [0, 1, 2, 2, 2, 2, 2.5, 2.5, 2.5, 2.5, 6, 7] and end == 8


def test_what_streamingvlm_keeps_at_8_frames_a_second_is_closed_up_with_its_fractions(load_tiny):
    loaded = at_fps(load_tiny("streamingvlm"), 8)
    session = begin(loaded, keep=SinkWindow(2, 2, 4, 4))
    said = play(session, random_steps(loaded, 20, (GRID,)))
    assert [(turn.start_s, turn.end_s) for turn in said] == [(i, i + 1) for i in range(5)]
    assert [span.round for span in session.context if span.part is Part.VIDEO] == [3, 4]
    policy = turn_positions.of(session.system)
    expected, _ = policy.place(session.context, 0, 0.5)
    where = session.cache.tokens[WATCHED].position_ids
    assert torch.equal(where, expected[:, : where.shape[1]]) and bool((where % 1 == 0.5).any())
    assert len(ids_of(session.context)) < 200


def test_turns_are_whole_patches(load_tiny):
    assert systems.get("streamingvlm").patches_of_turns(8) == (4, 4)
    assert systems.get("livecc").patches_of_turns(4, 0.5) == (6, 1)
    assert systems.get("livecc").patches_of_turns(0.5) == (1, 1)
    for fps, seconds in ((1, 1), (2, 0.5), (4, 0.75), (3, None)):
        with pytest.raises(UserError, match="patches of two frames at .* give turns of"):
            systems.get("livecc").patches_of_turns(fps, seconds)
    with pytest.raises(UserError, match="a turn of 3 s is 1.5 patches"):
        begin(at_fps(load_tiny("livecc"), 1), seconds_per_turn=3)
    with pytest.raises(UserError, match="'mrope_append' is none of livecc's: choose one of"):
        begin(load_tiny("livecc"), policy="mrope_append")


@pytest.mark.parametrize(("fps", "steps"), [(1, 2), (8, 16)])
def test_a_window_holds_its_seconds(load_tiny, fps, steps):
    loaded = at_fps(load_tiny("group"), fps)
    stream = streams.random_stream(loaded, [(1, 1)] * (steps + 3))
    session = Session(loaded.model, stream.prompt, keep=Window(4, 9, 9))
    source = streams.Paced(stream)
    streams.spoken_by(loaded.model, session, source)
    watched_steps = session.cache.tokens[WATCHED]
    kept = set(watched_steps.step[watched_steps.where(Kind.VIDEO)].tolist())
    assert kept == set(range(3, steps + 3))


@pytest.mark.parametrize("fps", [0.5, 1, 4, 8])
def test_the_live_grid_is_the_models(load_tiny, fps):
    picture = np.zeros((56, 56, 3), np.uint8)
    live, steps = LiveFrames(fps=fps), []
    for number in range(33):  # 16 pictures a second
        steps += live.push(10 + number / 16, picture + number)
    steps += live.flush()
    assert [step.arrival_s for step in steps] == [(2 * i + 1) / fps for i in range(len(steps))]
    on_display = [int(frame[0, 0, 0]) for step in steps for frame in step.frames]
    assert on_display == [min(round(i / fps * 16), 32) for i in range(len(on_display))]
    with pytest.raises(UserError, match="frames of 2 a second for a model that watches 8 a second"):
        StepEncoder(at_fps(load_tiny("group"), 8))(StepFrames(0, np.stack([picture] * 2), 0.5, True))
