"""Where a session's steps come from, and what may be asked of it meanwhile.

A source never calls the session: the session polls it, between tokens where its engine watches while speaking.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol

import torch

from swwatch.data.budget import BUDGETS, NARROWEST, PixelBudget
from swwatch.data.pixels import FrameEncoder
from swwatch.data.video import StepFrames
from swwatch.errors import UserError


@dataclass(frozen=True)
class Step:
    """What arrives at once: two frames, ready for the vision tower.

    Attributes:
        pixel_values: (patches, D) of one temporal patch.
        grid_thw: (1, 3), patches before the merge; t is 1.
        arrival_s: when its second frame arrived, stream seconds.
        last: nothing follows.
        end_s: where it ends in the video, for those who say so; None: half its time after it arrived.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    arrival_s: float
    last: bool = False
    end_s: float | None = None

    def video_end_s(self, step_s: float) -> float:
        """Where a step that lasts so long ends in the video."""
        return self.arrival_s + step_s / 2 if self.end_s is None else self.end_s


@dataclass(frozen=True)
class Ask:
    """A new question, in effect from the next step on.

    Attributes:
        ids: token ids of the whole user turn, from what closes the video before it up to <|vision_start|>.
        text: as it was asked, for the trace.
    """

    ids: tuple[int, ...]
    text: str


class Order(Enum):
    """What else a session may be told. Each takes effect before the next token."""

    PAUSE = "be silent, and go on watching"
    RESUME = "speak again"
    STOP = "end now: nothing more is watched or said"


class Source(Protocol):
    """Steps in order. Its methods are called from the session's thread alone.

    What goes wrong in a source is raised by `poll`, and ends the session that polls.
    """

    @property
    def ended(self) -> bool:
        """No step will come any more."""

    def poll(self) -> Step | None:
        """The next step, if it has arrived; None if it has not, or if the source has ended."""

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until `poll` has something new to say, `ended` is true, an order has come, or the time is over."""

    def orders(self) -> list[Ask | Order]:
        """What was told since the last call, oldest first."""


class StepEncoder:
    """Makes steps of frames, by the processor and the pixel budget of a checkpoint."""

    def __init__(
        self,
        loaded,
        device: torch.device | None = None,
        max_pixels: int | None = None,
        budget: PixelBudget | None = None,
    ):
        """
        Args:
            loaded: a model.loading.Loaded.
            device: where pixels are made; None: on the CPU.
            max_pixels: of a frame, in place of what the budget says.
            budget: in place of the checkpoint's own.
        """
        budget = budget or BUDGETS[loaded.settings.pixel_budget]
        if max_pixels is not None:
            least = min(budget.min_pixels, max_pixels)
            budget = replace(budget, min_pixels=least, max_pixels=max_pixels, total_pixels=None)
        self.settings = loaded.settings
        self.frames = FrameEncoder(loaded.processor.video_processor, budget, device)

    def __call__(self, step: StepFrames) -> Step:
        """Raises UserError: the frames come at another rate than the model watches at."""
        if step.fps != self.settings.fps:
            raise UserError(
                f"frames of {step.fps:g} a second for a model that watches {self.settings.fps:g} a second: read the "
                f"video with fps={self.settings.fps:g}, or load the model with fps={step.fps:g}"
            )
        end_s = (step.step + 1) * self.settings.step_s
        return Step(*self.frames.encode(step.frames, step.num_frames), step.arrival_s, step.last, end_s)

    def shrink(self, step: StepFrames) -> StepFrames:
        """The same step in the size that the model sees, of which the same pixels are made, where that is so."""
        height, width = self.frames.size(*step.frames.shape[1:3], step.num_frames)
        if max(height, width) > NARROWEST * min(height, width):
            return step
        if self.frames.size(height, width, step.num_frames) != (height, width):
            return step
        small = self.frames.resize(step.frames, step.num_frames)
        return replace(step, frames=small.permute(0, 2, 3, 1).cpu().numpy())


class FileSource:
    """Steps that exist already, each handed over no sooner than it would have arrived on the clock."""

    def __init__(self, steps: Iterable, encode: Callable[[Any], Step], clock, asks: Sequence[tuple[float, Ask]] = ()):
        """
        Args:
            steps: anything with an arrival_s, in order, such as data.video.StepFrames; the next one is read as soon
                as somebody asks for it.
            encode: makes a Step of it, when it is handed over: a frame is not touched before it is there.
            clock: of the session.
            asks: what is asked when, seconds by which a step has arrived, in order.
        """
        self._steps, self._encode, self._clock, self._asks = iter(steps), encode, clock, list(asks)
        self._next, self._read = None, False

    def _peek(self):
        if not self._read:
            self._next, self._read = next(self._steps, None), True
        return self._next

    @property
    def ended(self) -> bool:
        return self._peek() is None

    def poll(self) -> Step | None:
        step = self._peek()
        if step is None or step.arrival_s > self._clock.now():
            return None
        self._read = False
        return self._encode(step)

    def wait(self, timeout_s: float | None = None) -> None:
        """Until the next step arrives. Simulated time is not waited for, whatever the limit."""
        step = self._peek()
        if step is not None:
            self._clock.arrive(step.arrival_s, timeout_s)

    def orders(self) -> list[Ask | Order]:
        """What is asked before the next step."""
        step = self._peek() if self._asks else None
        reached = [ask for at_s, ask in self._asks if step is not None and at_s <= step.arrival_s]
        self._asks = self._asks[len(reached) :]
        return reached
