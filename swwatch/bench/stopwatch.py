"""What a session asks its model for, looked at from outside, so that every engine is measured by the same code.

The model is replaced by a `TimedModel` in front of it, and no engine knows. A piece of work lasts from the moment it
is asked for to the moment the next one is: on a GPU the forward itself returns before it is done, and the engine then
waits for the token that it gives.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from swwatch.engine.requests import Request, Run, Wait, relay
from swwatch.rules.layout import KINDS, Kind

SAYS = [KINDS.index(kind) for kind in (Kind.HEADER, Kind.ANSWER)]
THINKS = [KINDS.index(kind) for kind in (Kind.NOTE, Kind.THOUGHT)]


@dataclass(frozen=True)
class TimedCall:
    """Something the model was asked for.

    Attributes:
        what: "look" (the vision tower), "watch" (rows of prompt and video), "speak" (rows of text), "think" (rows
            of thoughts alone), "both" (watched and others).
        watched, said: rows of either kind, thoughts with what is said; patches for a look.
        begin_s, end_s: on time.perf_counter.
    """

    what: str
    watched: int
    said: int
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


class TimedModel:
    """Stands for a model in front of `requests.drive`: hands on what it is asked for, and notes when.

    Attributes:
        work: what it was asked for and is over; busy_s: seconds of it.
        watched: rows of prompt and video, and patches, asked for so far.
        largest_position: that was fed.
    """

    def __init__(self, model, wait: bool = False):
        """Args: `wait` for the device after each piece of work, so that its time is its own: a little slower."""
        self._model, self._wait = model, wait
        self._open: tuple | None = None
        self.work: list[TimedCall] = []
        self.watched = self.largest_position = 0
        self.busy_s = 0.0

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def _begin(self, what: str, watched: int, said: int) -> None:
        self.stop()
        self._open = (what, watched, said, time.perf_counter())
        self.watched += watched

    def stop(self) -> None:
        """The piece of work under way is over."""
        if self._open is not None:
            self.work.append(TimedCall(*self._open, time.perf_counter()))
            self.busy_s += self.work[-1].seconds
            self._open = None

    def forget(self) -> None:
        """Begin anew with the work and the largest position."""
        self.work.clear()
        self.largest_position = 0

    def _done(self, answer):
        if self._wait:
            torch.cuda.synchronize()
            self.stop()
        return answer

    def watch_video(self, pixel_values, grid_thw, **how):
        return self._look(self._model.watch_video, pixel_values, grid_thw, **how)

    def begin_watching(self, pixel_values, grid_thw, **how):
        return self._look(self._model.begin_watching, pixel_values, grid_thw, **how)

    def _look(self, look, pixel_values, grid_thw, **how):
        self._begin("look", len(pixel_values), 0)
        return self._done(look(pixel_values, grid_thw, **how))

    def step(self, cache, rows, embeds, predicts=-1, **how):
        self.largest_position = max(self.largest_position, int(rows.position_ids.max()))
        said, thought = (sum(int((rows.kind_ids == kind).sum()) for kind in kinds) for kinds in (SAYS, THINKS))
        watched = len(rows) - said - thought
        alone = "speak" if said else "think" if thought else "watch"
        self._begin("both" if watched and said + thought else alone, watched, said + thought)
        return self._done(self._model.step(cache, rows, embeds, predicts, **how))


class ModuleTime:
    """How long the forwards of modules take. A backward counts to the rest."""

    def __init__(self, modules: Iterable[torch.nn.Module], cuda: bool = False):
        self._cuda, self._marks, self._seconds = cuda, [], 0.0
        self._hooks = []
        for module in modules:
            self._hooks.append(module.register_forward_pre_hook(self._mark))
            self._hooks.append(module.register_forward_hook(self._mark))

    def _mark(self, *_) -> None:
        if not self._cuda:
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> float:
        """So far; on cuda after a synchronisation, and between two forwards."""
        pairs, self._marks = list(zip(self._marks[::2], self._marks[1::2], strict=True)), []
        self._seconds += sum(a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in pairs)
        return self._seconds

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def attended(run: Run, stopwatch: TimedModel) -> Run:
    """The same run; where it begins to wait, for its source or for a watcher, the work before is over."""

    def stop_waiting(request: Request) -> None:
        if isinstance(request, Wait):
            stopwatch.stop()

    return relay(run, on_request=stop_waiting)
