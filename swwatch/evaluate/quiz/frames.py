"""The frames of a question: those of [start, end) and nothing after it.

The grid is that of data.video: 0, 1/fps, 2/fps, ... seconds of the file. A question that begins between two grid times
sees the next one first. Benchmarks that take a number of frames at no rate have them evenly spread over the span.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.stills import read_picture
from swwatch.data.video import FRAMES_PER_STEP, VideoError, iter_steps
from swwatch.evaluate.quiz.items import Item
from swwatch.rules.schedule import FPS, seconds_of_step

Shrink = Callable[[np.ndarray, int], np.ndarray]  # (H, W, 3), frames of the question -> (h, w, 3)
TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class ShownFrames:
    """What is shown of a video.

    Attributes:
        frames: (2n, H, W, 3) uint8, RGB, as `shrink` made them; the last one twice where their number was odd.
        times_s: (2n,) of the frames, seconds of the file.
        seconds_per_patch: from one pair of frames to the next; those of a step where none was left out.
    """

    frames: np.ndarray
    times_s: np.ndarray
    seconds_per_patch: float

    @property
    def num_patches(self) -> int:
        return len(self.frames) // FRAMES_PER_STEP


def span(item: Item, fps: float = FPS) -> tuple[float, float]:
    """[start, end) that a question is about, widened backwards to a step at least; the end may be infinite."""
    end_s = math.inf if item.end_s is None else item.end_s
    return max(0.0, min(item.start_s, end_s - seconds_of_step(fps))), end_s


def grid_span(start_s: float, end_s: float, num_grid: int, fps: float = FPS) -> tuple[int, int]:
    """First grid time in [start, end), and the first behind it, of `num_grid` that a video has."""
    first = math.ceil((start_s - TOLERANCE_S) * fps)
    last = num_grid if math.isinf(end_s) else math.ceil((end_s - TOLERANCE_S) * fps)
    return first, min(last, num_grid)


def spread(first: int, last: int, most: int) -> np.ndarray:
    """Indices first..last-1, or `most` of them, evenly spread from the first to the last."""
    if last - first <= most:
        return np.arange(first, last)
    return np.linspace(first, last - 1, most).round().astype(int)


def read_shown(
    item: Item,
    path: Path,
    max_frames: int,
    *,
    fps: float = FPS,
    nframes: int | None = None,
    shrink: Shrink = lambda frame, num_frames: frame,
) -> ShownFrames:
    """The frames of a question.

    Args:
        max_frames: the most; of more on the grid so many are taken, evenly spread.
        fps: of the grid; nframes: in place of a grid so many frames of the span, or all that it has.
        shrink: each frame as it is decoded, to the model's size, so that memory follows that size and not the file's.
    Raises:
        VideoError: the video cannot be read, or ends before the question begins.
    """
    start_s, end_s = span(item, fps)
    if nframes is not None and not item.frames_per_second:
        return _evenly(path, start_s, end_s, nframes, shrink)
    shapes = set()

    def small(frame: np.ndarray) -> np.ndarray:
        shapes.add(frame.shape)
        return shrink(frame, len(wanted) + len(wanted) % FRAMES_PER_STEP)

    if item.frames_per_second:
        names = sorted(name for name in path.iterdir() if name.suffix.lower() in (".jpg", ".jpeg", ".png"))
        fps = fps if nframes is None else item.frames_per_second
        num_grid = math.ceil(len(names) / item.frames_per_second * fps - TOLERANCE_S)
        wanted = spread(*grid_span(start_s, end_s, num_grid, fps), nframes or max_frames)
        rate = item.frames_per_second / fps
        frames = [small(read_picture(names[min(int(i * rate + TOLERANCE_S), len(names) - 1)])) for i in wanted]
    else:
        wanted, frames = np.arange(0), []
        for step in iter_steps(path, max_frames=None, fps=fps):
            if step.step == 0:
                wanted = spread(*grid_span(start_s, end_s, step.num_frames, fps), max_frames)
            first = step.step * FRAMES_PER_STEP
            frames += [small(step.frames[i - first]) for i in wanted if first <= i < first + FRAMES_PER_STEP]
            if len(frames) == len(wanted):
                break  # what comes later is not even asked for
    if not frames:
        raise VideoError(path, f"it has no frame between {start_s:g} and {end_s:g} s")
    if len(shapes) > 1:
        raise VideoError(path, "its pictures differ in size")
    times_s = wanted / fps
    apart_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 1 / fps
    if len(frames) % FRAMES_PER_STEP:
        frames, times_s = [*frames, frames[-1]], np.append(times_s, times_s[-1])
    return ShownFrames(np.stack(frames), times_s, float(apart_s * FRAMES_PER_STEP))


def _evenly(path: Path, start_s: float, end_s: float, count: int, shrink: Shrink) -> ShownFrames:
    """`count` frames of [start_s, end_s), as far as there are so many, at no fixed rate."""
    whole = start_s, None if math.isinf(end_s) else end_s
    frames = []
    for step in iter_steps(path, max_frames=None, span=whole, spread=count, fill_up=True):
        fps = step.fps
        frames += [shrink(frame, step.num_frames) for frame in step.frames]
    return ShownFrames(np.stack(frames), start_s + np.arange(len(frames)) / fps, FRAMES_PER_STEP / fps)
