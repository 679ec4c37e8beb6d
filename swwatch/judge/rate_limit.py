"""When the next request may go out, for all threads of a process together."""

import threading
import time
from collections.abc import Callable


class StopRequested(Exception):
    """The run is being ended: nothing new is asked."""


class RateLimit:
    """Spreads requests evenly over time, and holds them all back when the endpoint asks for it.

    Args:
        requests_per_minute: None for no limit.
        clock: seconds, never going back.
        sleep: waits so many seconds; by default until then or until `stop`, whichever comes first.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ):
        self._gap_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_s = float("-inf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._clock, self._sleep = clock, sleep or self._stop.wait

    def wait(self) -> None:
        """Take the next free slot and wait for it."""
        with self._lock:
            now = self._clock()
            slot = max(now, self._next_s)
            self._next_s = slot + self._gap_s
        self.sleep(slot - now)

    def hold(self, seconds: float) -> None:
        """Let no new request go out for so long."""
        with self._lock:
            self._next_s = max(self._next_s, self._clock() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            StopRequested: before, meanwhile or by now the run was ended.
        """
        if seconds > 0 and not self._stop.is_set():
            self._sleep(seconds)
        if self._stop.is_set():
            raise StopRequested

    def stop(self) -> bool:
        """Wake all who wait and let nobody through any more; whether this was the first call."""
        with self._lock:
            is_first = not self._stop.is_set()
            self._stop.set()
        return is_first
