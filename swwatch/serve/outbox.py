"""What a session has to tell its client: bounded whatever the client does, and told again after a broken connection.

All methods belong to the event loop's thread.
"""

import asyncio
import math
from collections import deque

from swwatch.client.protocol import Ack, Error, Event, Message, Pong, Stats, parse_server

MAX_ERRORS = 16  # of a connection, waiting to be read


class Outbox:
    """Numbered events are kept until sent and, `replay` of them, after that; the rest is merged or bounded.

    `room` is how a session is held back: it waits while `bound` events are unsent.
    """

    def __init__(self, bound: int, replay: int):
        self.bound, self.replay = bound, replay
        self._kept: deque[Event] = deque()  # numbered without gaps
        self.num_events = 0  # number of the next new event
        self._next = 0  # number of the next event to send
        self._changed = asyncio.Event()
        self._left = asyncio.Event()  # something was sent
        self.forget_connection()

    def __len__(self) -> int:
        """Events not yet sent."""
        return self.num_events - self._next

    def put(self, event: Event) -> Event:
        """Number an event and keep it."""
        event = event.model_copy(update={"n": self.num_events})
        self.num_events += 1
        self._kept.append(event)
        self._changed.set()
        return event

    async def wait_for_space(self) -> None:
        """Wait until a further event may be put."""
        while len(self) >= self.bound:
            self._left.clear()
            await self._left.wait()

    def open_up(self) -> None:
        """No bound any more: the session ends, and what it still has to tell is limited by itself."""
        self.bound = math.inf
        self._left.set()

    def ack(self, ack: Ack) -> None:
        """Tell the sender of a frame, in one message with what it has not read yet."""
        waiting = self._ack.frames if self._ack else 0
        self._ack = ack.model_copy(update={"frames": waiting + ack.frames})
        self._changed.set()

    def stats(self, stats: Stats) -> None:
        """Only the newest is kept."""
        self._stats = stats
        self._changed.set()

    def pong(self) -> None:
        """One answer for all pings since the last."""
        self._pong = True
        self._changed.set()

    async def error(self, error: Error) -> None:
        """Tell a connection of its mistake; waits while too many are unread, so that its sender is not read on."""
        while len(self._errors) >= MAX_ERRORS:
            self._left.clear()
            await self._left.wait()
        self._errors.append(error)
        self._changed.set()

    def forget_connection(self) -> None:
        """Drop what only the connection that broke would want."""
        self._errors: deque[Error] = deque()
        self._ack: Ack | None = None
        self._stats: Stats | None = None
        self._pong = False

    def rewind(self, seen: int) -> int:
        """Send again what came after number `seen`. Returns how many of these are no longer kept.

        Raises:
            ValueError: nothing of that number was ever made.
        """
        if not -1 <= seen < self.num_events:
            raise ValueError(f"event {seen} of {self.num_events}")
        oldest = self.num_events - len(self._kept)
        self._next = max(seen + 1, oldest)
        self._changed.set()
        self._left.set()
        return self._next - seen - 1

    def state(self) -> dict:
        """The numbered events that are kept, as texts, and how far they were sent, for `restore`."""
        return {"kept": [event.wire() for event in self._kept], "made": self.num_events, "next": self._next}

    def restore(self, state: dict) -> None:
        """Keep what another outbox kept."""
        self._kept = deque(parse_server(event) for event in state["kept"])
        self.num_events, self._next = state["made"], state["next"]

    async def next(self) -> Message:
        """What to send now. Acknowledgements go first: they are what a sender paces itself by."""
        while True:
            for name in ("_ack", "_stats"):
                if (message := getattr(self, name)) is not None:
                    setattr(self, name, None)
                    return message
            if self._errors:
                return self._sent(self._errors.popleft())
            if self._pong:
                self._pong = False
                return Pong()
            if len(self):
                event = self._kept[self._next - self.num_events]  # counted from the end
                self._next += 1
                while len(self._kept) > len(self) + self.replay:
                    self._kept.popleft()
                return self._sent(event)
            self._changed.clear()
            await self._changed.wait()

    def _sent(self, message: Message) -> Message:
        self._left.set()
        return message
