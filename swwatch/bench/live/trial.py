"""So many live sessions at the pace of a camera, for a while: do they keep up?"""

import heapq
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from swwatch.bench.stream.measure import cpu_seconds
from swwatch.live.stage import Ended, LiveSession, Stage, Token, Watched
from swwatch.policies.choose import Greedy

QUESTION = "What actions can be observed in the video?"
ENDLESS = Greedy(max_new_tokens=1_000_000)
LATE_S = 0.1  # a sender that is so late with a frame is no camera any more
EVENTS = 1_000_000  # they are read when the session is over
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Pace:
    """What every session does.

    Attributes:
        rate: frames a second; k: tokens spoken a step; queue: steps that may wait.
        session_s: a session's length; the next one then takes its place at once.
        seconds: measured, when all places are taken.
        answer_s: a session that began so long before the end must have spoken.
        senders: threads that push frames, for all sessions.
    """

    rate: float = 2.0
    k: int = 3
    queue: int = 8
    session_s: float = 20.0
    seconds: float = 20.0
    answer_s: float = 2.0
    senders: int = 4


@dataclass(frozen=True)
class Trial:
    """What came of `sessions` at once.

    Attributes:
        first_response_s: from the arrival of a session's first step to its first token, by percentile.
        lag_s: from the arrival of the newest step that a token could see to the token, by percentile.
        first_frame_s: as the first, from the session's first frame on: the camera needs half a second for a step.
        begun, unanswered: sessions that began while measured; those of them that said nothing.
        lost: steps dropped; most_queued: steps that waited at once in one session.
        sender_late_s: by how much the 95th percentile of the frames was pushed too late: the benchmark's own fault.
        cores: CPU cores used, by model and senders; load: load average at the end.
        errors: what ended sessions before their time.
    """

    sessions: int
    first_response_s: dict[str, float]
    lag_s: dict[str, float]
    first_frame_s: dict[str, float]
    begun: int
    unanswered: int
    lost: int
    most_queued: int
    tokens_per_s: float
    steps_per_s: float
    sender_late_s: float
    cores: float
    load: float
    errors: tuple[str, ...] = ()

    def holds(self, max_lag_s: float) -> bool:
        """Nothing was lost, nobody was left without an answer, and words kept up with the video."""
        kept_up = bool(self.lag_s) and self.lag_s["p95"] <= max_lag_s
        return kept_up and not (self.lost or self.unanswered or self.errors)

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass
class _Visit:
    """One session and when it began, in seconds of the wall clock."""

    live: LiveSession
    zero: float
    frames: int = 0
    lost: int = 0
    most_queued: int = 0


@dataclass
class _Place:
    """One of the n: a session follows another."""

    visits: list[_Visit] = field(default_factory=list)


def attempt(open_stage, sessions: int, pace: Pace, pictures: Sequence[np.ndarray]) -> Trial:
    """Run so many sessions, begun evenly over the length of one, and measure when all are there.

    Args:
        open_stage: max_sessions -> a new Stage.
        pictures: frames (H, W, 3), shown in turn.
    """
    stage: Stage = open_stage(2 * sessions)  # one that was stopped may need a moment to end
    try:
        places = [_Place() for _ in range(sessions)]
        begin = time.perf_counter()
        measured = begin + pace.session_s, begin + pace.session_s + pace.seconds
        late: list[float] = []
        groups = [places[i :: pace.senders] for i in range(min(pace.senders, sessions))]
        offsets = {id(place): i / sessions * pace.session_s for i, place in enumerate(places)}
        threads = [_Sender(stage, group, offsets, begin, measured[1], pace, pictures, late) for group in groups]
        for thread in threads:
            thread.start()
        _sleep_until(measured[0])
        cpu_s = cpu_seconds()
        _sleep_until(measured[1])
        cores = (cpu_seconds() - cpu_s) / pace.seconds
        for thread in threads:
            thread.join()
        heard = [(visit, _read(visit.live)) for place in places for visit in place.visits]
    finally:
        stage.close()
    failed = [thread.error for thread in threads if thread.error is not None]
    if failed:
        raise failed[0]
    return _figures(sessions, pace, heard, measured, late, cores)


class _Sender(threading.Thread):
    """Pushes the frames of some places when they are due."""

    def __init__(self, stage: Stage, places, offsets, begin: float, end: float, pace: Pace, pictures, late):
        super().__init__(name="sender", daemon=True)
        self.stage, self.end, self.pace, self.pictures, self.late = stage, end, pace, pictures, late
        self.due = [(begin + offsets[id(place)], i, place) for i, place in enumerate(places)]
        self.error: Exception | None = None

    def run(self) -> None:
        heapq.heapify(self.due)
        try:
            while self.due:
                at, i, place = self.due[0]
                if at >= self.end:
                    break
                _sleep_until(at)
                self.late.append(time.perf_counter() - at)
                heapq.heapreplace(self.due, (self._push(place, at), i, place))
            _sleep_until(self.end)
        except Exception as error:
            self.error = error
        for _, _, place in self.due:
            if place.visits:
                place.visits[-1].live.stop()

    def _push(self, place: _Place, at: float) -> float:
        """The next frame of a place; returns when the one after it is due."""
        pace = self.pace
        if not place.visits or place.visits[-1].frames >= round(pace.session_s * pace.rate):
            if place.visits:
                place.visits[-1].live.stop()
            live = self.stage.open(
                question=QUESTION,
                schedule=f"wait-k:{pace.k}",
                choose=ENDLESS,
                queue_size=pace.queue,
                max_events=EVENTS,
            )
            place.visits.append(_Visit(live, time.perf_counter()))
        visit = place.visits[-1]
        pushed = visit.live.push(visit.frames / pace.rate, self.pictures[visit.frames % len(self.pictures)])
        visit.frames += 1
        visit.lost, visit.most_queued = pushed.dropped, max(visit.most_queued, pushed.queued)
        return at + 1 / pace.rate


def _read(live: LiveSession) -> list:
    """All events of a session that was stopped."""
    events: list = []
    while not events or not isinstance(events[-1], Ended):
        events += live.read(1.0)
    return events


def _figures(
    sessions: int, pace: Pace, heard, measured: tuple[float, float], late: list[float], cores: float
) -> Trial:
    begin, end = measured
    first, first_frame, lags, errors = [], [], [], []
    begun = unanswered = steps = 0
    for visit, events in heard:
        tokens = [event for event in events if isinstance(event, Token)]
        inside = [token for token in tokens if begin <= visit.zero + token.t_emit_s < end]
        lags += [token.t_emit_s - token.t_frame_s for token in inside]
        steps += sum(isinstance(event, Watched) and begin <= visit.zero + event.t_s < end for event in events)
        if events[-1].error is not None:
            errors.append(str(events[-1].error) or repr(events[-1].error))
        if begin <= visit.zero < end - pace.answer_s:
            begun += 1
            unanswered += not tokens
            first += [token.t_emit_s - token.t_frame_s for token in tokens[:1]]
            first_frame += [token.t_emit_s for token in tokens[:1]]
    return Trial(
        sessions=sessions,
        first_response_s=percentiles(first),
        lag_s=percentiles(lags),
        first_frame_s=percentiles(first_frame),
        begun=begun,
        unanswered=unanswered,
        lost=sum(visit.lost for visit, _ in heard),
        most_queued=max(visit.most_queued for visit, _ in heard),
        tokens_per_s=len(lags) / pace.seconds,
        steps_per_s=steps / pace.seconds,
        sender_late_s=float(np.percentile(late, 95)),
        cores=cores,
        load=os.getloadavg()[0],
        errors=tuple(dict.fromkeys(errors)),
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99; nothing of nothing."""
    if not values:
        return {}
    return {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _sleep_until(at: float) -> None:
    if (rest := at - time.perf_counter()) > 0:
        time.sleep(rest)
