"""One run of one engine, looked at from outside: when it asked the model for what, and when its tokens came out.

The model is replaced by a `Stopwatch` in front of it, so that every engine is measured by the same code and none of
them knows. A piece of work lasts from the moment it is asked for to the moment the next one is: on a GPU the forward
itself returns before it is done, and the engine then waits for the token that it gives.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil
import torch

from swwatch.engine.requests import Run, Wait, drive
from swwatch.engine.trace import Spoken
from swwatch.rules.layout import KINDS, Kind

Meters = dict[str, Callable[[], float]]
SAYS = [KINDS.index(kind) for kind in (Kind.HEADER, Kind.ANSWER)]


@dataclass(frozen=True)
class Work:
    """Something the model was asked for.

    Attributes:
        what: "look" (the vision tower), "watch" (rows of prompt and video), "speak" (rows of text), "both".
        watched, said: rows of either kind; patches for a look.
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


class Stopwatch:
    """Stands for a model in front of `requests.drive`: hands on what it is asked for, and notes when.

    Args:
        wait: wait for the device after each piece of work, so that its time is its own. Slows a GPU down a little.
    """

    def __init__(self, model, wait: bool = False):
        self._model, self._wait = model, wait
        self._open: tuple | None = None
        self.work: list[Work] = []
        self.watched = 0  # rows and patches asked for so far

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def _begin(self, what: str, watched: int, said: int) -> None:
        self.stop()
        self._open = (what, watched, said, time.perf_counter())
        self.watched += watched

    def stop(self) -> None:
        """The piece of work under way is over."""
        if self._open is not None:
            self.work.append(Work(*self._open, time.perf_counter()))
            self._open = None

    def _done(self, answer):
        if self._wait:
            torch.cuda.synchronize()
            self.stop()
        return answer

    def watch_video(self, pixel_values, grid_thw):
        self._begin("look", len(pixel_values), 0)
        return self._done(self._model.watch_video(pixel_values, grid_thw))

    def begin_watching(self, pixel_values, grid_thw):
        self._begin("look", len(pixel_values), 0)
        return self._done(self._model.begin_watching(pixel_values, grid_thw))

    def step(self, cache, rows, embeds, predicts=-1):
        said = sum(int((rows.kind_ids == kind).sum()) for kind in SAYS)
        watched = len(rows) - said
        self._begin("both" if said and watched else "speak" if said else "watch", watched, said)
        return self._done(self._model.step(cache, rows, embeds, predicts))


@dataclass
class Played:
    """What one run gave.

    Attributes:
        tokens: ids in order; emit_s: when each came out, on time.perf_counter; steps: at which step each was said.
        lags_s: of each token, emission - arrival of the newest step that it could see, on the engine's own clock.
        meters: name -> what it read when each token came out; "watched" (rows and patches asked for) is always there.
        work: what the model was asked for since the first step was.
        first_s: when the first step was asked for (the prompt had been fed); end_s: of the run.
        cpu_s: CPU time between the two, see `cpu_seconds`.
    """

    tokens: list[int] = field(default_factory=list)
    emit_s: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    meters: dict[str, list[float]] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    first_s: float = 0.0
    end_s: float = 0.0
    cpu_s: float = 0.0

    def at_step_ends(self, values: Sequence[float]) -> list[float]:
        """Of values for each token, those of the last token of each step."""
        return list(dict(zip(self.steps, values, strict=True)).values())

    def step_times(self) -> list[float]:
        """Seconds from the end of a step's last token to that of the next, for all steps but the first and the last.

        An engine that watches ahead has done so in the first step and has nothing left to watch in the last. Between
        the two every engine watches and speaks as often.
        """
        return differences(self.at_step_ends(self.emit_s))[:-1]

    def seconds_of(self, *kinds: str) -> float:
        """Seconds of such work in a step, mean over those steps."""
        ends = self.at_step_ends(self.emit_s)
        inside = [work.seconds for work in self.work if work.what in kinds and ends[0] <= work.begin_s < ends[-2]]
        return sum(inside) / (len(ends) - 2)

    def gaps(self) -> tuple[list[float], list[float]]:
        """Seconds between tokens: those in which nothing was watched, those in which something was."""
        found: tuple[list[float], list[float]] = ([], [])
        watched = differences(self.meters["watched"])
        for gap, more in zip(differences(self.emit_s), watched, strict=True):
            found[more > 0].append(gap)
        return found

    def first_token_s(self) -> float:
        """From when the first step was asked for, which is when it arrives, to the first token."""
        return self.emit_s[0] - self.first_s


def differences(values: Sequence[float]) -> list[float]:
    """Of each value to the one before."""
    return [b - a for a, b in zip(values, values[1:], strict=False)]


class FirstPoll:
    """A source that notes when it was first polled."""

    def __init__(self, source):
        self._source = source
        self.at_s = self.cpu_s = None

    def __getattr__(self, name: str):
        return getattr(self._source, name)

    def poll(self):
        if self.at_s is None:
            self.at_s, self.cpu_s = time.perf_counter(), cpu_seconds()
        return self._source.poll()


def attended(run: Run, stopwatch: Stopwatch) -> Run:
    """The same run; where it begins to wait, for its source or for a watcher, the work before is over."""
    answer = None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        if isinstance(event, Wait):
            stopwatch.stop()
        answer = yield event


def cpu_seconds() -> float:
    """CPU time so far, of all threads of this process and of the processes that it started."""
    ended, alive = os.times(), 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            used = child.cpu_times()
            alive += used.user + used.system
    return time.process_time() + ended.children_user + ended.children_system + alive


def play(
    session, model, source, *, wait: bool = False, meters: dict[str, Callable[[], float]] | None = None
) -> Played:
    """Run a session over a source to its end.

    Args:
        model: answers its requests.
        wait: see `Stopwatch`.
        meters: read whenever a token comes out.
    """
    stopwatch, played = Stopwatch(model, wait), Played()
    first = FirstPoll(source)
    meters = {"watched": lambda: stopwatch.watched} | (meters or {})
    played.meters = {name: [] for name in meters}
    for event in drive(stopwatch, attended(session.run(first), stopwatch)):
        if isinstance(event, Spoken):
            played.emit_s.append(time.perf_counter())
            played.tokens.append(event.token_id)
            played.steps.append(event.step)
            played.lags_s.append(event.t_emit_s - event.t_frame_s)
            for name, read in meters.items():
                played.meters[name].append(read())
    stopwatch.stop()
    played.end_s, played.first_s = time.perf_counter(), first.at_s
    played.cpu_s = cpu_seconds() - first.cpu_s
    played.work = [work for work in stopwatch.work if work.begin_s >= first.at_s]
    return played


class AttentionTime:
    """Seconds in the LLM's attention modules, projections and cache included: what grows with the stream. CPU only."""

    def __init__(self, model):
        self.seconds, self._since = 0.0, 0.0
        self._hooks = []
        for layer in model.model.language_model.layers:
            self._hooks.append(layer.self_attn.register_forward_pre_hook(lambda *_: self._enter()))
            self._hooks.append(layer.self_attn.register_forward_hook(lambda *_: self._leave()))

    def _enter(self) -> None:
        self._since = time.perf_counter()

    def _leave(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
