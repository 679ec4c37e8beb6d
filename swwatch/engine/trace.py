"""What an engine emits, and the clock it reads."""

import time
from dataclasses import dataclass

import torch


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


@dataclass(frozen=True)
class Reflected:
    """One token that was thought and not said, with the provenance of a spoken one. Words of later steps see it.

    Attributes:
        step, token_id, newest_visible_step, t_frame_s, t_emit_s: as of `Spoken`.
        begins: the first token of a note.
    """

    step: int
    token_id: int
    newest_visible_step: int
    t_frame_s: float
    t_emit_s: float
    begins: bool = False


@dataclass(frozen=True)
class Said:
    """A turn is over.

    Attributes:
        round: its number, from 0.
        start_s, end_s: the seconds that it was about.
        ids: all that was said, " ..." and <|im_end|> included.
        words: the ids without these two.
        t_s: when its last token was emitted, stream seconds.
        thought: it is a thought about what was watched, for the model itself.
        wrong_end: the token that it ended with, where the form wants another; None: the right one, or it was cut off.
    """

    round: int
    start_s: float
    end_s: float
    ids: tuple[int, ...]
    words: tuple[int, ...]
    t_s: float
    thought: bool = False
    wrong_end: int | None = None


@dataclass(frozen=True)
class Watched:
    """The keys and values of a step are in: whatever is chosen from now on may see it, where the schedule lets it.

    Attributes:
        step: 0-based video step.
        arrival_s: when it had arrived, in seconds of stream time.
        t_s: when its last token was in, on the same clock.
        num_dropped: tokens of it that were not fed, by the SEE policy.
        grid: rows and columns of its tokens, in row-major order.
        kept: which of them were fed, rising; None: all.
    """

    step: int
    arrival_s: float
    t_s: float
    num_dropped: int = 0
    grid: tuple[int, int] | None = None
    kept: tuple[int, ...] | None = None

    @property
    def num_tokens(self) -> int:
        """That were fed."""
        rows, columns = self.grid or (0, 0)
        return rows * columns if self.kept is None else len(self.kept)


@dataclass(frozen=True)
class Decided:
    """A policy that decides while it streams has said how many tokens are due after a step.

    Attributes:
        step: 0-based video step.
        num_tokens: the most that will be said now; 0 is silence.
        t_s: when it was decided, in seconds of stream time.
        why: what it went by, by the names of rules.schedule.Now.
    """

    step: int
    num_tokens: int
    t_s: float
    why: dict[str, float | None]


@dataclass(frozen=True)
class Asked:
    """A question took effect: it stands before the video of `step`, and the words from there on can see it.

    Attributes:
        num_recalled: tokens that the KEEP policy brought back for it.
        host_bytes: that what is parked takes.
    """

    step: int
    text: str
    t_s: float
    num_recalled: int = 0
    host_bytes: int = 0


class DeviceMoment:
    """When a device comes to where its work stands now. The host may ask later, without having waited meanwhile."""

    def __init__(self, device: torch.device, clock):
        self._clock, self._at_s, self._event = clock, None, None
        if device.type == "cuda":
            self._stream = torch.cuda.current_stream(device)  # which need not be the current device
            self._event = self._stream.record_event(torch.cuda.Event(enable_timing=True))
        else:
            self._at_s = clock.now()

    @property
    def passed(self) -> bool:
        return self._event is None or self._event.query()

    def at_s(self) -> float:
        """On the clock. Waits for the device, which is at once where it `passed`."""
        if self._at_s is None:
            now = self._stream.record_event(torch.cuda.Event(enable_timing=True))
            now.synchronize()
            self._at_s = self._clock.now() - self._event.elapsed_time(now) / 1000
        return self._at_s


class RealTimeClock:
    """Stream time is wall time: a step is not handed over before it has arrived."""

    def __init__(self, now=time.perf_counter, sleep=time.sleep):
        self._now, self._sleep, self._zero = now, sleep, now()

    def now(self) -> float:
        """Seconds since the stream began."""
        return self._now() - self._zero

    def arrive(self, at_s: float, timeout_s: float | None = None) -> None:
        """Wait until stream time `at_s`, the arrival of the step about to be watched, or until the time is over."""
        rest_s = at_s - self.now() if timeout_s is None else min(at_s - self.now(), timeout_s)
        if rest_s > 0:
            self._sleep(rest_s)


class SimulatedClock:
    """Stream time without the waiting: idle time until a frame's arrival is skipped, computing time counts in full.

    Timings are those of a paced run on the same machine, in less wall time.
    """

    def __init__(self, now=time.perf_counter):
        self._now, self._zero = now, now()

    def now(self) -> float:
        return self._now() - self._zero

    def arrive(self, at_s: float, timeout_s: float | None = None) -> None:
        """Be at stream time `at_s`, where it is not past. That takes no time, whatever the limit."""
        self._zero -= max(0.0, at_s - self.now())
