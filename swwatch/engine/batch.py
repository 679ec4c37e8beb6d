"""Several sessions at once: what all of them ask for goes through the model in one call.

Decoding is bound by reading the weights, and n sessions that advance together read them once; the host, too, waits
once for their tokens. Every session keeps its own cache, schedule and prompt; sessions begin and end at any time, and
one that waits for its source keeps nobody.
"""

import threading
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from swwatch.engine.requests import Choose, Feed, Look, Request, Run, Wait, answer_to
from swwatch.errors import UserError
from swwatch.model.batched import watch_many
from swwatch.model.protocols import StreamingModel
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.chooser import pick_many


@dataclass(frozen=True)
class Ended:
    """A run is over: all said, or stopped by an error of its own."""

    error: Exception | None = None


class OutOfMemory(UserError):
    """What one run asked for does not fit into memory, even alone."""


Event = tuple[Hashable, Any]  # (key of the run, what it said or Ended)


class Batch:
    """Runs that advance together, a round at a time. A run is a coroutine as in `requests`.

    An exception inside one run ends that run alone. One of the model's own (out of memory) is narrowed down: caches
    are put back to where the round began, and the runs are tried again by halves, until those that fail by themselves
    are left. These end with the error, and the others never notice.

    `wake` may be called from any thread; everything else belongs to one.

    Attributes:
        at_most: so many runs fit into memory together, as a round that did not has shown; None while all do. It is
            forgotten when a run ends, for that gives memory back.
    """

    def __init__(self, model: StreamingModel | None):
        """Args: the model that answers; None for runs that ask nothing."""
        self.model = model
        self.at_most: int | None = None
        self._waiting: dict[Hashable, tuple[Run, Request]] = {}
        self._news = threading.Event()

    def __len__(self) -> int:
        """Number of runs that have not ended."""
        return len(self._waiting)

    def add(self, key: Hashable, run: Run) -> list[Event]:
        """Begin a run, up to its first request. Returns what it said until then."""
        if key in self._waiting:
            raise ValueError(f"a run {key!r} is under way already")
        return self._resume(key, run, None)

    def remove(self, key: Hashable) -> None:
        """End a run where it stands. Its memory is free when this returns, unless somebody else holds the session."""
        run, _ = self._waiting.pop(key)
        self.at_most = None
        run.close()

    def clear(self) -> None:
        """End all runs where they stand."""
        for key in list(self._waiting):
            self.remove(key)

    def advance(self, held: Container[Hashable] = ()) -> list[Event]:
        """One round: sources of waiting runs are polled, then all pictures asked for go through the vision tower, then
        all rows through the LLM, then all tokens are chosen, once each.

        Args:
            held: keys of runs that stay where they are this time.
        Returns:
            What was said, and which runs ended, in order.
        """
        events: list[Event] = []
        for key in self._asked(Wait, held):
            run, request = self._waiting.pop(key)
            request.source.wait(0)  # nothing is slept; simulated time goes on
            events += self._resume(key, run, None)
        for kind, forward in ((Look, _watch), (Feed, _step), (Choose, _choose)):
            keys = self._asked(kind, held)
            while keys:
                now, keys = keys[: self.at_most], keys[self.at_most or len(keys) :]
                events += self._answer(now, forward)
        return events

    def is_idle(self, held: Container[Hashable] = ()) -> bool:
        """Whether `advance` could do nothing but poll."""
        return not any(self._asked(kind, held) for kind in (Look, Feed, Choose))

    def stands_still(self, key: Hashable) -> bool:
        """Whether a run waits for its source."""
        return key in self._waiting and isinstance(self._waiting[key][1], Wait)

    def wait(self, timeout_s: float | None = None) -> None:
        """Sleep until `wake` was called, at any time since `wait` last returned, or the time is over.

        For a batch that is idle. Sources that cannot call `wake` when they have something new need a timeout.
        """
        self._news.wait(timeout_s)
        self._news.clear()  # and then look: what comes from now on is noticed by the next one

    def wake(self) -> None:
        """There is something new: a source has a step, a run is to be added. From any thread."""
        self._news.set()

    def _asked(self, kind: type, held: Container[Hashable]) -> list[Hashable]:
        return [key for key, (_, request) in self._waiting.items() if isinstance(request, kind) and key not in held]

    def _answer(self, keys: Sequence[Hashable], forward: Callable[[Any, list], Sequence]) -> list[Event]:
        """Answer these runs' requests together or, where that fails, by halves."""
        requests = [self._waiting[key][1] for key in keys]
        marks = {key: r.cache.mark() for key, r in zip(keys, requests, strict=True) if isinstance(r, Feed)}
        error, events = None, []
        try:
            answers = forward(self.model, requests)
        except Exception as failure:
            error = failure.with_traceback(None)  # which holds on to the tensors of the forward that failed
        del requests  # and these hold on to the caches
        if error is None:
            for key, answer in zip(keys, answers, strict=True):
                events += self._resume(key, self._waiting.pop(key)[0], answer)
            return events
        if len(keys) == 1:
            return [self._fail(keys[0], error)]
        for key, mark in marks.items():
            try:
                self._waiting[key][1].cache.restore(mark)
            except Exception as failure:  # for that, too, takes memory
                events.append(self._fail(key, failure.with_traceback(None)))
        left, half = [key for key in keys if key in self._waiting], len(keys) // 2
        for part in filter(None, (left[:half], left[half:])):
            events += self._answer(part, forward)
        if not any(isinstance(event, Ended) for _, event in events):  # it was all of them together
            self.at_most = min(self.at_most or half, half)
        return events

    def _fail(self, key: Hashable, error: Exception) -> Event:
        self.remove(key)
        return key, Ended(_clear(error))

    def _resume(self, key: Hashable, run: Run, answer) -> list[Event]:
        """Let a run go on to its next request or its end."""
        events: list[Event] = []
        try:
            event = run.send(answer)
            while not isinstance(event, Request):
                events.append((key, event))
                event = next(run)
        except StopIteration:
            end = Ended()
        except Exception as error:
            end = Ended(_clear(error))
        else:
            self._waiting[key] = run, event
            return events
        self.at_most = None
        return [*events, (key, end)]


def _watch(model: StreamingModel, looks: list[Look]) -> list[torch.Tensor | VideoFeatures]:
    """One by one beside the words, where the model has a place for it and the run allows it, and those that reuse what
    was seen before; all others at once."""
    alone = [look.reuse is not None or model.watches_aside and look.aside for look in looks]
    now = [look for look, is_alone in zip(looks, alone, strict=True) if not is_alone]
    seen = iter(watch_many(model, [look.pixel_values for look in now], [look.grid_thw for look in now]) if now else ())
    both = zip(looks, alone, strict=True)
    return [answer_to(model, look) if is_alone else look.select(next(seen)) for look, is_alone in both]


def _step(model: StreamingModel, feeds: list[Feed]) -> torch.Tensor:
    how = [[getattr(feed, name) for feed in feeds] for name in ("cache", "rows", "embeds", "predicts")]
    decides = [feed.decides for feed in feeds]
    return model.step_many(*how, **({} if decides == [None] * len(feeds) else {"decides": decides}))


def _choose(_, choices: list[Choose]) -> list[int]:
    return pick_many(*([getattr(c, name) for c in choices] for name in ("chooser", "logits", "may_stop")))


def _clear(error: Exception) -> Exception:
    """The error itself, or, where memory ran out, one that says what to lower."""
    on_cpu = "can't allocate memory" in str(error)  # torch's own words there, in a plain RuntimeError
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu):
        return error
    cause = (str(error).splitlines() or ["no more is known"])[0]
    return OutOfMemory(
        "out of memory: run fewer sessions or clips at once, or lower the pixel budget, the length of the stream or "
        f"max_new_tokens ({cause})"
    )
