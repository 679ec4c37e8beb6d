"""So many live sessions at the pace of a camera, for a while: do they keep up?"""

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from swwatch.bench.live.settings import LiveBenchSettings
from swwatch.bench.process import cpu_seconds
from swwatch.live.stage import Ended, LiveSession, Stage, Token, Watched

QUESTION = "What actions can be observed in the video?"
ENDLESS = 1_000_000  # tokens of an answer
EVENTS = 1_000_000  # they are read when the session is over
PERCENTILES = (50, 95, 99)


@dataclass
class Visit:
    """One session, when it began on the wall clock, and what became of its frames."""

    live: LiveSession
    begun_s: float
    frames: int = 0
    lost: int = 0
    most_queued: int = 0


class Viewer:
    """One of the sessions at once: where one ends the next begins.

    Args:
        offset_s: when its first session begins.
    """

    def __init__(self, stage: Stage, settings: LiveBenchSettings, pictures: Sequence[np.ndarray], offset_s: float):
        self.stage, self.settings, self.pictures, self.offset_s = stage, settings, pictures, offset_s
        self.pace = {"schedule": f"wait-k:{settings.k}", "choose": {"max_new_tokens": ENDLESS}}
        if settings.in_turns:
            self.pace = {"choose": {"max_new_tokens": settings.k}}
        self.visits: list[Visit] = []

    def frame_times(self, begin: float) -> Iterator[tuple[float, "Viewer"]]:
        """When each of its frames is due, without end."""
        return ((begin + self.offset_s + number / self.settings.rate, self) for number in itertools.count())

    def push(self) -> None:
        """The next frame."""
        settings = self.settings
        if not self.visits or self.visits[-1].frames >= round(settings.session_s * settings.rate):
            self.stop()
            live = self.stage.open(question=QUESTION, **self.pace, queue_size=settings.queue, max_events=EVENTS)
            self.visits.append(Visit(live, time.perf_counter()))
        visit = self.visits[-1]
        pushed = visit.live.push(visit.frames / settings.rate, self.pictures[visit.frames % len(self.pictures)])
        visit.frames += 1
        visit.lost, visit.most_queued = pushed.dropped, max(visit.most_queued, pushed.queued)

    def stop(self) -> None:
        if self.visits:
            self.visits[-1].live.stop()


def attempt(
    open_stage: Callable[[int], Stage], sessions: int, settings: LiveBenchSettings, pictures: Sequence[np.ndarray]
) -> dict:
    """Run so many sessions, begun evenly over the length of one, and measure when all are there.

    Args:
        open_stage: max_sessions -> a new Stage.
        pictures: frames (H, W, 3), shown in turn.
    Returns:
        sessions; first_response_s: from the arrival of a session's first step to its first token, by percentile;
        lag_s: from the arrival of the newest step that a token could see to the token, by percentile; first_frame_s:
        as the first, from the session's first frame on, for the camera needs half a second for a step; begun,
        unanswered: sessions that began while measured, those of them that said nothing; lost: steps dropped;
        most_queued: steps that waited at once in one session; tokens_per_s, steps_per_s; sender_late_s: by how much
        the 95th percentile of the frames was pushed too late, the benchmark's own fault; cores: CPU cores used, by
        model and senders; load: load average at the end; errors: what ended sessions before their time.
    """
    stage, over = open_stage(2 * sessions), threading.Event()  # one that was stopped may need a moment to end
    offsets = [number / sessions * settings.session_s for number in range(sessions)]
    viewers = [Viewer(stage, settings, pictures, offset_s) for offset_s in offsets]
    groups = [viewers[number :: settings.senders] for number in range(min(settings.senders, sessions))]
    begin = time.perf_counter() + settings.session_s
    end = begin + settings.seconds
    try:
        with ThreadPoolExecutor(len(groups), thread_name_prefix="sender") as pool:
            try:
                sending = [pool.submit(send, group, begin - settings.session_s, end, over) for group in groups]
                _sleep_until(begin)
                cpu_s = cpu_seconds()
                _sleep_until(end)
                cores = (cpu_seconds() - cpu_s) / settings.seconds
            finally:
                over.set()
        late = [late_s for future in sending for late_s in future.result()]
        heard = [(visit, _read(visit.live)) for viewer in viewers for visit in viewer.visits]
    finally:
        stage.close()
    return _figures(sessions, settings, heard, (begin, end), late, cores)


def send(viewers: Sequence[Viewer], begin: float, end: float, over: threading.Event) -> list[float]:
    """Push the frames of some viewers when they are due, to the end or until it is over; then stop their sessions.

    Returns:
        By how much each frame was late, seconds.
    """
    late = []
    try:
        for at, viewer in heapq.merge(*(viewer.frame_times(begin) for viewer in viewers), key=itemgetter(0)):
            if at >= end or over.wait(max(0.0, at - time.perf_counter())):
                break
            late.append(time.perf_counter() - at)
            viewer.push()
        over.wait(max(0.0, end - time.perf_counter()))
    finally:
        for viewer in viewers:
            viewer.stop()
    return late


def _read(live: LiveSession) -> list:
    """All events of a session that was stopped."""
    events: list = []
    while not events or not isinstance(events[-1], Ended):
        events += live.read(1.0)
    return events


def _figures(
    sessions: int, settings: LiveBenchSettings, heard, measured: tuple[float, float], late: list[float], cores: float
) -> dict:
    begin, end = measured
    first, first_frame, lags, errors = [], [], [], []
    unanswered = steps = 0
    for visit, events in heard:
        tokens = [event for event in events if isinstance(event, Token)]
        inside = [token for token in tokens if begin <= visit.begun_s + token.t_emit_s < end]
        lags += [token.t_emit_s - token.t_frame_s for token in inside]
        steps += sum(isinstance(event, Watched) and begin <= visit.begun_s + event.t_s < end for event in events)
        if events[-1].error is not None:
            errors.append(str(events[-1].error) or repr(events[-1].error))
        if begin <= visit.begun_s < end - settings.answer_s:
            unanswered += not tokens
            first += [token.t_emit_s - token.t_frame_s for token in tokens[:1]]
            first_frame += [token.t_emit_s for token in tokens[:1]]
    return {
        "sessions": sessions,
        "first_response_s": percentiles(first),
        "lag_s": percentiles(lags),
        "first_frame_s": percentiles(first_frame),
        "begun": len(first) + unanswered,
        "unanswered": unanswered,
        "lost": sum(visit.lost for visit, _ in heard),
        "most_queued": max(visit.most_queued for visit, _ in heard),
        "tokens_per_s": len(lags) / settings.seconds,
        "steps_per_s": steps / settings.seconds,
        "sender_late_s": float(np.percentile(late, 95)),
        "cores": cores,
        "load": os.getloadavg()[0],
        "errors": list(dict.fromkeys(errors)),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99; nothing of nothing."""
    if not values:
        return {}
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.perf_counter()))
