"""The serial engine, pushed step by step: watch step i, speak its tokens, watch step i+1.

Its rules are those of `session.Session`, which is the serial engine as a coroutine. Here the model answers at once.
"""

from collections.abc import Iterator

import torch

from swwatch.engine.requests import Run, drive
from swwatch.engine.session import Session
from swwatch.engine.trace import Spoken
from swwatch.model.protocols import StreamingModel


class SerialSession(Session):
    """One stream being narrated. Push steps with `watch`, mark the last one or call `close`; tokens come out.

    Both are generators: a token is yielded as soon as it is spoken. Exhaust one before starting the next.
    """

    def __init__(self, model: StreamingModel, prompt: list[int], **options):
        """Begin a session and feed the prompt. Arguments as for `Session`."""
        super().__init__(model, prompt, **options)
        for _ in drive(model, self.begin()):
            raise AssertionError("nothing is said while the prompt is fed")

    def watch(
        self, pixel_values: torch.Tensor, grid_thw: torch.Tensor, arrival_s: float, last: bool = False
    ) -> Iterator[Spoken]:
        """Take in one step (two frames) and speak what the schedule allows. Arguments as for `Session.watch`."""
        return self._spoken(super().watch(pixel_values, grid_thw, arrival_s, last))

    def close(self) -> Iterator[Spoken]:
        """The stream ended after a step that was not marked as the last: speak the rest."""
        return self._spoken(super().close())

    def _spoken(self, run: Run) -> Iterator[Spoken]:
        return (event for event in drive(self.model, run) if isinstance(event, Spoken))
