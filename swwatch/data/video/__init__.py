"""From a video file to frames on a strict grid: one sampler for training, evaluation and streaming.

Grid times are 0, 1/fps, 2/fps, ... seconds from the first picture (0, 0.5, 1.0, ... at 2 frames a second), as long as
the video lasts; the frame of a grid time is the one on display then, by FFmpeg's own answer: edit lists, rotation and
mirroring, gaps and variable rates included. Two grid frames are one temporal patch: one step, 2/fps seconds.

`frames` says what a grid frame is, `container` what a file is, `source` opens it and chooses a stream, `timetable`
lists its pictures without decoding them, and lays the grid over them, `references` says which nothing refers to (of
AV1, `av1_headers`: what each refers to), `reader` decodes, `picture` turns it into RGB. `by_decord` reads
with decord, only where that is asked for. What costs an import of numpy or PyAV is imported when a file is opened.
"""

from collections.abc import Iterator
from pathlib import Path

from swwatch.data.video.frames import (
    MAX_FRAMES,
    READERS,
    TIME_TOLERANCE_S,
    WHOLE,
    Span,
    StepFrames,
    VideoError,
    VideoFrames,
    steps_of,
)
from swwatch.errors import UserError
from swwatch.rules.schedule import FPS, FRAMES_PER_STEP

__all__ = ["FRAMES_PER_STEP", "MAX_FRAMES", "READERS", "TIME_TOLERANCE_S", "WHOLE", "VideoFrames"]
__all__ += ["Span", "StepFrames", "VideoError", "iter_steps", "measure", "measure_duration_s"]
__all__ += ["read_clip", "steps_of"]


def read_clip(
    path: Path | str, *, max_frames: int | None = MAX_FRAMES, on_long: str = "error", **options
) -> VideoFrames:
    """All grid frames of a video file, or of a span of it, in full size; `iter_steps` holds one step at a time.

    Args:
        path: MP4/MOV, Matroska/WebM, AVI, MPEG-TS and others that FFmpeg reads; the content decides, not the name.
        max_frames: the most grid frames that may be used; None for no limit.
        on_long: what to do with a longer video: "error", or "truncate" to the first `max_frames`.
        fps: frames a second of the grid.
        spread: in place of a grid so many frames, or all, evenly spread over the span; `fps` is then what comes of it.
        span: seconds; the grid begins where the span does, and decoding at the nearest key frame before it.
        reader: one of READERS; "pyav" by default.
        fill_up: an odd last frame makes a pair with itself; else it is left out, unless it is the only one.
    Raises:
        VideoError: missing, empty, truncated or damaged file, no video in it, too long, or over before the span.
    """
    return _grid(path, max_frames, on_long, **options).clip()


def measure(path: Path | str, *, max_frames: int | None = MAX_FRAMES, **options) -> tuple[int, int, int]:
    """Grid frames, height and width of what `read_clip` would give, at the cost of the first frame.

    Raises:
        VideoError: as `read_clip`, but for damage behind the first frame.
    """
    grid = _grid(path, max_frames, "error", **options)
    height, width, _ = grid.first().shape
    return len(grid.indices), height, width


def iter_steps(
    path: Path | str, *, max_frames: int | None = MAX_FRAMES, on_long: str = "error", **options
) -> Iterator[StepFrames]:
    """The very frames of `read_clip`, step by step; a step is decoded when it is asked for.

    Args and errors as for `read_clip`; what can be known before decoding is raised by the call itself.
    """
    return _grid(path, max_frames, on_long, **options).steps()


def measure_duration_s(path: Path | str) -> float:
    """Seconds from the first frame to the end of the last, as `VideoFrames.duration_s` has them; decodes no frame.

    Raises:
        VideoError: as `read_clip`, as far as it can be known before decoding.
    """
    from swwatch.data.video.reader import VideoFile

    return VideoFile(Path(path)).table.end_s


def _grid(
    path: Path | str,
    max_frames: int | None,
    on_long: str,
    *,
    fps: float = FPS,
    spread: int | None = None,
    span: Span = WHOLE,
    reader: str = READERS[0],
    fill_up=False,
):
    """An opened video, read by the reader that was chosen."""
    if on_long not in ("error", "truncate"):
        raise ValueError(f"on_long must be 'error' or 'truncate', not {on_long!r}")
    if reader not in READERS:
        raise UserError(f"no reader {reader!r}: choose {' or '.join(READERS)}")
    if reader == "decord":
        from swwatch.data.video.by_decord import DecordFile as File
    else:
        from swwatch.data.video.reader import VideoFile as File
    from swwatch.data.video.reader import Grid

    return Grid(File(Path(path)), max_frames, on_long, span, fill_up, fps, spread)
