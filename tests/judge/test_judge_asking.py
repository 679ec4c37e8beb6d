"""Many questions at once: how errors end the work."""

import threading

import pytest

from swwatch.errors import UserError
from swwatch.judge.asking import Verdict, work_off
from swwatch.judge.rate_limit import StopRequested


def refuse():
    raise UserError("refused")


def test_verdicts_come_in_the_order_of_the_tasks():
    last = threading.Event()
    tasks = {"slow": lambda: last.wait(10) and Verdict(1, ""), "quick": lambda: last.set() or Verdict(2, "")}
    assert list(work_off(tasks, 2, stop=lambda: None)) == ["slow", "quick"]


def test_the_error_that_ended_the_work_is_told_even_where_stopped_threads_end_first():
    seen = threading.Event()

    def stopped():
        raise StopRequested

    def refused_later():
        seen.wait(0.2)
        refuse()

    with pytest.raises(UserError, match="refused"):
        work_off({"a": stopped, "b": refused_later}, 2, stop=lambda: None)


def test_an_error_stops_before_the_next_task_begins():
    stops, begun_before_stop = [], []

    def task(number):
        if stops:
            raise StopRequested  # as the rate_limit does once it was stopped
        begun_before_stop.append(number)
        refuse()

    with pytest.raises(UserError):
        work_off({n: lambda n=n: task(n) for n in range(1000)}, 1, stop=lambda: stops.append(True))
    assert begun_before_stop == [0]


def test_what_is_under_way_at_an_error_is_finished():
    under_way, finished = threading.Event(), []

    def slow():
        under_way.set()
        ended.wait(10)
        finished.append(True)
        return Verdict(1, "")

    def bad():
        under_way.wait(10)
        refuse()

    ended = threading.Event()
    with pytest.raises(UserError):
        work_off({"slow": slow, "bad": bad}, 2, stop=ended.set)
    assert finished == [True]
