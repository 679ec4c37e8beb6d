"""What a session asks of the model, so that one driver may answer one session and another many at once.

A session is a coroutine: it yields `Look`, `Feed` and `Wait` requests, whose answers it is sent, and what it has to
tell (see trace.py).
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from swwatch.engine.source import Source
from swwatch.layout import Layout
from swwatch.model.cache import StreamCache
from swwatch.model.modeling import WatchingQwen2_5_VL


@dataclass(frozen=True)
class Look:
    """Through the vision tower: pixels (patches, D) with their grid (1, 3) -> embeddings (merged tokens, D).

    Attributes:
        aside: it may go on beside what is asked for next, and the answer may be a model.tower.Looked.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    aside: bool = False


@dataclass(frozen=True)
class Feed:
    """Through the LLM: new rows of one session and their embeddings (Q, D) -> logits (V,) after row `predicts`.

    Attributes:
        predicts: index of the row that predicts the next token; None: none does, and the answer is None.
    """

    cache: StreamCache
    rows: Layout
    embeds: torch.Tensor
    predicts: int | None = -1


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the source has something new -> None. A driver of one session blocks, one of many polls."""

    source: Source


Run = Generator[Any, Any, Any]  # yields Look, Feed and what is said; is sent the answers


def drive(model: WatchingQwen2_5_VL, run: Run) -> Iterator:
    """Answer one session's requests as they come; yield what it says."""
    answer = None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(event, Look):
            look = model.begin_watching if event.aside else model.watch_video
            answer = look(event.pixel_values, event.grid_thw)
        elif isinstance(event, Feed):
            answer = model.step(event.cache, event.rows, event.embeds, event.predicts)
        elif isinstance(event, Wait):
            event.source.wait()
        else:
            yield event
