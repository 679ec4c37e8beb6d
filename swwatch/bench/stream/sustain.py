"""The highest rate that an engine keeps up with while it narrates, found by trying."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

from swwatch.bench.source import Camera, Stretch

CLOSE = 1.04  # the search ends when the lowest rate that failed is this close to the highest that was held
FIRST_STRIDE, LONGEST_STRIDE = 1.3, 4.0
MOST_TRIALS = 14
SHORTEST = 6  # a rate is tried with at least so many queues' worth of steps: less could hide in the queue


@dataclass(frozen=True)
class RateTrial:
    """One rate, tried.

    Attributes:
        rate: steps a second; steps: arrived; dropped: lost from the full queue.
        backlog: median length of the queue in the last quarter of the polls; most: in all of them.
        seconds: of the stream; tokens: spoken.
    """

    rate: float
    steps: int
    dropped: int
    backlog: float
    most: int
    seconds: float
    tokens: int

    @property
    def held(self) -> bool:
        """Nothing was dropped, and the queue did not grow: at the end no more than one step waits."""
        return self.dropped == 0 and self.backlog <= 1


def search(attempt: Callable[[float], RateTrial], guess: float) -> tuple[float | None, list[RateTrial]]:
    """The highest rate that is held: in growing strides until it lies between two, then by bisection.

    Args:
        attempt: tries a rate in steps a second.
        guess: where to begin.
    Returns:
        The highest rate held (None if none was), and all trials.
    """
    trials: list[RateTrial] = []
    low = high = None
    rate, stride = guess, FIRST_STRIDE
    while len(trials) < MOST_TRIALS and (low is None or high is None or high / low > CLOSE):
        trial = attempt(rate)
        trials.append(trial)
        if trial.held:
            low = max(low or 0.0, rate)
        else:
            high = min(high or rate, rate)
        rate = low * stride if high is None else high / stride if low is None else (low * high) ** 0.5
        stride = min(stride**2, LONGEST_STRIDE)
    return low, trials


def attempt(
    run_session: Callable, pictures, clock, rate: float, hold_s: float, session_steps: int, queue: int
) -> RateTrial:
    """Try a rate: sessions follow one another on a stream that does not wait for them.

    Args:
        run_session: takes a source, runs a new session over it, returns how many tokens it spoke.
        clock: a new one; its idle time counts as the stream's.
        hold_s: seconds of the stream, prolonged where that would be too few steps to fill the queue.
    """
    count = max(round(hold_s * rate), SHORTEST * queue)
    stream = Camera(pictures, clock, rate, count, queue)
    tokens = 0
    while not stream.ended:
        tokens += run_session(Stretch(stream, session_steps))
    lengths = [length for _, length in stream.backlog]
    last = lengths[-max(1, len(lengths) // 4) :]
    return RateTrial(rate, count, stream.dropped, statistics.median(last), max(lengths), clock.now(), tokens)


def sustained(run_session: Callable, pictures, new_clock: Callable, guess: float, **how) -> dict:
    """`search` over `attempt`, as JSON values: rate (None: not even the lowest tried), frames_per_s, trials."""
    rate, trials = search(lambda at: attempt(run_session, pictures, new_clock(), at, **how), guess)
    rows = [asdict(trial) | {"held": trial.held} for trial in trials]
    return {"rate": rate, "frames_per_s": None if rate is None else 2 * rate, "trials": rows, **how}
