"""Opens a video file with PyAV: which stream is shown, what may be opened at all, how many threads decode."""

import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import av

from swwatch.data.video.frames import FORMATS, VideoError

MAX_PIXELS = 1 << 26  # of a picture: 8192 x 8192, 200 MB as RGB
DEFAULT_BONUS = 5_000_000  # pixels that a stream marked as default may lack, as with the ffmpeg command
FROM_ZERO = ("matroska", "asf", "nut")  # state when they end, not how long they last
UNCOUNTED = 1 << 30  # pictures of an AVI file whose writer could not go back and tell
MAX_THREADS = 4  # each holds a picture of its own

PART_BYTES = 256  # the most that is looked for behind the last picture of JPEG pictures in parts
PACKED = re.compile(rb"DivX\d+(b|Build)\d+p")  # what DivX and Xvid sign such a stream with

CONVERT = "convert it (ffmpeg -i IN OUT.mp4)"
NO_DECODER = f"it has no decoder here: {CONVERT}, or install PyAV's own wheel (pip install av), which brings one"


@contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A file and the stream that is shown.

    Raises:
        VideoError: it is no video file, has no video, or one that cannot be decoded here.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS} | most_pixels(MAX_PIXELS)
    with readable(f"file:{path.absolute()}") as source:
        try:
            container = av.open(source, options=options, metadata_errors="replace")
        except (av.FFmpegError, EOFError) as error:
            reason = f"it cannot be opened: the file is damaged, incomplete or no video; if it is one, {CONVERT}"
            raise VideoError(path, reason) from error
        with container:
            stream = shown_stream(container)
            reason = why_not(stream, MAX_PIXELS)
            if reason is not None:
                raise VideoError(path, reason)
            yield container, stream


@contextmanager
def readable(name: str):
    """What PyAV can open: an address, or "file:" and a path; where that is not UTF-8, the file itself, opened."""
    try:
        name.encode()
    except UnicodeEncodeError:
        with open(name.removeprefix("file:"), "rb") as file:
            yield file
    else:
        yield name


def shown_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The stream that the ffmpeg command shows: the largest, with a bonus for one marked as default; no cover."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    return max(streams, key=_rank, default=None)


def _rank(stream: av.VideoStream) -> tuple[int, bool]:
    context = stream.codec_context
    pixels = 0 if context is None else context.width * context.height
    bonus = DEFAULT_BONUS * bool(stream.disposition & av.stream.Disposition.default)
    return pixels + bonus, stream.frames != 1  # as the still picture beside the moving one in AVIF


def _is_cover(stream: av.VideoStream) -> bool:
    """A still picture in a file of sound."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def why_not(stream: av.VideoStream | None, max_pixels: int) -> str | None:
    """Why a stream cannot be shown, before anything of it is decoded; None where it can."""
    if stream is None:
        return "it has no video stream (sound only, or no video file at all)"
    context = stream.codec_context
    if context is None:
        return f"its codec is not known: {NO_DECODER}"
    if context.name == "av1":  # FFmpeg's own, which needs a graphics card
        return f"it is AV1, and {NO_DECODER}"
    return too_large(context, max_pixels)


def too_large(frame: av.VideoFrame | av.VideoCodecContext, max_pixels: int) -> str | None:
    """What is wrong with a frame, or a decoder that was told how large its frames will be, of too many pixels."""
    if frame.width * frame.height <= max_pixels:
        return None
    return f"its pictures of {frame.width}x{frame.height} are over the limit of {max_pixels} pixels: make them smaller"


def most_pixels(max_pixels: int) -> dict[str, str]:
    """The option of a decoder that makes no room for larger ones; it rounds sides up and counts what it adds."""
    return {"max_pixels": str(2 * max_pixels + (1 << 21))}


def stated_end_s(container: av.container.InputContainer) -> float | None:
    """When the last stream ends, in the streams' own time, as the container states; None where it does not."""
    if container.duration is None:
        return None
    if container.format.name == "avi" and not all(0 < stream.frames < UNCOUNTED for stream in container.streams.video):
        return None  # written to a pipe, or never closed: a guess from its size
    start = 0 if container.format.name.startswith(FROM_ZERO) else container.start_time or 0
    return (start + container.duration) / av.time_base


def stream_end(container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """When an MP4's stream ends, in its time base: its last packet's duration is that of the order of decoding."""
    if not container.format.name.startswith("mov") or None in (stream.start_time, stream.duration):
        return None
    return stream.start_time + stream.duration


def packets_of(container: av.container.InputContainer, *streams: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a file to its end, of all streams or of these."""
    packet = None
    try:
        for packet in container.demux(*streams):
            yield packet
    except av.error.InvalidDataError:
        if not ends_open(container, packet):
            raise


def ends_open(container: av.container.InputContainer, last: av.Packet | None) -> bool:
    """Whether JPEG pictures in parts are at their end, which FFmpeg takes for damage where no boundary closes them."""
    is_parted = container.format.name == "mpjpeg" and last is not None and last.pos is not None
    return is_parted and last.pos + last.size + PART_BYTES >= container.size


class Clock:
    """Gives the pictures of a stream their times where the container tells the order of decoding alone.

    Raw H.264 and H.265 have no times, AVI none of display. A decoder gives pictures in the order of display, so they
    take, as with the ffmpeg command, the stream's rate (25 a second where it names none), or the time of the packet
    with which each comes, and at the end the step between the last two.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        context, form = stream.codec_context, container.format
        is_reordered, is_avi = context.name in ("h264", "hevc"), form.name == "avi"
        is_packed = is_avi and context.name == "mpeg4" and bool(PACKED.search(context.extradata or b""))
        self.is_needed = is_packed or (is_avi and is_reordered and context.has_b_frames)
        self._newest: int | None = None  # when the last picture is shown
        self._step = 1
        if is_reordered and form.name in ("h264", "hevc"):
            rate = context.framerate or stream.guessed_rate
            self.is_needed, self._step = True, round(1 / (rate * stream.time_base))

    def set(self, frame: av.VideoFrame) -> None:
        """A picture has come."""
        if not self.is_needed:
            return
        newest = self._newest
        if frame.dts is None:
            frame.pts = 0 if newest is None else newest + self._step
        else:
            frame.pts = frame.dts
            self._step = self._step if newest is None else frame.dts - newest
        self._newest = frame.pts


def decoded(
    path: Path,
    context: av.VideoCodecContext,
    packets: Iterable[av.Packet],
    clock: Clock,
    is_cut_in: bool = False,
) -> Iterator[av.VideoFrame]:
    """The pictures of packets.

    Args:
        is_cut_in: the file begins between key frames: what cannot be decoded before the first picture is passed over.
    Raises:
        VideoError: a packet cannot be decoded.
    """
    share_out(context)
    context.options = most_pixels(MAX_PIXELS)
    is_begun = False
    for packet in chain((packet for packet in packets if packet.size), [None]):
        try:
            frames = context.decode(packet)
        except (av.FFmpegError, EOFError) as error:
            if is_begun or not is_cut_in:
                # a decoder forgets a size that it makes no room for
                what = "" if context.width else f", or its pictures are over the limit of {MAX_PIXELS} pixels"
                raise VideoError(path, f"one of its frames cannot be decoded: the file is damaged{what}") from error
            continue
        is_begun = is_begun or bool(frames)
        for frame in frames:
            clock.set(frame)
            yield frame


def share_out(context: av.VideoCodecContext) -> None:
    """Let a decoder use threads, each with a picture of its own: threads within a picture would hide damage."""
    context.thread_type, context.thread_count = "FRAME", free_threads()


def free_threads() -> int:
    """Threads for a decoder: one in a worker process, whose siblings fill the cores, else a share of the cores."""
    if multiprocessing.parent_process() is not None:
        return 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(MAX_THREADS, (os.cpu_count() or 1) // ranks))
