"""What an engine emits, and the clock it reads."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Spoken:
    """One spoken token with its provenance.

    Attributes:
        step: 0-based video step at which it was spoken.
        token_id: id in the checkpoint's vocabulary.
        newest_visible_step: newest video step that the model could see when it chose the token.
        t_frame_s: when that step had arrived, in seconds of stream time (0 is the first frame).
        t_emit_s: when the token was emitted, on the same clock.
    """

    step: int
    token_id: int
    newest_visible_step: int
    t_frame_s: float
    t_emit_s: float


class RealTimeClock:
    """Stream time is wall time: a step is not handed over before it has arrived."""

    def __init__(self, now=time.perf_counter, sleep=time.sleep):
        self._now, self._sleep, self._zero = now, sleep, now()

    def now(self) -> float:
        """Seconds since the stream began."""
        return self._now() - self._zero

    def arrive(self, at_s: float) -> None:
        """Wait until stream time `at_s`, the arrival of the step about to be watched."""
        if at_s > self.now():
            self._sleep(at_s - self.now())


class SimulatedClock:
    """Stream time without the waiting: idle time until a frame's arrival is skipped, computing time counts in full.

    Timings are those of a paced run on the same machine, in less wall time.
    """

    def __init__(self, now=time.perf_counter):
        self._now, self._zero = now, now()

    def now(self) -> float:
        return self._now() - self._zero

    def arrive(self, at_s: float) -> None:
        self._zero -= max(0.0, at_s - self.now())
