"""Frames that come at any rate, one at a time, on the same grid as a video file's (see video.py).

The rule is the file's: grid times are 0, 1/fps, 2/fps, ... seconds from the first frame, the frame of a grid time is
the one on display then, two grid frames are a step.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from swwatch.data.video import FRAMES_PER_STEP, TIME_TOLERANCE_S, StepFrames
from swwatch.errors import UserError
from swwatch.rules.schedule import FPS

MAX_TIMESTAMP_S = 1e11  # beyond it float64 is too coarse for the grid; milliseconds since 1970 are beyond it, too


@dataclass(frozen=True)
class LiveCounts:
    """What became of the frames that were pushed."""

    frames: int = 0  # pushed in the right form
    steps: int = 0  # made of them
    repeated: int = 0  # dropped: the same time as the frame before
    late: int = 0  # dropped: a time before that of a frame that was there already
    restarts: int = 0  # the source's clock went back so far that it must have begun again
    gaps: int = 0  # times without a frame for longer than one stays on display
    skipped_s: float = 0  # seconds of them, of whole steps, that made none
    size_changes: int = 0  # within a step


class LiveFrames:
    """Makes steps of frames as they come. Push every frame, then `flush`; a step comes out as soon as it is decided.

    - A grid time is decided as soon as a frame at or after it has come, so nothing waits for a frame that lies ahead.
      Whatever comes at the rate of the grid is a step at once.
    - The same time again: the first frame stays, the other is dropped. (In a file, where all times are known, the last
      of them would be on display. To wait for it here would make every step late.)
    - A time before the newest, by up to `restart_s`: the frame is late and dropped. By more: the source has begun
      again (a camera that was plugged in anew, a file in a loop), and its frame follows the newest one by as much as
      that had followed its own; stream time never goes back.
    - No frame for some time: the last one stays on display, for `hold_s` at the most. A step that has begun is
      completed with it; after that nothing is on display, and watching goes on at the next whole step of the grid
      that has a frame: a whole second at 2 frames a second. So the steps of a long stall are not invented, and the
      clock stays right.
    - A change of size between steps is no matter: each step has its own grid of patches. Within a step the newer frame
      takes both places, as a lone frame does in a file: no picture is distorted, and no second is lost or late.

    Steps are numbered from 0 without gaps. `arrival_s` is the grid time of the second frame, in stream seconds from
    the first frame, so a gap shows in it. Not for several threads at once.
    """

    def __init__(self, *, fps: float = FPS, hold_s: float = 10.0, restart_s: float = 2.0):
        """
        Args:
            fps: frames a second of the grid.
            hold_s: how long a frame stays on display when none follows.
            restart_s: how far back a timestamp may lie to be of a late frame rather than of a source begun again.
        """
        if not (0 < hold_s <= 3600 and 0 <= restart_s < math.inf):
            raise UserError(f"hold_s {hold_s} must be above 0, at most 3600, and restart_s {restart_s} not negative")
        self.fps, self.hold_s, self.restart_s = fps, hold_s, restart_s
        self.counts = LiveCounts()
        self._zero_s: float | None = None  # the sender's time at stream time 0
        self._shown: np.ndarray | None = None  # on display since `newest_s`
        self._newest_s = 0.0  # stream seconds
        self._interval_s = 1 / fps  # between the last two frames
        self._next = 0  # index of the next grid time
        self._first: np.ndarray | None = None  # the first frame of a step that has begun
        self._flushed = False

    @property
    def newest_s(self) -> float:
        """When the newest frame came on display, stream seconds."""
        return self._newest_s

    def push(self, timestamp_s: float, frame: np.ndarray) -> list[StepFrames]:
        """Take in a frame.

        Args:
            timestamp_s: when it came on display, in seconds of the sender's clock, whose zero is of no matter.
            frame: (H, W, 3) uint8, RGB. Kept, not copied: do not write into it afterwards.
        Returns:
            The steps that it decides, mostly none or one. No step is marked as the last.
        Raises:
            UserError: another dtype or shape, or no usable time.
        """
        if self._flushed:
            raise ValueError("these frames are flushed: begin a new LiveFrames for another stream")
        _check(timestamp_s, frame)
        self._count(frames=1)
        if self._zero_s is None:
            self._zero_s, self._shown = timestamp_s, frame
            return list(self._decide(TIME_TOLERANCE_S, frame))
        time_s = timestamp_s - self._zero_s
        if self._newest_s - time_s > self.restart_s:
            self._count(restarts=1)
            time_s = self._newest_s + min(self._interval_s, 1 / self.fps)
            self._zero_s = timestamp_s - time_s
        elif time_s <= self._newest_s:
            self._count(**{"repeated" if time_s == self._newest_s else "late": 1})
            return []
        steps = list(self._decide(time_s + TIME_TOLERANCE_S, frame))
        self._interval_s, self._newest_s, self._shown = time_s - self._newest_s, time_s, frame
        return steps

    def flush(self, end_s: float | None = None) -> list[StepFrames]:
        """The stream has ended. Nothing can be pushed any more.

        An odd last grid frame is left out, and a lone one makes its own pair, as in a file.

        Args:
            end_s: when the last frame ended, on the sender's clock; by default it lasts as long as the one before it.
        Returns:
            The steps that were not decided yet, mostly none; the last of them is marked as the last. Steps that have
            been handed out before cannot be.
        """
        if self._flushed or self._shown is None:
            self._flushed = True
            return []
        if end_s is not None and not math.isfinite(end_s):
            raise UserError(f"the stream cannot end at {end_s} s: give a number of seconds, or nothing")
        self._flushed = True
        time_s = self._newest_s + self._interval_s if end_s is None else end_s - self._zero_s
        steps = list(self._decide(time_s - TIME_TOLERANCE_S))  # a grid time at the very end is outside
        if self._first is not None and not self.counts.steps:
            steps.append(self._step(self._first))
        return [*steps[:-1], replace(steps[-1], last=True)] if steps else []

    def state(self) -> dict:
        """All that later steps depend on, in numbers and arrays, for `restore`."""
        return vars(self) | {"counts": asdict(self.counts)}

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        vars(self).update(state, counts=LiveCounts(**state["counts"]))

    def _decide(self, until_s: float, frame: np.ndarray | None = None) -> Iterator[StepFrames]:
        """Settle all grid times up to `until_s`, where `frame` follows the one on display (None: nothing does)."""
        while (grid_s := self._next / self.fps) <= until_s:
            is_new = frame is not None and until_s <= grid_s + 2 * TIME_TOLERANCE_S
            if not is_new and self._first is None and grid_s > self._newest_s + self.hold_s:
                if frame is None:
                    return
                step = math.ceil((until_s - 2 * TIME_TOLERANCE_S) * self.fps / FRAMES_PER_STEP)
                self._count(gaps=1, skipped_s=(step * FRAMES_PER_STEP - self._next) / self.fps)
                self._next = step * FRAMES_PER_STEP
                continue
            shown = frame if is_new else self._shown
            if self._first is None:
                self._first = shown
            else:
                yield self._step(shown)
            self._next += 1

    def _step(self, second: np.ndarray) -> StepFrames:
        first, self._first = self._first, None
        self._count(steps=1, size_changes=int(first.shape != second.shape))
        pictures, at_s = pair(first, second), self._next / self.fps
        return StepFrames(self.counts.steps - 1, pictures, at_s, last=False, fps=self.fps)

    def _count(self, **more: int) -> None:
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + n for name, n in more.items()})


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two frames as a step (2, H, W, 3); where they differ in size, the newer one takes both places."""
    if first is second or first.shape != second.shape:
        return np.broadcast_to(second, (FRAMES_PER_STEP, *second.shape))  # a view: a long stall takes no memory
    return np.stack([first, second])


def _check(timestamp_s: float, frame: np.ndarray) -> None:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        given = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a frame must be an array of uint8, not {given}: convert it (values 0 to 255)")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise UserError(f"a frame must be (height, width, 3), RGB, not {frame.shape}")
    if not abs(timestamp_s) <= MAX_TIMESTAMP_S:  # false for what is not a number, too
        raise UserError(f"a frame at {timestamp_s} s: times are seconds, at most {MAX_TIMESTAMP_S:.0e}")
