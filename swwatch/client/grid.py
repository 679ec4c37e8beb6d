"""Which frames of a source are worth sending: those that the model's grid takes, by the rule of a file's."""

from collections.abc import Iterable, Iterator

import numpy as np

from swwatch.data.live.frames import LiveFrames
from swwatch.data.video import FRAMES_PER_STEP
from swwatch.rules.schedule import FPS


def on_grid(frames: Iterable[tuple[float, np.ndarray]], fps: float = FPS) -> Iterator[tuple[float, np.ndarray]]:
    """So many frames a second, of a source of any rate: (grid time from 0, frame).

    A server makes the same steps of these as of all frames. An `end_s` of `frames` tells when the last one ended, as
    FrameStream's does.

    Args:
        frames: (timestamp_s, (H, W, 3) uint8 RGB).
        fps: of the server's grid, as `opened` tells it.
    Raises:
        UserError: what LiveFrames.push refuses.
    """
    live = LiveFrames(fps=fps)
    for timestamp_s, frame in frames:
        for step in live.push(timestamp_s, frame):
            yield from _pictures(step)
    for step in live.flush(getattr(frames, "end_s", None)):
        yield from _pictures(step)


def _pictures(step) -> Iterator[tuple[float, np.ndarray]]:
    for number, frame in enumerate(step.frames, start=1 - FRAMES_PER_STEP):
        yield step.arrival_s + number / step.fps, frame
