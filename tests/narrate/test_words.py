"""Frames in, words out: the clock is honest and text comes whole."""

import numpy as np
import pytest

from swwatch.data.video import StepFrames
from swwatch.engine import source as module
from swwatch.engine.requests import drive
from swwatch.engine.source import FileSource
from swwatch.engine.trace import RealTimeClock, SimulatedClock, Watched
from swwatch.errors import UserError
from swwatch.narrate.words import Token, caption_of, narrate, narration, with_fast_path
from swwatch.rules.variants import VARIANTS, Speaks


def steps(n):
    frames = np.random.default_rng(0).integers(0, 255, (2, 56, 56, 3), dtype=np.uint8)
    return [StepFrames(i, frames, i + 0.5, i == n - 1, 2 * n) for i in range(n)]


def test_preparing_a_frame_counts_and_starts_when_the_frame_is_there(load_tiny, monkeypatch):
    """Encoding takes 0.4 s on this clock and all else nothing: each step's words come 0.4 s after its arrival."""
    wall = [0.0]

    class Slow(module.FrameEncoder):
        def encode(self, frames, num_frames):
            wall[0] += 0.4
            return super().encode(frames, num_frames)

    monkeypatch.setattr(module, "FrameEncoder", Slow)
    clock = SimulatedClock(now=lambda: wall[0])
    tokens = list(narrate(load_tiny("group"), steps(4), question="Q?", system="S", clock=clock, max_new_tokens=20))
    assert len({token.step for token in tokens}) == 4
    assert [token.t_emit_s - token.t_frame_s for token in tokens] == pytest.approx([0.4] * len(tokens))


def test_in_bursts_and_stalls_frames_come_late_and_words_with_them(load_tiny):
    def times(schedule):
        clock = SimulatedClock(now=lambda: 0.0)  # computing takes no time
        options = {"question": "Q?", "system": "S", "clock": clock, "max_new_tokens": 60, "schedule": schedule}
        tokens = list(narrate(load_tiny("group"), steps(6), **options))
        assert all(token.t_emit_s == token.t_frame_s for token in tokens)
        return list(dict.fromkeys(token.t_frame_s for token in tokens))

    assert times("wait-k:3") == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert times("burst:3:every=2") == [1.5, 3.5, 5.5]  # nothing is said of a step that others follow at once
    assert times("stall:3:every=2:pause=4") == [0.5, 1.5, 6.5, 7.5, 12.5, 13.5]


def test_text_of_the_tokens_is_the_decoded_caption(load_tiny):
    loaded = load_tiny("gap")
    tokens = list(narrate(loaded, steps(5), question="Q?", system="S", max_new_tokens=40))
    whole = loaded.tokenizer.decode([token.token_id for token in tokens], skip_special_tokens=True)
    assert caption_of(tokens).rstrip("\ufffd") == whole.strip().rstrip("\ufffd")


@pytest.mark.parametrize("engine", ["serial", "fused"])
def test_a_file_hands_its_steps_over_no_sooner_than_they_arrive(load_tiny, engine):
    """Each look at this clock takes 0.1 s, so that some steps arrive while words are said."""
    wall = [0.0]

    def model_time():
        wall[0] += 0.1
        return wall[0]

    clock = SimulatedClock(now=model_time)
    options = {"question": "Q?", "system": "S", "clock": clock, "max_new_tokens": 30, "engine": engine}
    events = list(drive(load_tiny("overlap").model, narration(load_tiny("overlap"), steps(8), **options)))
    watched = [event for event in events if isinstance(event, Watched)]
    assert [(event.step, event.arrival_s) for event in watched] == [(i, i + 0.5) for i in range(8)]
    assert all(event.t_s > event.arrival_s for event in watched)
    tokens = [event for event in events if isinstance(event, Token)]
    assert all(token.t_emit_s > token.t_frame_s for token in tokens)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_on_the_fast_path_it_says_the_same_and_has_room_for_all(load_tiny, variant):
    loaded, asked = load_tiny(variant), {"question": "Q?", "system": "S", "max_new_tokens": 40}
    fast = with_fast_path(loaded, steps(6)[0], **asked, num_steps=6, warm=True)
    engine = "fused" if VARIANTS[variant].speaks is Speaks.PARALLEL else "serial"
    said = [narrate(one, steps(6), **asked, engine=engine) for one in (loaded, fast)]
    ours, theirs = ([(token.step, token.token_id) for token in tokens] for tokens in said)
    assert ours == theirs and len(ours) > 10


def test_a_file_source_keeps_to_its_clock_and_is_read_as_it_is_wanted():
    read, wall = [], [0.0]

    def stepping():
        for step in steps(3):
            read.append(step.step)
            yield step

    clock = RealTimeClock(now=lambda: wall[0], sleep=lambda s: wall.__setitem__(0, wall[0] + s))
    source = FileSource(stepping(), lambda step: step, clock)
    assert read == [] and source.poll() is None and not source.ended and read == [0]
    source.wait(0.2)
    assert clock.now() == 0.2 and source.poll() is None
    source.wait()
    assert clock.now() == 0.5 and source.poll().step == 0 and source.poll() is None
    wall[0] = 9.0
    assert [source.poll().step, source.poll().step, source.poll()] == [1, 2, None] and source.ended
    assert source.orders() == []
    source.wait()  # returns: nothing comes any more
    simulated = FileSource(steps(1), lambda step: step, SimulatedClock(now=lambda: 0.0))
    simulated.wait(0)
    assert simulated.poll().step == 0, "simulated time goes on at once, whatever the limit"


def test_a_stream_without_frames_is_an_error(load_tiny):
    with pytest.raises(UserError, match="before its first frame"):
        list(narrate(load_tiny("group"), [], question="Q?", system="S"))
