"""When tokens are spoken: the schedules, and how they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.policies.speak import Burst, RandomK, Stall, WaitK, parse_schedule
from swwatch.rules.schedule import Now

schedules = st.one_of(
    st.builds(WaitK, st.integers(1, 5)),
    st.builds(RandomK, st.integers(1, 4), st.integers(0, 99), st.text(max_size=3)),
    st.builds(Burst, st.integers(1, 3), st.integers(1, 4)),
    st.builds(Stall, st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
)


def at(step: int) -> Now:
    return Now(step, step + 0.5)


def test_random_schedule_is_seeded_per_clip_and_blind_to_the_reference():
    draws = [RandomK(3, seed=1, clip="a").budget(at(step)) for step in range(2000)]
    assert draws == [RandomK(3, seed=1, clip="a").budget(at(step)) for step in range(2000)]
    assert draws != [RandomK(3, seed=1, clip="b").budget(at(step)) for step in range(2000)]
    assert set(draws) == set(range(7))
    # mean 3, standard deviation 2: a mean of 2000 draws is off by more than 0.25 for one seed in 4e7
    assert abs(sum(draws) / 2000 - 3) < 0.25


def test_a_burst_is_silence_and_then_the_tokens_of_all_its_steps():
    burst = Burst(3, every=3)
    assert [burst.budget(at(step)) for step in range(7)] == [0, 0, 9, 0, 0, 9, 0]
    assert [burst.arrival_s(step, step + 0.5, 1.0) for step in range(6)] == [2.5] * 3 + [5.5] * 3


def test_in_a_stall_the_speaker_goes_on_and_later_steps_come_later():
    stall = Stall(3, every=2, pause=4)
    assert [stall.budget(at(step)) for step in range(4)] == [3, 15, 3, 15]
    assert [stall.arrival_s(step, step + 0.5, 1.0) for step in range(5)] == [0.5, 1.5, 6.5, 7.5, 12.5]


@given(schedules)
def test_arrival_never_precedes_the_frames_and_never_goes_back(schedule):
    times = [schedule.arrival_s(step, step + 0.5, 1.0) for step in range(30)]
    assert times == sorted(times) and all(at >= step + 0.5 for step, at in enumerate(times))


@given(schedules)
def test_schedule_text_round_trip(schedule):
    assert parse_schedule(str(schedule)).for_clip("a") == schedule.for_clip("a")


@pytest.mark.parametrize("text", ["wait-k:3", "random:2:seed=7", "burst:3:every=2", "stall:3:every=5:pause=2"])
def test_schedules_are_written_as_documented(text):
    assert str(parse_schedule(text)) == text


def test_options_left_out_take_their_defaults():
    assert parse_schedule("wait-k") == WaitK(3) and parse_schedule("random:k=2") == RandomK(2)
    assert parse_schedule("random:3") == RandomK(3) and parse_schedule("stall:3:pause=1") == Stall(3, 5, 1)


@pytest.mark.parametrize(
    "text",
    ["", "wait-k:", "wait-k:0", "wait-k:x", "wait-k:3:seed=1", "random:3:sead=1", "random:3:clip=a", "random:-1"]
    + ["burst:3:every=0", "burst:3:every=", "stall:3:pause=-1", "stall:3:pause=1:pause=2", "often"],
)
def test_unknown_schedule_is_refused(text):
    with pytest.raises(UserError, match="wait-k:3"):
        parse_schedule(text)
