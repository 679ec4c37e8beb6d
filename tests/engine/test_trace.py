"""Clocks and moments, without a GPU: what they ask of one is noted."""

import torch

from swwatch.engine import trace


class Event:
    def __init__(self, enable_timing):
        assert enable_timing, "else its time cannot be asked for"

    def query(self):
        return True

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 250.0  # milliseconds


def test_a_moment_is_that_of_the_models_device_which_need_not_be_the_current_one(monkeypatch):
    asked = []

    class Stream:
        def record_event(self, event):
            return event

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: asked.append(device) or Stream())
    now = [1.0]
    moment = trace.DeviceMoment(torch.device("cuda", 1), trace.SimulatedClock(lambda: now[0]))
    assert moment.passed
    now[0] = 4.0
    assert moment.at_s() == 2.75  # 3 s after the clock began, less what the device says has passed since
    assert set(asked) == {torch.device("cuda", 1)}
