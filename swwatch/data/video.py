"""From a video file to frames on a strict 2 fps grid: one sampler for training, evaluation and streaming.

Grid times are 0, 0.5, 1.0, ... seconds from the first frame, as long as the video lasts; the frame of a grid time is
the one on display then. Two grid frames are one temporal patch: one second, one step. This is the only file that uses
decord.

decord's random access (`get_batch`) and `skip_frames` return wrong frames in open groups of pictures and in fragmented
MP4, and its MPEG-TS frames are off by many; `next` from the start is exact in MP4, Matroska and AVI. So every frame is
read in order, which costs a tenth more, and other containers are refused.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.errors import UserError

FRAMES_PER_SECOND = 2
FRAMES_PER_STEP = 2
MAX_FRAMES = 60  # of the paper's training: 30 s
TIME_TOLERANCE_S = 1e-4  # decord's times are float32; 23.976 fps frames miss a grid time by 5e-4 s at the least
MATCH_S = 2e-3  # float32 is no finer after some hours
MAX_DURATION_S = 7 * 86_400  # beyond it the file's times are garbage


class VideoError(UserError):
    """A video that cannot be used. `path` and `reason` are kept apart for lists of skipped samples."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(path, reason)  # both, so that it survives pickling between worker processes
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use the video {self.path}: {self.reason}"


@dataclass(frozen=True)
class Clip:
    """All grid frames of a video."""

    frames: np.ndarray  # (2 * num_steps, H, W, 3) uint8, RGB
    duration_s: float  # from the first frame to the end of the last, as the frames themselves say, not the metadata

    @property
    def num_steps(self) -> int:
        return len(self.frames) // FRAMES_PER_STEP


@dataclass(frozen=True)
class StepFrames:
    """What arrives in one second."""

    step: int  # from 0
    frames: np.ndarray  # (2, H, W, 3) uint8, RGB
    arrival_s: float  # video time at which the step is complete: its second frame is on display
    last: bool
    num_frames: int | None = None  # of the whole video on the grid, where that is known


Span = tuple[float, float | None]  # seconds of a video, from the first frame; None: to its end
WHOLE: Span = (0.0, None)


def read_clip(
    path: Path | str, *, max_frames: int | None = MAX_FRAMES, on_long: str = "error", span: Span = WHOLE
) -> Clip:
    """All grid frames of a video file, or of a span of it, whose grid begins where the span does.

    Args:
        path: MP4/MOV, Matroska/WebM or AVI; the content decides, not the name.
        max_frames: the most grid frames that may be used; None for no limit.
        on_long: what to do with a longer video: "error", or "truncate" to the first `max_frames`.
        span: seconds. What lies before it is decoded from the nearest key frame on.
    Raises:
        VideoError: missing, empty, truncated or damaged file, no video in it, too long, or over before the span.
    """
    reader = _Reader(Path(path), max_frames, on_long, span)
    return Clip(np.concatenate([step.frames for step in reader.steps()]), reader.duration_s)


def measure(path: Path | str, *, max_frames: int | None = MAX_FRAMES, span: Span = WHOLE) -> tuple[int, int, int]:
    """Grid frames, height and width of what `read_clip` would give, at the cost of the first frame.

    Raises:
        VideoError: as `read_clip`, but for damage behind the first frame.
    """
    reader = _Reader(Path(path), max_frames, "error", span)
    height, width, _ = reader._decode().shape
    return len(reader.indices), height, width


def iter_steps(
    path: Path | str, *, max_frames: int | None = MAX_FRAMES, on_long: str = "error", span: Span = WHOLE
) -> Iterator[StepFrames]:
    """The very frames of `read_clip`, step by step; a step is decoded when it is asked for.

    Args and errors as for `read_clip`; what can be known before decoding is raised by the call itself.
    """
    return _Reader(Path(path), max_frames, on_long, span).steps()


def measure_duration_s(path: Path | str) -> float:
    """Seconds from the first frame to the end of the last, as `Clip.duration_s` has them; decodes no frame.

    Raises:
        VideoError: as `read_clip`, as far as it can be known before decoding.
    """
    _check_file(Path(path))
    return _open(Path(path))[2]


def steps_of(clip: Clip) -> Iterator[StepFrames]:
    """The steps of a clip in memory, as `iter_steps` gives them for its file."""
    for step in range(clip.num_steps):
        frames = clip.frames[step * FRAMES_PER_STEP : (step + 1) * FRAMES_PER_STEP]
        yield _step_frames(step, frames, clip.num_steps)


def _step_frames(step: int, frames: np.ndarray, num_steps: int) -> StepFrames:
    arrival_s, last = step + 1 / FRAMES_PER_SECOND, step == num_steps - 1
    return StepFrames(step, frames, arrival_s, last, num_steps * FRAMES_PER_STEP)


def grid_indices(starts_s: np.ndarray, end_s: float, begin_s: float = 0.0) -> np.ndarray:
    """Which source frame is on display at each grid time.

    Args:
        starts_s: (N,) display time of each frame, ascending, the first one 0.
        end_s: end of the last frame, or of the span.
        begin_s: the first grid time.
    Returns:
        (G,) indices into `starts_s` for the times begin_s, begin_s + 0.5, ... < `end_s`; at least one.
    """
    num_grid = max(1, int(np.ceil((end_s - begin_s - TIME_TOLERANCE_S) * FRAMES_PER_SECOND)))
    grid_s = begin_s + np.arange(num_grid) / FRAMES_PER_SECOND
    return np.searchsorted(starts_s, grid_s + TIME_TOLERANCE_S, side="right") - 1


class _Reader:
    """An opened video: knows which source frames it needs, decodes them in order."""

    def __init__(self, path: Path, max_frames: int | None, on_long: str, span: Span = WHOLE):
        if on_long not in ("error", "truncate"):
            raise ValueError(f"on_long must be 'error' or 'truncate', not {on_long!r}")
        if max_frames is not None and max_frames < FRAMES_PER_STEP:
            raise UserError(f"max_frames {max_frames}: one step needs {FRAMES_PER_STEP} frames")
        self.path = path
        _check_file(path)
        self._source, starts_s, whole_s = _open(path)
        begin_s, end_s = span[0], min(whole_s, whole_s if span[1] is None else span[1])
        if begin_s and begin_s >= whole_s:
            raise VideoError(path, f"it lasts {whole_s:.1f} s, and the clip would begin at {begin_s:g} s")
        self.duration_s = end_s - begin_s
        indices = grid_indices(starts_s, end_s, begin_s)
        if len(indices) == 1:
            indices = indices.repeat(FRAMES_PER_STEP)  # a lone frame makes its own pair
        self.indices = indices[: len(indices) // FRAMES_PER_STEP * FRAMES_PER_STEP]
        self._decode_to = len(starts_s) if span == WHOLE else self.indices[-1] + 1
        self._from_key = _frames_from(path, starts_s, int(self.indices[0])) if begin_s else None
        if max_frames is not None and len(self.indices) > max_frames:
            if on_long == "error":
                raise VideoError(
                    path,
                    f"it lasts {self.duration_s:.1f} s, that is {len(self.indices)} frames at {FRAMES_PER_SECOND} "
                    f"a second, and the limit is {max_frames}: cut the video or raise the limit",
                )
            self.indices = self.indices[: max_frames // FRAMES_PER_STEP * FRAMES_PER_STEP]
            self._decode_to = self.indices[-1] + 1

    def steps(self) -> Iterator[StepFrames]:
        num_steps = len(self.indices) // FRAMES_PER_STEP
        first = 0 if self._from_key is None else int(self.indices[0])
        position, frame = first - 1, None  # index and picture of the last frame decoded
        for step in range(num_steps):
            pair: list[np.ndarray] = []
            for index in self.indices[step * FRAMES_PER_STEP : (step + 1) * FRAMES_PER_STEP].tolist():
                while position < index:  # not at all where the same frame is still on display
                    frame = self._decode()
                    position += 1
                pair.append(frame)
            # decord decodes ahead in a thread, so that damage behind the last grid frame may or may not come to light;
            # decoding to the end makes it an error every time
            while step == num_steps - 1 and position + 1 < self._decode_to:
                self._decode()
                position += 1
            yield _step_frames(step, np.stack(pair), num_steps)

    def _decode(self):
        """The next frame, (H, W, 3)."""
        try:
            return self._source.next().asnumpy() if self._from_key is None else next(self._from_key)
        except (*_decord_errors(), StopIteration) as error:
            reason = f"one of its {len(self._source)} frames cannot be decoded: the file is damaged"
            raise VideoError(self.path, reason) from error


def _frames_from(path: Path, starts_s: np.ndarray, first: int) -> Iterator[np.ndarray]:
    """Frames from number `first` on, by PyAV, which knows the times of what it decodes; the same pixels as decord's.

    Args:
        starts_s: (N,) display time of each frame, the first one 0.
    Raises:
        VideoError: a frame is missing.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            zero_s = float(next(container.decode(stream)).time)
            container.seek(int((zero_s + starts_s[first]) / stream.time_base), stream=stream)
            number = first
            for frame in container.decode(stream):
                time_s = float(frame.time) - zero_s
                if time_s < starts_s[first] - MATCH_S:
                    continue
                if abs(time_s - starts_s[number]) > MATCH_S:
                    raise VideoError(path, f"its frame at {starts_s[number]:.2f} s cannot be decoded")
                yield frame.to_ndarray(format="rgb24")
                number += 1
    except (av.FFmpegError, TypeError) as error:  # the second where a frame has no time
        raise VideoError(path, "it cannot be decoded from the middle: the file is damaged") from error


def _open(path: Path):
    """Open with decord: (reader, start of each frame in seconds from the first (N,), end of the last)."""
    # Some files make decord ask again and again for their last frames; this bound is the one that it suggests itself.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "20480")
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's remarks; what matters comes back as an error
    try:
        source = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        times_s = source.get_frame_timestamp(range(len(source))).astype(np.float64)  # (N, 2) start, end
    except _decord_errors() as error:
        if "cannot find video stream" in str(error):
            raise VideoError(
                path, "it has no video stream that can be decoded (sound only, or an unknown codec)"
            ) from error
        raise VideoError(path, "it cannot be opened: the file is damaged, incomplete or no video") from error
    if not len(times_s):
        raise VideoError(path, "it has no frames")
    starts_s = times_s[:, 0] - times_s[0, 0]
    duration_s = float(times_s[-1, 1] - times_s[0, 0])
    if not (np.abs(times_s) < MAX_DURATION_S).all() or (np.diff(starts_s) < 0).any() or duration_s < 0:
        raise VideoError(path, "its frames carry no usable times: convert it (ffmpeg -i IN OUT.mp4)")
    return source, starts_s, duration_s


def _decord_errors() -> tuple[type[Exception], ...]:
    from decord import DECORDError

    return DECORDError, RuntimeError  # the second where its Python side notices


def _check_file(path: Path) -> None:
    """Refuse what decord would misread: what is no video file, other containers, files cut short.

    decord plays the beginning of a cut file as if that were all.
    """
    if path.is_dir():
        raise VideoError(path, "it is a folder")
    if not path.exists():
        raise VideoError(path, "there is no such file")
    if not path.is_file():
        raise VideoError(path, "it is no regular file")
    try:
        size = path.stat().st_size
        if not size:
            raise VideoError(path, "the file is empty")
        with path.open("rb") as file:
            promised = _promised_size(file, size)
    except OSError as error:
        raise VideoError(path, f"it cannot be read ({error.strerror})") from error
    if promised is None:
        raise VideoError(path, "it is no MP4/MOV, Matroska/WebM or AVI file: convert it (ffmpeg -i IN OUT.mp4)")
    if promised > size:
        raise VideoError(path, f"it is cut short: {size} of {promised} bytes are there; copy or download it again")


def _promised_size(file, size: int) -> int | None:
    """How many bytes the container says the file has (at least), None when the container is none of the known ones."""
    head = file.read(64)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"\x1aE\xdf\xa3":  # Matroska: an EBML header, then one segment that holds all the rest
        header_bytes, header_length = _ebml_size(head, 4)
        start = 4 + header_length + (header_bytes or 0)
        segment_bytes, segment_length = _ebml_size(head, start + 4)
        return 0 if segment_bytes is None else start + 4 + segment_length + segment_bytes
    if head[4:8] not in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return None
    start = promised = 0  # MP4/MOV: a chain of boxes, each with its size
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: up to the end of the file; anything else is not a box
            break
        start += length
        if kind in (b"moov", b"moof", b"mdat"):
            promised = start
    return promised


def _ebml_size(data: bytes, start: int) -> tuple[int | None, int]:
    """A Matroska size field: (value or None for "unknown", bytes it takes, which its leading zero bits say)."""
    if start >= len(data) or not data[start]:
        return None, 1
    length = 9 - data[start].bit_length()
    value = int.from_bytes(data[start : start + length], "big") - (1 << 7 * length)
    return (None if value == (1 << 7 * length) - 1 else value), length
