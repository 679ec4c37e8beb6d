"""The engines `streams` and `two_device`: the next step is watched by somebody else while this one's words are spoken.

A session hands the rows of a step to a watcher (see watcher.py) as soon as the step has arrived, goes on speaking, and
takes keys and values into its own cache when the words are out. So the words of a step are chosen before anything of
the next one is in the cache, and that is all that there is to get right between the two.
"""

from collections import deque

from swwatch.engine.choose import check_keep
from swwatch.engine.incoming import Incoming
from swwatch.engine.requests import Run, Wait
from swwatch.engine.session import Session
from swwatch.engine.source import Source
from swwatch.engine.watcher import Ticket, Watcher, WatchSeconds, Work
from swwatch.errors import UserError
from swwatch.model.protocols import StreamingModel
from swwatch.policies.keep import ALL, parse_keep
from swwatch.rules.layout import Layout


class BesideSession(Session):
    """A session of a parallel variant whose watching is done by a `Watcher`, which it may share with others.

    Attributes:
        watch_seconds: what the watcher needed for each step so far, the closing step without video included; a step
            of which nothing is kept needs nothing.
        num_beside: steps that were handed to the watcher while words were spoken.
        num_handed: rows that it was handed so far.
    """

    name, while_speaking = "beside", True

    def __init__(self, model: StreamingModel, prompt: list[int], *, watcher: Watcher, **options):
        """
        Args:
            watcher: computes with the same weights; it outlives the session.
            options: of `Session`; keep is not among them, for the watcher's own cache forgets nothing.
        Raises:
            UserError: as `Session`, or a window.
        """
        check_keep(self.name, parse_keep(options.get("keep") or ALL))
        super().__init__(model, prompt, **options)
        self.watch_seconds: list[WatchSeconds] = []
        self.num_beside = self.num_handed = 0
        self._watcher, self._key = watcher, watcher.open()
        self._tickets: deque[tuple[Incoming | None, Ticket]] = deque()  # in order of submission; None: the prompt

    def run(self, source: Source) -> Run:
        """As `Session.run`. The watcher's part of the memory is returned when it ends, in whatever way."""
        try:
            yield from super().run(source)
        finally:
            self._tickets.clear()
            self._watcher.forget(self._key)

    def state(self) -> dict:
        """Raises UserError: a part of the session is in its watcher."""
        raise UserError(
            f"a session of {self.name!r} cannot be kept, its watcher holds a part of it: take serial or fused"
        )

    def begin(self) -> Run:
        """Have the prompt fed. It is waited for with the first step."""
        self._submit(None, self.cursor.prompt(len(self._prompt)), [tuple(self._prompt)])
        yield from ()

    def _predict(self, rows: Layout, embeds, feeds_left: int) -> Run:
        if self._watch_ahead():
            self.num_beside += 1
            self._submit(self.ahead, self.ahead.rows, self.ahead.parts)
        return (yield from self._feed(rows, embeds))

    def _bring_in(self, incoming: Incoming) -> Run:
        """Wait until the watcher is done with a step and what came before it, and take its keys and values."""
        if not any(of is incoming for of, _ in self._tickets):
            self._submit(incoming, incoming.rows, incoming.parts)
        while self._tickets:
            of, ticket = self._tickets[0]
            while not ticket.ready:
                yield Wait(ticket)
            result = ticket.take()
            if result.patch is not None:
                incoming.strike(result.patch, self.cursor)
                self.seen.count(result.patch)
            self.cache.receive(result.rows, result.keys_values)
            self._tickets.popleft()
            if of is not None:
                of.not_yet = result.not_yet
                self.watch_seconds.append(result.seconds)
        incoming.num_in = len(incoming.rows)
        if incoming.last:  # nothing is watched any more, and the last words may be many
            self._watcher.forget(self._key)
        yield from self._tell_watched(incoming.index, incoming.step, incoming.patch)

    def _submit(self, incoming: Incoming | None, rows: Layout, parts: list) -> None:
        self.num_handed += len(rows)
        if not len(rows):  # a patch of which nothing is kept
            return
        see = self.seen.policy if self.seen.policy.decides_late else None
        work = Work(rows, tuple(parts), see, decides=self.decider.listens and incoming is not None)
        self._tickets.append((incoming, self._watcher.submit(self._key, work)))


class StreamsSession(BesideSession):
    """Beside a watcher in a thread, on CUDA in a stream of its own."""

    name = "streams"


class TwoDeviceSession(BesideSession):
    """Beside a watcher with a copy of the model, on another GPU or in another process."""

    name = "two_device"
