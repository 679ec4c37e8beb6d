"""Several sessions at once: what all of them ask for goes through the model in one call.

Decoding is bound by reading the weights, and n sessions that advance together read them once. Every session keeps its
own cache, schedule and prompt; sessions begin and end at any time.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from swwatch.engine.requests import Feed, Look, Run
from swwatch.model.modeling import WatchingQwen2_5_VL
from swwatch.model.ragged import step_many, watch_many


@dataclass(frozen=True)
class Ended:
    """A run is over: all said, or stopped by an error of its own."""

    error: Exception | None = None


Event = tuple[Hashable, Any]  # (key of the run, what it said or Ended)


class Batch:
    """Runs that advance together, a round at a time. A run is a coroutine as in `requests`.

    An exception inside one run ends that run alone. One of the model's own (out of memory) cannot be laid at one
    door: it is raised by `advance`, and the runs of that round are lost.
    """

    def __init__(self, model: WatchingQwen2_5_VL | None):
        """Args: the model that answers; None for runs that ask nothing."""
        self.model = model
        self._waiting: dict[Hashable, tuple[Run, Look | Feed]] = {}

    def __len__(self) -> int:
        """Number of runs that have not ended."""
        return len(self._waiting)

    def add(self, key: Hashable, run: Run) -> list[Event]:
        """Begin a run, up to its first request. Returns what it said until then."""
        if key in self._waiting:
            raise ValueError(f"a run {key!r} is under way already")
        return self._resume(key, run, None)

    def advance(self) -> list[Event]:
        """One round: all pictures asked for through the vision tower, then all rows through the LLM, once each.

        Returns:
            What was said, and which runs ended, in order.
        """
        events: list[Event] = []
        if looks := self._asked(Look):
            requests = [request for _, _, request in looks]
            pixels, grids = ([getattr(r, name) for r in requests] for name in ("pixel_values", "grid_thw"))
            events += self._answer(looks, watch_many(self.model, pixels, grids))
        if feeds := self._asked(Feed):
            columns = ([getattr(r, name) for _, _, r in feeds] for name in ("cache", "rows", "embeds", "predicts"))
            events += self._answer(feeds, step_many(self.model, *columns))
        return events

    def _asked(self, kind: type) -> list[tuple[Hashable, Run, Any]]:
        return [(key, run, request) for key, (run, request) in self._waiting.items() if isinstance(request, kind)]

    def _answer(self, asked: list[tuple[Hashable, Run, Any]], answers) -> list[Event]:
        events: list[Event] = []
        for (key, run, _), answer in zip(asked, answers, strict=True):
            del self._waiting[key]
            events += self._resume(key, run, answer)
        return events

    def _resume(self, key: Hashable, run: Run, answer) -> list[Event]:
        """Let a run go on to its next request or its end."""
        events: list[Event] = []
        while True:
            try:
                event = run.send(answer)
            except StopIteration:
                return [*events, (key, Ended())]
            except Exception as error:
                return [*events, (key, Ended(error))]
            if isinstance(event, Look | Feed):
                self._waiting[key] = run, event
                return events
            events.append((key, event))
            answer = None
