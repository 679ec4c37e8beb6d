"""What a grid frame, a step and a clip are. Nothing here imports numpy: programs read their flags by it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swwatch.errors import UserError
from swwatch.rules.schedule import FPS, FRAMES_PER_STEP

if TYPE_CHECKING:
    import numpy as np

READERS = ("pyav", "decord")
# What FFmpeg may take the content for. Playlists and scripts (concat) name other addresses, so they are none of them.
FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,ivf,mxf,dv,gif,apng,nut,rm,yuv4mpegpipe"
FORMATS += ",swf,gxf,roq"
FORMATS += ",h261,h263,h264,hevc,obu,m4v,mpegvideo,mjpeg,mpjpeg"
FORMATS += ",jpeg_pipe,png_pipe,bmp_pipe"  # pictures in a row, by content
MAX_FRAMES = 60  # of the paper's training: 30 s at 2 frames a second
TIME_TOLERANCE_S = 1e-4  # a sender's times may be float32; at 2 a second, 23.976 fps frames miss the grid by 5e-4

Span = tuple[float, float | None]  # seconds of a video, from the first frame; None: to its end
WHOLE: Span = (0.0, None)


class VideoError(UserError):
    """A video that cannot be used. `path` and `reason` are kept apart for lists of skipped samples."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(path, reason)  # both, so that it survives pickling between worker processes
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use the video {self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoFrames:
    """All grid frames of a video."""

    frames: "np.ndarray"  # (2 * num_steps, H, W, 3) uint8, RGB
    duration_s: float  # from the first frame to the end of the last, as the frames themselves say, not the metadata

    @property
    def num_steps(self) -> int:
        return len(self.frames) // FRAMES_PER_STEP


@dataclass(frozen=True)
class StepFrames:
    """What arrives at once: two frames of the grid, one temporal patch."""

    step: int  # from 0
    frames: "np.ndarray"  # (2, H, W, 3) uint8, RGB
    arrival_s: float  # video time at which the step is complete: its second frame is on display
    last: bool
    num_frames: int | None = None  # of the whole video on the grid, where that is known
    fps: float = FPS  # frames a second of the grid

    @classmethod
    def of(cls, step: int, frames: "np.ndarray", num_steps: int, fps: float = FPS) -> "StepFrames":
        """A step of a video that has `num_steps` of them."""
        arrival_s = ((step + 1) * FRAMES_PER_STEP - 1) / fps
        return cls(step, frames, arrival_s, step == num_steps - 1, num_steps * FRAMES_PER_STEP, fps)


def steps_of(clip: VideoFrames, fps: float = FPS) -> Iterator[StepFrames]:
    """The steps of a clip in memory, as `iter_steps` gives them for its file at the same rate."""
    for step in range(clip.num_steps):
        frames = clip.frames[step * FRAMES_PER_STEP : (step + 1) * FRAMES_PER_STEP]
        yield StepFrames.of(step, frames, clip.num_steps, fps)
