"""A few decoded frames between the thread that reads a live source and whoever takes them."""

import threading
from collections import deque

import av

CAPACITY = 4  # frames that wait for the consumer


class Buffer:
    """A few decoded frames between the reading thread and the consumer."""

    def __init__(self):
        self.dropped = 0
        self._frames: deque[tuple[float, av.VideoFrame]] = deque()
        self._done = self._stopped = False
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def put(self, timestamp_s: float, frame: av.VideoFrame, is_live: bool) -> None:
        """Add a frame: where there is no room, the oldest of a live source goes, a recording waits."""
        with self._changed:
            if not is_live:
                self._changed.wait_for(lambda: self._stopped or len(self._frames) < CAPACITY)
            elif len(self._frames) >= CAPACITY:
                self._frames.popleft()
                self.dropped += 1
            if not self._stopped:
                self._frames.append((timestamp_s, frame))
            self._changed.notify_all()

    def get(self) -> tuple[float, av.VideoFrame]:
        """The oldest frame. Raises StopIteration at the end, and once what went wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._done or self._stopped)
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
            error, self._error = self._error, None
            raise StopIteration if error is None else error

    def finish(self, error: Exception | None = None) -> None:
        """Nothing more is put."""
        with self._changed:
            self._done, self._error = True, None if self._stopped else error
            self._changed.notify_all()

    def stop(self) -> None:
        """Nothing more is got."""
        with self._changed:
            self._stopped, self._error = True, None
            self._frames.clear()
            self._changed.notify_all()

    def is_stopped_within(self, seconds: float) -> bool:
        """Sleep, unless stopped."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, max(0.0, seconds))
