"""What waits to be read by a client's user: a bounded number of events; last an end, a failure, or its leaving."""

import asyncio
import contextlib

from swwatch.client.protocol import End

_LEFT = object()  # wakes who waits when the client leaves


class Inbox:
    """Filled by one task, read by any."""

    def __init__(self, max_events: int):
        self._events: asyncio.Queue = asyncio.Queue(max_events)
        self._failure: BaseException | None = None  # taken from the queue, not raised yet
        self._read_all = self._left = False

    def __len__(self) -> int:
        return self._events.qsize()

    async def put(self, event) -> None:
        """An event, or an exception that ends it all; waits while it is full."""
        await self._events.put(event)

    def leave(self) -> None:
        """Nothing more will come, and nobody need wait for it."""
        with contextlib.suppress(asyncio.QueueFull):  # then nobody waits
            self._events.put_nowait(_LEFT)
        self._left = True

    async def read(self, timeout_s: float | None) -> list:
        """All that is there, at least one unless the time is over; nothing after the last. Raises the failure."""
        if self._failure is None and not self._read_all:
            events = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self._left else timeout_s):
                    events.append(await self._events.get())
            while not self._events.empty():
                events.append(self._events.get_nowait())
            if events and events[-1] is _LEFT:
                events.pop()
            if events and isinstance(events[-1], BaseException):
                self._failure = events.pop()
            self._read_all = bool(events) and isinstance(events[-1], End)
            if events or self._failure is None:
                return events
        failure, self._failure, self._read_all = self._failure, None, True
        if failure is not None:
            raise failure
        return []
