"""The arithmetic of the streaming benchmark: bounds, medians, spread, the search for the highest rate, the verdict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.bench.gpus import known_rates
from swwatch.bench.inputs import most_square
from swwatch.bench.source import Camera, Stretch
from swwatch.bench.stopwatch import TimedCall
from swwatch.bench.stream.bounds import Roof, overlap_gain, reprefill_tokens, serial_tokens
from swwatch.bench.stream.figures import compare, engine_row, growth, same_tokens, spread
from swwatch.bench.stream.played import Played
from swwatch.bench.stream.settings import Point, StreamBenchSettings
from swwatch.bench.stream.soak import summary
from swwatch.bench.stream.sustain import CLOSE, RateTrial, attempt, search
from swwatch.bench.trust import verdict
from swwatch.engine.source import Step
from swwatch.engine.trace import SimulatedClock

positive = st.floats(1e-4, 10)


@given(positive, positive)
def test_the_bound_is_two_where_both_sides_are_equal_and_one_where_a_side_is_nothing(watch_s, speak_s):
    bound = overlap_gain(watch_s, speak_s)
    assert 1 <= bound <= 2 and overlap_gain(watch_s, watch_s) == 2
    assert overlap_gain(watch_s, speak_s, a=2.0, b=2.0) == pytest.approx(bound / 2)
    assert overlap_gain(1.0, 1e-9) == pytest.approx(1)


def test_the_rooflines_of_the_fused_engine_are_those_of_the_design():
    # 7B in bf16 on an H200: below about 200 tokens a forward both sides are bound by reading the weights
    roof = Roof(weight_bytes=14_100_000_000, parameters=7_050_000_000, bandwidth=4.8e12, flops=9.0e14)
    assert roof.fused_gain(64, 3) == pytest.approx(4 / 3) and roof.fused_gain(16, 1) == pytest.approx(2)
    assert roof.decode_per_s() == pytest.approx(4.8e12 / 14.1e9)
    assert roof.serial_steps_per_s(64, 3) == pytest.approx(roof.decode_per_s() / 4)
    assert roof.fused_steps_per_s(64, 3) == pytest.approx(roof.decode_per_s() / 3)
    assert roof.fused_gain(64, 3, 2) == pytest.approx(6 / 3) and roof.fused_gain(16, 2, 2) == pytest.approx(5 / 2)
    gains = [roof.fused_gain(tokens, 3) for tokens in (64, 256, 560, 2000, 100_000)]
    assert max(gains) == gains[2] <= 2 and gains[-1] == pytest.approx(1, abs=0.01), "most where balanced"


def test_a_device_bound_by_computing_gains_nothing_by_fusing():
    roof = Roof(weight_bytes=4, parameters=1, bandwidth=1e12, flops=1.0)
    assert roof.fused_gain(64, 3) == pytest.approx(1)


@given(st.integers(1, 300), st.integers(1, 8), st.integers(1, 40))
def test_the_counts_are_sums_over_steps(video_tokens, k, steps):
    sizes = {"prompt": 30, "suffix": 3, "header": 3}
    once, fed = serial_tokens(video_tokens, k, steps, **sizes), 0
    for step in range(steps):
        whole = 30 + (step + 1) * video_tokens + 3 + step * k + (3 if step == steps - 1 else 0)
        fed += whole + k - 1
    assert reprefill_tokens(video_tokens, k, steps, **sizes) == fed
    assert once == 30 + steps * video_tokens + 6 + steps * k - 1


@pytest.mark.parametrize(
    ("gpu", "rate"),
    [("NVIDIA H200", 4.8e12), ("NVIDIA H100 PCIe", 2.0e12), ("NVIDIA A100-SXM4-80GB", 2.039e12), ("GTX 970", None)],
)
def test_the_bandwidth_is_that_of_the_gpus_name(gpu, rate):
    assert known_rates(gpu)[1] == rate


def played(step_s=1.0, steps=5, k=2, watch_s=0.6, kinds=("watch", "speak")):
    """A run whose steps take step_s: watching first, then k tokens."""
    run = Played(first_s=0.0)
    run.meters = {"watched": []}
    for step in range(steps):
        begin = step * step_s
        asked = begin + 1e-7  # after the last token was out
        run.work.append(TimedCall(kinds[0], 4, 0, asked, asked + watch_s))
        run.work.append(TimedCall(kinds[1], 0, k, asked + watch_s, begin + step_s))
        for i in range(k):
            run.tokens.append(len(run.tokens))
            run.steps.append(step)
            run.emit_s.append(begin + watch_s + (step_s - watch_s) * (i + 1) / k)
            run.meters["watched"].append(4 * (step + 1))
    run.cpu_s = steps * step_s
    return run


def test_a_row_has_the_times_of_the_steps_between_the_first_and_the_last():
    run = played()
    assert run.step_times() == pytest.approx([1.0, 1.0, 1.0])
    row = engine_row([run, played(step_s=2.0, watch_s=1.6), run], peak=None)
    assert row["step_s"] == pytest.approx(1.0), "the median of three runs"
    assert (row["watch_s"], row["speak_s"]) == (pytest.approx(0.6, abs=1e-5), pytest.approx(0.4, abs=1e-5))
    assert row["growth"] == pytest.approx(1) and row["first_token_s"] == pytest.approx(0.8)
    assert row["gap_s"]["alone"]["n"] == 15 and row["gap_s"]["while_watching"]["median"] == pytest.approx(0.8)


def test_work_that_does_both_counts_to_both():
    row = engine_row([played(kinds=("both", "speak"))], peak=None)
    assert row["watch_s"] == pytest.approx(0.6, abs=1e-5) and row["speak_s"] == pytest.approx(1.0, abs=1e-5)


def test_gains_are_told_against_the_serial_engine_and_the_baseline():
    point, roof = Point("toy", 4, 2, 5), Roof(100, 50, 1e3, 1e6)
    rows = {
        "serial": engine_row([played()], peak=None),
        "fused": engine_row([played(step_s=0.8, kinds=("both", "speak"))], peak=None),
        "reprefill": engine_row([played(step_s=4.0)], peak=None),
        "streams": {"not_measured": "no GPU"},
    }
    found = compare(point, rows, None, roof)
    assert found["bound"] == pytest.approx(1 / 0.6, abs=1e-5) and found["decode_per_s"] == pytest.approx(
        2 / 0.4, rel=1e-5
    )
    assert rows["fused"]["gain"] == pytest.approx(1.25) and rows["fused"]["times_reprefill"] == pytest.approx(5)
    assert rows["fused"]["a"] == pytest.approx(1, abs=1e-5) and "a" not in rows["reprefill"]
    assert rows["serial"]["gain"] == 1 and rows["streams"] == {"not_measured": "no GPU"}


def test_spread_looks_past_a_steady_rise_and_sees_a_restless_machine():
    rising = [1 + 0.1 * i for i in range(12)]
    assert spread([rising, rising]) == pytest.approx(0, abs=1e-9)
    restless = [value * (1.4 if i % 2 else 1) for i, value in enumerate(rising)]
    assert spread([restless, restless]) > 0.2
    assert spread([[1.0, 2.0]]) is None
    assert growth(rising) == pytest.approx((1 + 0.95) / (1 + 0.15))


def test_tokens_are_compared_up_to_the_first_difference():
    assert (same_tokens([1, 2, 3], [1, 2, 3]), same_tokens([1, 9, 3], [1, 2, 3])) == (3, 1)


QUIET = {"load": 0.2, "cores": 2, "others": 0.1, "spreads": [("serial", 0.05), ("reprefill", None)]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"others": None}, None),
        ({"load": 1.2}, "load average 1.20"),
        ({"others": 0.3}, "30% of the cores"),
        ({"spreads": [("fused", 0.4)]}, "fused spread by 40%"),
        ({"gpu_bytes": 3e9}, "3.0 GB of the GPU"),
    ],
)
def test_the_verdict_follows_its_rule(change, reason):
    text = verdict(StreamBenchSettings(), **QUIET | change)
    assert text["trusted"] == (reason is None)
    assert reason is None or reason in text["reasons"][0]
    assert "50%" not in text["rule"] and "0.5 for each core" in text["rule"]


@given(st.floats(0.5, 200), st.floats(0.05, 20))
def test_the_search_ends_just_below_what_an_engine_can_do(capacity, off):
    def tried(rate):
        return RateTrial(rate, 100, 0 if rate <= capacity else 3, 0, 1, 1.0, 1)

    rate, trials = search(tried, capacity * off)
    assert rate is not None and capacity / CLOSE <= rate <= capacity
    assert len(trials) <= 14


def test_nothing_held_is_told_as_nothing():
    rate, trials = search(lambda rate: RateTrial(rate, 100, 1, 0, 1, 1.0, 1), 10.0)
    assert rate is None and len(trials) == 14


def test_a_trial_is_held_only_without_drops_and_without_a_growing_queue():
    base = {"rate": 1.0, "steps": 50, "most": 8, "seconds": 1.0, "tokens": 1}
    assert RateTrial(dropped=0, backlog=1, **base).held
    assert not RateTrial(dropped=1, backlog=0, **base).held and not RateTrial(dropped=0, backlog=2, **base).held


class Hand:
    """A clock that is moved by hand."""

    def __init__(self):
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def arrive(self, at_s: float) -> None:
        self.at = max(self.at, at_s)


STEP = [Step(None, None, 0.0)]


def test_a_full_queue_drops_the_oldest_and_counts_it():
    clock = Hand()
    camera = Camera(STEP, clock, rate=2.0, count=10, size=3)
    assert camera.poll().arrival_s == 0.0 and camera.poll() is None
    clock.at = 2.0  # steps 1 to 4 have come, the first of them fell out
    assert camera.poll().arrival_s == 1.0 and camera.dropped == 1
    camera.wait()
    assert clock.at == 2.0, "something waits already"
    clock.at = 100.0
    seen = [camera.poll() for _ in range(3)]
    assert camera.ended and seen[-1].last and not seen[0].last and camera.dropped == 5


def test_a_camera_without_news_lets_time_pass_until_the_next_step():
    clock = Hand()
    camera = Camera(STEP, clock, rate=4.0, count=3, size=2)
    camera.poll()
    camera.wait()
    assert clock.at == 0.25 and camera.poll().arrival_s == 0.25


@pytest.mark.parametrize(("cost_s", "held"), [(0.09, True), (0.13, False)])
def test_a_rate_is_held_by_sessions_that_take_less_than_a_steps_time(cost_s, held):
    clock = Hand()
    lengths = []

    def run_session(part: Stretch) -> int:
        taken = 0
        while not part.ended:
            if (step := part.poll()) is None:
                part.wait()
                continue
            clock.at += cost_s
            taken += 1
            if step.last:
                break
        lengths.append(taken)
        return taken

    trial = attempt(run_session, STEP, clock, 10.0, hold_s=3.0, session_steps=7, queue=4)
    assert trial.held is held and trial.steps == 30 == sum(lengths) + trial.dropped
    assert set(lengths[:-1]) == {7}


def test_the_soak_is_told_in_equal_stretches():
    samples = [
        {"at_s": 100.0 + i, "step": i // 2, "busy_s": 0.1, "lag_s": 0.2, "memory": i, "cache": i, "position": i}
        for i in range(40)
    ]
    text = summary(samples, periods=4)
    assert len(text) == 4 and [line["position"] for line in text] == [9, 19, 29, 39]
    assert text[0]["step_s"] == pytest.approx(0.2) and text[1]["from_s"] == pytest.approx(39 / 4)


def test_a_real_clock_serves_the_camera_too():
    camera = Camera(STEP, SimulatedClock(), rate=1000.0, count=2, size=2)
    camera.poll()
    camera.wait()
    assert camera.poll().last


def test_grids_are_as_square_as_can_be():
    assert [most_square(n) for n in (16, 64, 128, 256, 512, 1024, 7)] == [
        (4, 4),
        (8, 8),
        (8, 16),
        (16, 16),
        (16, 32),
        (32, 32),
        (1, 7),
    ]
