"""Frames pushed one by one give the steps of the file; and what happens when a live source misbehaves."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.live.frames import LiveFrames
from swwatch.data.video import iter_steps
from swwatch.errors import UserError
from swwatch.toy.clips import encode
from swwatch.toy.world import make_scene


def write(path, times, time_base):
    """Frames of the toy world's kind at the given times, in units of `time_base`; no two are alike."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "18", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = time_base
        for time in times:
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = int(time), time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def frames_in(path):
    """(timestamp_s, frame) of every frame, and the end of the last."""
    with av.open(str(path)) as file:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    with av.open(str(path)) as file:
        end_s = max((p.pts + p.duration) * p.time_base for p in file.demux(video=0) if p.pts is not None)
    return frames, float(end_s)


def push_all(live, frames):
    return [step for time, frame in frames for step in live.push(time, frame)]


def assert_same_steps(ours, path):
    theirs = list(iter_steps(path, max_frames=None))
    assert [(s.step, s.arrival_s) for s in ours] == [(s.step, s.arrival_s) for s in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert np.array_equal(our.frames, their.frames)
        assert our.num_frames is None


@pytest.mark.parametrize(
    "rate", [Fraction(10), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30)], ids=str
)
@pytest.mark.parametrize("seconds", [4.0, 5.7])
def test_a_file_pushed_frame_by_frame_gives_its_very_steps(tmp_path, rate, seconds):
    path = write(tmp_path / "a.mp4", range(round(seconds * rate)), 1 / rate)
    frames, end_s = frames_in(path)
    live = LiveFrames()
    steps = push_all(live, frames)
    assert_same_steps(steps + live.flush(end_s), path)
    assert live.counts.frames == len(frames) and live.counts.steps >= 4


@pytest.mark.parametrize("rate", [10, 25])
def test_a_toy_clip_needs_no_end(tmp_path, rate):
    (tmp_path / "toy.mp4").write_bytes(encode(make_scene(0, 3), rate))
    live = LiveFrames()
    steps = push_all(live, frames_in(tmp_path / "toy.mp4")[0])
    assert_same_steps(steps + live.flush(), tmp_path / "toy.mp4")


@pytest.mark.parametrize("seed", range(4))
def test_variable_frame_rate(tmp_path, seed):
    gaps_ms = np.random.default_rng(seed).choice([5, 33, 40, 250, 1700], size=30, p=[0.2, 0.3, 0.3, 0.15, 0.05])
    path = write(tmp_path / "a.mp4", np.concatenate([[70], 70 + np.cumsum(gaps_ms)]), Fraction(1, 1000))
    frames, end_s = frames_in(path)
    live = LiveFrames()
    assert_same_steps(push_all(live, frames) + live.flush(end_s), path)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 6, 15, 16])
def test_a_lone_frame_makes_a_pair_and_an_odd_one_is_left_out(tmp_path, num_frames):
    path = write(tmp_path / "a.mp4", range(num_frames), Fraction(1, 10))
    live = LiveFrames()
    steps = push_all(live, frames_in(path)[0])
    assert_same_steps(steps + live.flush(), path)
    with pytest.raises(ValueError, match="flushed"):
        live.push(9, picture(0))
    assert live.flush() == []


# ---- rules, on numbered pictures ------------------------------------------------------------------------------------


def picture(number, size=(2, 2)):
    return np.full((*size, 3), number, np.uint8)


def shown(steps):
    return [tuple(int(frame.flat[0]) for frame in step.frames) for step in steps]


def arrivals(steps):
    return [step.arrival_s for step in steps]


@settings(max_examples=300)
@given(st.lists(st.integers(1, 3000), max_size=40), st.integers(1, 2500), st.integers(-(10**9), 10**9))
def test_grid_agrees_with_its_definition(gaps_ms, last_ms, zero_ms):
    starts_ms = np.concatenate([[0], np.cumsum(gaps_ms, dtype=int)])
    end_ms = int(starts_ms[-1]) + last_ms
    live = LiveFrames(hold_s=4)
    steps = push_all(live, [((zero_ms + s) / 1000, picture(i)) for i, s in enumerate(starts_ms.tolist())])
    steps += live.flush((zero_ms + end_ms) / 1000)
    wanted = [max(i for i, s in enumerate(starts_ms) if s <= t) for t in range(0, max(1, end_ms), 500)]
    wanted = wanted * 2 if len(wanted) == 1 else wanted
    assert shown(steps) == list(zip(wanted[::2], wanted[1::2], strict=False))
    assert arrivals(steps) == [i + 0.5 for i in range(len(steps))]


def test_a_step_is_decided_by_the_first_frame_at_or_after_its_second_grid_time():
    live = LiveFrames()
    assert live.push(7.0, picture(0)) == [] and live.push(7.4, picture(1)) == []
    assert shown(live.push(7.5, picture(2))) == [(0, 2)]  # on the grid time: it is on display then
    assert live.push(8.4, picture(3)) == []
    assert shown(live.push(8.6, picture(4))) == [(2, 3)]  # after it: the frame before was on display


def test_timestamps_rounded_to_a_float_still_hit_the_grid():
    live = LiveFrames()
    assert shown(push_all(live, [(0.0, picture(0)), (0.49999, picture(1))])) == [(0, 1)]
    assert shown(push_all(live, [(1.00001, picture(2)), (1.50009, picture(3))])) == [(2, 3)]


def test_a_repeated_time_and_a_late_frame_are_dropped_and_counted():
    live = LiveFrames()
    frames = [(0, 0), (0, 9), (0.4, 1), (0.3, 9), (0.4, 9), (0.5, 2), (1.0, 3), (1.0, 9), (1.5, 4)]
    assert shown(push_all(live, [(time, picture(i)) for time, i in frames])) == [(0, 2), (3, 4)]
    assert (live.counts.repeated, live.counts.late, live.counts.restarts) == (3, 1, 0)
    assert live.counts.frames == len(frames)


def test_a_source_that_begins_again_goes_on_in_stream_time():
    live = LiveFrames()
    first = push_all(live, [(100 + i / 4, picture(i)) for i in range(9)])  # 100 .. 102
    again = push_all(live, [(3 + i / 4, picture(100 + i)) for i in range(9)])  # a clock far behind
    assert live.counts.restarts == 1 and live.counts.late == 0
    assert arrivals(first + again) == [0.5, 1.5, 2.5, 3.5]
    assert shown(first + again) == [(0, 2), (4, 6), (8, 101), (103, 105)]
    assert live.newest_s == 4.25


def test_a_stall_shows_the_last_frame_up_to_the_limit_and_then_skips_whole_seconds():
    live = LiveFrames(hold_s=3)
    push_all(live, [(0, picture(0)), (0.5, picture(1)), (1.0, picture(2))])
    steps = live.push(9.2, picture(3))  # the last frame, of 1.0, stays until 4.0
    assert shown(steps) == [(2, 2)] * 4 and arrivals(steps) == [1.5, 2.5, 3.5, 4.5]
    assert (live.counts.gaps, live.counts.skipped_s) == (1, 5)  # seconds 5 to 9
    steps = push_all(live, [(9.9, picture(4)), (10.3, picture(5)), (10.5, picture(6))])
    assert shown(steps) == [(4, 6)] and arrivals(steps) == [10.5] and [s.step for s in steps] == [5]


def test_a_stall_below_the_limit_skips_nothing():
    live = LiveFrames(hold_s=3)
    assert shown(push_all(live, [(0, picture(0)), (3.1, picture(1))])) == [(0, 0)] * 3
    assert live.counts.gaps == live.counts.skipped_s == 0


@pytest.mark.parametrize("jump_s", [1e3, 1e6, 1e10])
def test_a_jump_ahead_of_any_length_makes_no_more_steps_than_the_limit(jump_s):
    live = LiveFrames(hold_s=5)
    steps = push_all(live, [(0, picture(0)), (jump_s, picture(1)), (jump_s + 0.5, picture(2))])
    assert shown(steps) == [(0, 0)] * 6 + [(1, 2)] and arrivals(steps)[-1] == jump_s + 0.5
    assert live.counts.skipped_s == jump_s - 6


def test_the_end_of_a_long_last_frame_is_held_no_longer_than_the_limit():
    live = LiveFrames(hold_s=3)
    live.push(0, picture(0))
    steps = live.flush(100)
    assert shown(steps) == [(0, 0)] * 4 and [s.last for s in steps] == [False, False, False, True]


def test_steps_have_one_size_and_the_newer_frame_decides():
    live = LiveFrames()
    small, large = (2, 4), (6, 8)
    sizes = [small, small, small, large, large, large]
    steps = push_all(live, [(i / 2, picture(i, size)) for i, size in enumerate(sizes)])
    assert shown(steps) == [(0, 1), (3, 3), (4, 5)]
    assert [step.frames.shape[1:3] for step in steps] == [small, large, large]
    assert live.counts.size_changes == 1


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 0.03, 0.5, 1, 7, 50, -0.1, -1, -40]), st.integers(1, 3)), min_size=1, max_size=60
    )
)
def test_whatever_comes_steps_are_in_order_and_bounded(moves):
    live, time_s, steps = LiveFrames(hold_s=4), 0.0, []
    for move_s, size in moves:
        time_s += move_s
        made = live.push(time_s, picture(0, (size, 1)))
        assert len(made) <= 6
        steps += made
    steps += live.flush()
    assert [step.step for step in steps] == list(range(len(steps))) and steps
    assert all(b - a >= 1 for a, b in zip(arrivals(steps), arrivals(steps)[1:], strict=False))
    assert all(step.arrival_s % 1 == 0.5 for step in steps)
    counts = live.counts
    assert counts.frames == len(moves) and counts.steps == len(steps)
    seconds = math.floor(steps[-1].arrival_s) + 1
    assert seconds - counts.skipped_s <= len(steps) <= seconds


@pytest.mark.parametrize(
    "frame, words",
    [
        (np.zeros((2, 2, 3), np.float32), "uint8, not an array of float32"),
        ([[0, 0, 0]], "not list"),
        (np.zeros((2, 2), np.uint8), "must be .height, width, 3."),
        (np.zeros((2, 2, 4), np.uint8), "must be .height, width, 3."),
        (np.zeros((0, 2, 3), np.uint8), "must be .height, width, 3."),
    ],
)
def test_a_frame_of_another_form_is_the_senders_mistake(frame, words):
    live = LiveFrames()
    with pytest.raises(UserError, match=words):
        live.push(0, frame)
    assert live.counts.frames == 0


@pytest.mark.parametrize("time_s", [math.nan, math.inf, -math.inf, 1.7e12])
def test_a_time_that_is_none_is_the_senders_mistake(time_s):
    with pytest.raises(UserError, match="times are seconds"):
        LiveFrames().push(time_s, picture(0))


def test_no_frames_make_no_steps():
    assert LiveFrames().flush() == []
    with pytest.raises(UserError, match="hold_s"):
        LiveFrames(hold_s=0)
