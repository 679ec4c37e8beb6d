"""What a session asks of the model, so that one driver may answer one session and another many at once.

A session is a coroutine: it yields `Look`, `Feed`, `Choose` and `Wait` requests, whose answers it is sent, and what it
has to tell (see trace.py).
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from swwatch.engine.source import Source
from swwatch.model.protocols import SessionCache, StreamingModel
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.chooser import Chooser
from swwatch.policies.see.policy import TowerState
from swwatch.rules.chosen import chosen
from swwatch.rules.layout import Layout


@dataclass(frozen=True)
class Look:
    """Through the vision tower: pixels (patches, D) with their grid (1, 3) -> embeddings (kept tokens, D).

    Attributes:
        kept: which of the merged tokens are wanted, rising; None: all.
        aside: it may go on beside what is asked for next, and the answer may be a model.vision_tower.VideoFeatures.
        reuse: of the session's SEE policy, where that runs the tower's blocks: it goes through the tower alone.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    kept: tuple[int, ...] | None = None
    aside: bool = False
    reuse: TowerState | None = None

    def select(self, seen: torch.Tensor | VideoFeatures) -> torch.Tensor | VideoFeatures:
        """What is kept of the tower's answer."""
        if self.kept is None:
            return seen
        if isinstance(seen, VideoFeatures):
            return replace(seen, kept=self.kept)
        return seen[chosen(self.kept, seen.device)]


@dataclass(frozen=True)
class Feed:
    """Through the LLM: new rows of one session and their embeddings (Q, D) -> logits (V,) after row `predicts`.

    Attributes:
        predicts: index of the row that predicts the next token; None: none does, and the answer is None; a range of
            n: (n, V) after each of these.
        decides: index of the row after which the chance of "not yet" is wanted, too: the answer is that of `predicts`
            and a tensor. None: none is.
    """

    cache: SessionCache
    rows: Layout
    embeds: torch.Tensor
    predicts: int | range | None = -1
    decides: int | None = None


@dataclass(frozen=True)
class Choose:
    """The next token after logits (V,) -> its id, for which the host waits. It counts as in view from now on."""

    chooser: Chooser
    logits: torch.Tensor
    may_stop: bool


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the source has something new -> None. A driver of one session blocks, one of many polls."""

    source: Source


Request = Look | Feed | Choose | Wait
Run = Generator[Any, Any, Any]  # yields requests and what is said; is sent the answers


def drive(model: StreamingModel, run: Run) -> Iterator:
    """Answer one session's requests as they come; yield what it says."""
    answer = None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(event, Request):
            answer = answer_to(model, event)
        else:
            yield event


def relay(
    run: Run,
    change: Callable[[Any], Any] = lambda event: event,
    on_request: Callable[[Request], None] = lambda request: None,
) -> Run:
    """The same run, with `change` of everything that it tells. Requests and answers pass through.

    Args:
        on_request: called with each request before it is answered.
    """
    answer = None
    while True:
        try:
            event = run.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(event, Request):
            on_request(event)
            answer = yield event
        else:
            answer = yield change(event)


def answer_to(model: StreamingModel, request: Request) -> Any:
    """The answer to one request of one session."""
    match request:
        case Look():
            look = model.begin_watching if request.aside else model.watch_video
            how = {} if request.reuse is None else {"reuse": request.reuse}
            return request.select(look(request.pixel_values, request.grid_thw, **how))
        case Feed():
            how = {} if request.decides is None else {"decides": request.decides}
            return model.step(request.cache, request.rows, request.embeds, request.predicts, **how)
        case Choose():
            return request.chooser.pick(request.logits, request.may_stop)
        case Wait():
            return request.source.wait()
