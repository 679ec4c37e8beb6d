"""What tests of live sessions share: frames, a stage that is closed, a reader, and sessions run alone."""

import time
from contextlib import contextmanager

import numpy as np

from swwatch.engine.batch import Ended
from swwatch.live.stage import Stage, Thought, Token

QUESTION, WAIT_S = "What is going on?", 60  # longer than anything here takes: only a fault lets it pass


def frames(count: int, seed: int = 0, size: tuple[int, int] = (56, 84)) -> list[np.ndarray]:
    """Random pictures, each (H, W, 3)."""
    return list(np.random.default_rng(seed).integers(0, 255, (count, *size, 3), dtype=np.uint8))


@contextmanager
def stage_of(loaded, **options):
    stage = Stage(loaded, **options)
    try:
        yield stage
    finally:
        stage.close(WAIT_S)


def push_all(session, pictures, start_s: float = 0.0, fps: float = 2.0) -> list:
    return [session.push(start_s + i / fps, picture) for i, picture in enumerate(pictures)]


def read_to_end(session) -> tuple[list, Ended]:
    """All events, the last apart."""
    events = []
    while not events or not isinstance(events[-1], Ended):
        new = session.read(WAIT_S)
        assert new, f"nothing came for {WAIT_S} s after {events[-3:]}"
        events += new
    assert sum(isinstance(event, Ended) for event in events) == 1
    return events[:-1], events[-1]


def read_until(session, found) -> list:
    """Events up to the first batch of them that makes `found(all of them)` true."""
    events = []
    while not found(events):
        new = session.read(WAIT_S)
        assert new and not isinstance(new[-1], Ended), f"ended or silent after {events[-3:]}: {new}"
        events += new
    return events


def wait_for(true) -> None:
    """Return when `true()` is, which some other thread brings about."""
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"not within {WAIT_S} s"
        time.sleep(0.001)


def said(events) -> list[tuple]:
    """Tokens, and those of thoughts, without their times."""
    told = [e for e in events if isinstance(e, Token | Thought)]
    return [(e.step, e.token_id, e.newest_visible_step, e.text) for e in told]


def narrate_alone(loaded, pictures, **options) -> list[tuple]:
    """The same frames in a stage of their own."""
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, queue_size=len(pictures) + 1, **options)
        push_all(session, pictures)
        session.end()
        events, end = read_to_end(session)
    assert end == Ended(), end
    return said(events)
