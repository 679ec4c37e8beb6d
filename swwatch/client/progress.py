"""What a session's client keeps track of: what it has seen, what it has sent and what became of that."""

from dataclasses import dataclass, replace

from swwatch.client.protocol import Ack, Event


@dataclass(frozen=True)
class Counts:
    """Frames, unless said otherwise.

    Attributes:
        sent: that went out.
        skipped: that did not: acknowledgements lagged, or there was no connection.
        lost: that were on their way when a connection broke.
        refused: that the server did not take.
        dropped: frames refused and steps dropped, as the server counts them.
        missed: numbered events that the server no longer had after a reconnect.
        reconnects: how often.
    """

    sent: int = 0
    skipped: int = 0
    lost: int = 0
    refused: int = 0
    dropped: int = 0
    missed: int = 0
    reconnects: int = 0


@dataclass(frozen=True)
class Reconnected:
    """The connection broke and stands again. Made by the client.

    Attributes:
        away_s: how long there was none.
        missed: numbered events that the server no longer had.
        lost: frames that were on their way when it broke.
    """

    away_s: float
    missed: int
    lost: int


class Progress:
    """The numbers of one session, without any input or output.

    Attributes:
        seen: number of the newest event that came in.
        in_flight: frames of this connection that were not acknowledged yet.
    """

    def __init__(self):
        self.counts, self.seen, self.in_flight, self._frames = Counts(), -1, 0, 0

    def is_new(self, event: Event) -> bool:
        """False for an event that was here already; what was left out before this one is counted."""
        if event.n is None:  # of this connection alone
            return True
        if event.n <= self.seen:
            return False
        self._count(missed=event.n - self.seen - 1)
        self.seen = event.n
        return True

    def frame(self) -> int:
        """One more goes out. Returns its number."""
        self._count(sent=1)
        self.in_flight += 1
        self._frames += 1
        return (self._frames - 1) % 2**32

    def skip(self) -> None:
        self._count(skipped=1)

    def ack(self, ack: Ack) -> None:
        self.in_flight = max(0, self.in_flight - ack.frames)
        self.counts = replace(self.counts, dropped=ack.dropped, refused=self.counts.refused + (not ack.taken))

    def broke(self) -> int:
        """The connection is gone. Returns how many frames went with it."""
        lost, self.in_flight = self.in_flight, 0
        self._count(lost=lost)
        return lost

    def reconnected(self) -> None:
        self._count(reconnects=1)

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})
