"""The frames of a question: those of [start, end) and nothing after it.

The grid is that of data.video: 0, 0.5, 1.0, ... seconds of the file. A question that begins between two grid times
sees the next one first.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.stills import rgb_of
from swwatch.data.video import FRAMES_PER_SECOND, FRAMES_PER_STEP, VideoError, iter_steps
from swwatch.evaluate.quiz.items import Item

TOLERANCE_S = 1e-6
LEAST_S = 1.0  # a span that is shorter is widened backwards: a patch needs a second


@dataclass(frozen=True)
class Shown:
    """What is shown of a video.

    Attributes:
        frames: (2n, H, W, 3) uint8, RGB; the last one twice where their number was odd.
        times_s: (2n,) of the frames, seconds of the file.
        seconds_per_patch: from one pair of frames to the next; 1 where none was left out.
    """

    frames: np.ndarray
    times_s: np.ndarray
    seconds_per_patch: float

    @property
    def num_patches(self) -> int:
        return len(self.frames) // FRAMES_PER_STEP


def span(item: Item) -> tuple[float, float]:
    """[start, end) that a question is about; the end may be infinite."""
    end_s = math.inf if item.end_s is None else item.end_s
    return max(0.0, min(item.start_s, end_s - LEAST_S)), end_s


def grid_span(start_s: float, end_s: float, num_grid: int) -> tuple[int, int]:
    """First grid time in [start, end), and the first behind it, of `num_grid` that a video has."""
    first = math.ceil((start_s - TOLERANCE_S) * FRAMES_PER_SECOND)
    last = num_grid if math.isinf(end_s) else math.ceil((end_s - TOLERANCE_S) * FRAMES_PER_SECOND)
    return first, min(last, num_grid)


def spread(first: int, last: int, most: int) -> np.ndarray:
    """Indices first..last-1, or `most` of them, evenly spread from the first to the last."""
    if last - first <= most:
        return np.arange(first, last)
    return np.linspace(first, last - 1, most).round().astype(int)


def read_shown(item: Item, path: Path, max_frames: int) -> Shown:
    """The frames of a question.

    Raises:
        VideoError: the video cannot be read, or ends before the question begins.
    """
    start_s, end_s = span(item)
    if item.frames_per_second:
        names = sorted(name for name in path.iterdir() if name.suffix.lower() in (".jpg", ".jpeg", ".png"))
        num_grid = math.ceil(len(names) / item.frames_per_second * FRAMES_PER_SECOND - TOLERANCE_S)
        wanted = spread(*grid_span(start_s, end_s, num_grid), max_frames)
        rate = item.frames_per_second / FRAMES_PER_SECOND
        frames = [_picture(names[min(int(i * rate + TOLERANCE_S), len(names) - 1)]) for i in wanted]
    else:
        wanted, frames = np.arange(0), []
        for step in iter_steps(path, max_frames=None):
            if step.step == 0:
                wanted = spread(*grid_span(start_s, end_s, step.num_frames), max_frames)
            first = step.step * FRAMES_PER_STEP
            frames += [step.frames[i - first] for i in wanted if first <= i < first + FRAMES_PER_STEP]
            if len(frames) == len(wanted):
                break  # what comes later is not even asked for
    if not frames:
        raise VideoError(path, f"it has no frame between {start_s:g} and {end_s:g} s")
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "its pictures differ in size")
    times_s = wanted / FRAMES_PER_SECOND
    apart_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 1 / FRAMES_PER_SECOND
    if len(frames) % FRAMES_PER_STEP:
        frames, times_s = [*frames, frames[-1]], np.append(times_s, times_s[-1])
    return Shown(np.stack(frames), times_s, float(apart_s * FRAMES_PER_STEP))


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return rgb_of(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoError(path, f"it is no picture that can be read ({error})") from error
