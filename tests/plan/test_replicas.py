"""Simulated viewers: nobody is lost or counted twice, limits hold, and lags are those that were told."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.cli import main
from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.plan.replicas import ReplicaPlanSettings, drawn_viewers, measured_lag, planned_lag, simulate


def asked(**flags) -> ReplicaPlanSettings:
    return load_settings(ReplicaPlanSettings, flags={"model": "toy"} | flags)


@settings(max_examples=40, deadline=None)
@given(
    sessions=st.integers(1, 60),
    replicas=st.integers(1, 5),
    limit=st.integers(1, 6),
    placement=st.sampled_from(["least", "random"]),
    seed=st.integers(0, 9),
)
def test_every_viewer_is_served_for_his_time_or_refused(sessions, replicas, limit, placement, seed):
    case = asked(sessions=sessions, replicas=replicas, placement=placement, seed=seed, span_s=100, mean_s=30, spread=0)
    found = simulate(case, limit)
    assert found.time_at.total() == pytest.approx(30 * (sessions - found.refused))
    assert found.peak <= limit * replicas and max(found.time_at) <= limit
    assert 1 <= found.mean() <= limit
    assert found.refused < sessions


def test_whoever_finds_all_replicas_full_is_refused_by_either_placement():
    at_once = {"sessions": 50, "replicas": 4, "span_s": 1e-6, "spread": 0}
    for placement in ("least", "random"):
        found = simulate(asked(placement=placement, **at_once), 3)
        assert (found.refused, found.peak) == (50 - 12, 12)


def test_as_many_watch_at_once_as_arrive_while_one_stays():
    """Little's law: with 5 arrivals a second that stay for 75 s there are 375, after a while; and a seed is a run."""
    case = {"sessions": 10_000, "replicas": 100, "span_s": 2000, "mean_s": 100, "seconds": 150}
    viewers = drawn_viewers(asked(**case), random.Random(0))
    stay = sum(stay for _, stay in viewers) / len(viewers)
    assert 60 < stay < 90, "cut off at 150 s"
    found = simulate(asked(**case), 99)
    assert found.refused == 0 and found.time_at.total() == pytest.approx(stay * len(viewers))
    assert 5 * stay < found.peak < 1.25 * 5 * stay
    assert found == simulate(asked(**case), 99) != simulate(asked(**case, seed=1), 99)


def test_a_door_that_knows_how_full_replicas_are_spreads_better_than_chance():
    case = {"sessions": 2000, "replicas": 20, "span_s": 2000, "mean_s": 100}
    assert (
        simulate(asked(placement="least", **case), 99).mean() < simulate(asked(placement="random", **case), 99).mean()
    )


def test_lag_is_told_by_share_of_the_time_of_all_sessions():
    found = simulate(asked(sessions=2, replicas=1, span_s=1e-6, mean_s=10, spread=0), 5)
    assert found.lag_at(float, 0.5) == found.lag_at(float, 0.99) == 2.0
    assert found.late(float, 1.9) == pytest.approx(1) and found.late(float, 2.0) == 0


def test_a_planned_replica_that_falls_behind_is_late_without_end():
    lag_of, good, most = planned_lag(asked(share=0.5, device="L4", model="0.2b"))
    case = asked(device="L4", model="0.2b")
    assert lag_of(1) < lag_of(good) <= 2 * case.step_s and good <= most
    assert lag_of(10**6) == math.inf


def test_measured_lags_are_read_between_what_was_tried(tmp_path, capsys):
    trials = [{"sessions": n, "lag_s": {"p95": lag}} for n, lag in ((4, 0.3), (1, 0.1), (2, 0.2), (8, 0.25))]
    path = tmp_path / "bench_live.json"
    path.write_text(json.dumps({"trials": [*trials, {"sessions": 99, "lag_s": {}}], "sessions_held": 4}))
    lag_of, held, tried = measured_lag(path)
    assert (held, tried) == (4, 8)
    assert [lag_of(n) for n in (1, 2, 3, 4, 6, 8, 9)] == pytest.approx([0.1, 0.2, 0.25, 0.3, 0.3, 0.3, math.inf])

    case = ["plan", "replicas", "--measured", str(path), "--sessions", "100", "--replicas", "3"]
    assert main(case) == 0
    assert "100 viewers" in (out := capsys.readouterr().out) and "| 4 " in out
    assert main([*case, "--limits", "4,16"]) == 2
    assert "more than 8" in capsys.readouterr().err
    for wrong in ("{}", json.dumps({"trials": [], "sessions_held": 0})):
        path.write_text(wrong)
        with pytest.raises(UserError):
            measured_lag(path)
