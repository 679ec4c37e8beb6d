"""Decodes the pictures of a file that are asked for, and puts them on the grid.

Of a file only the pictures of grid times are converted. The decoder is not given the packets of other pictures that
nothing refers to, or nothing that is asked for (see `references`). Every picture that it gives is checked against the
timetable; where one does not come, all packets are decoded, and where it still does not come, the file is damaged.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from swwatch.data.video.container import check_file
from swwatch.data.video.frames import WHOLE, Span, StepFrames, VideoError, VideoFrames
from swwatch.data.video.picture import Pictures, unconverted
from swwatch.data.video.source import Clock, decoded, opened, packets_of, shown_stream
from swwatch.data.video.timetable import Packets, by_packets, by_pictures, grid_indices, spread_indices
from swwatch.errors import UserError
from swwatch.rules.schedule import FPS, FRAMES_PER_STEP


class Unlike(VideoError):
    """The pictures do not come as the timetable tells."""

    def __init__(self, path: Path, reason: str = "its frames do not come at the times it tells: it is damaged"):
        super().__init__(path, reason)


class VideoFile:
    """The pictures of a file and when they are shown.

    Attributes:
        table: their timetable.
    Raises:
        VideoError: it cannot be read, as far as that is known before decoding.
    """

    def __init__(self, path: Path):
        check_file(path)
        self.path, self.table = path, by_packets(path)

    def look(self) -> None:
        """Make the timetable of what can be decoded, where packets tell of other pictures than there are.

        Raises:
            VideoError: what is missing is lost.
        """
        self.table = by_pictures(self.path, promised=self.table)

    def pictures(self, wanted: Sequence[int], to_end: bool = False) -> Iterator[np.ndarray]:
        """Pictures in full size, (H, W, 3) uint8, RGB; views of what was decoded.

        Args:
            wanted: their numbers, rising.
            to_end: decode what lies behind the last of them too, so that damage there comes to light.
        Raises:
            VideoError: damage.
            Unlike: the pictures do not come as the timetable tells.
        """
        done = 0
        for is_thorough in (False, True):
            try:
                for number, frame, pictures in self._decode(wanted[done:], to_end, is_thorough):
                    if done < len(wanted) and number == wanted[done]:
                        try:
                            picture = pictures.of(frame)
                        except av.FFmpegError as error:
                            raise VideoError(self.path, unconverted(frame)) from error
                        yield picture
                        done += 1
                return
            except Unlike:
                if is_thorough or self.table.packets is None:
                    raise

    def _decode(self, wanted: Sequence[int], to_end: bool, is_thorough: bool) -> Iterator[tuple]:
        """(number, frame, what makes a picture of it) of all that is decoded for the sake of `wanted`."""
        packets, numbers = self.table.packets, range(len(self.table.pts))
        first, given = 0, None
        if packets is not None:
            first, given, numbers = _plan(packets, wanted, to_end, is_thorough)
        last = numbers[-1] if to_end or not wanted else wanted[-1]
        with opened(self.path) as (container, stream):
            context, clock = stream.codec_context, Clock(container, stream)
            size, pictures = (context.width, context.height), None
            if given is None:
                source = packets_of(container, stream)
            else:
                source = _chosen(self.path, container, packets, first, given)
            expected = iter(numbers)
            for frame in decoded(self.path, context, source, clock, self.table.is_cut_in):
                if pictures is None:  # a decoder may leave a crop at the left undone, as with the ffmpeg command
                    is_first = (context.width, context.height) == size
                    pictures = Pictures((frame.width, frame.height) if is_first else size)
                if first and frame.pts is not None and frame.pts < packets.pts[first]:
                    continue  # refers to what lies before the entry
                number = next(expected, None)
                if number is None or frame.pts != self.table.pts[number]:
                    raise Unlike(self.path)
                yield number, frame, pictures
                if number == last and not to_end:
                    return
            if next(expected, None) is not None:
                raise Unlike(self.path)


def _plan(packets: Packets, wanted: Sequence[int], to_end: bool, is_thorough: bool):
    """Which packets to decode: (the first, (P,) bool, numbers of the pictures that will come)."""
    place = np.empty(len(packets.pts), np.int64)  # number of the picture in a packet, -1 for none
    place[:] = -1
    place[packets.order] = np.arange(len(packets.order))
    given = np.ones(len(packets.pts), bool)
    first = 0
    if wanted and not is_thorough:
        given = packets.needed(wanted)
        if wanted[0] and not to_end:
            target = packets.order[wanted[0]]
            entries = np.flatnonzero(packets.entry[: target + 1] & (packets.pts[: target + 1] <= packets.pts[target]))
            first = int(entries[-1]) if len(entries) else 0
    given[:first] = False
    coming = place[given & (place >= 0)]
    coming = np.sort(coming[packets.pts[packets.order[coming]] >= packets.pts[first]] if first else coming)
    return first, given, coming.tolist()


def _chosen(path: Path, container, packets: Packets, first: int, given: np.ndarray) -> Iterator[av.Packet]:
    """The packets of a file that are to be decoded.

    Raises:
        Unlike: they are others than they were.
    """
    position, places, stream = 0, {}, shown_stream(container)
    if first:
        times = zip(packets.pts.tolist(), packets.dts.tolist(), strict=True)
        places = {time: place for place, time in enumerate(times)}
        try:
            container.seek(int(packets.dts[first]), stream=stream)
        except av.FFmpegError as error:
            raise Unlike(path) from error  # a form without a way to seek
    for packet in packets_of(container, stream):
        if not packet.size:
            continue
        if places:
            position, places = places.get((packet.pts, packet.dts), first + 1), {}
            if position > first:
                raise Unlike(path)  # what lies before is not found by seeking
        if position >= len(given) or packet.pts != packets.pts[position]:
            raise Unlike(path)
        if given[position]:
            yield packet
        position += 1


class Grid:
    """The pictures of a video on the grid.

    Args:
        file: a VideoFile, or what has its attributes and methods.
        max_frames, on_long, span, fill_up, fps, spread: as for `read_clip`.
    Attributes:
        indices: (2 * steps,) number of the picture on display at each grid time.
        duration_s: of the span.
    """

    def __init__(
        self,
        file,
        max_frames: int | None,
        on_long: str,
        span: Span = WHOLE,
        fill_up: bool = False,
        fps: float = FPS,
        spread: int | None = None,
    ):
        if max_frames is not None and max_frames < FRAMES_PER_STEP:
            raise UserError(f"max_frames {max_frames}: one step needs {FRAMES_PER_STEP} frames")
        self.file, self.max_frames, self.on_long, self.span, self.fill_up = file, max_frames, on_long, span, fill_up
        self.fps, self.spread = fps, spread
        self._lay()

    def _lay(self) -> None:
        table, (begin_s, end_s) = self.file.table, self.span
        if begin_s and begin_s >= table.end_s:
            reason = f"it lasts {table.end_s:.1f} s, and the clip would begin at {begin_s:g} s"
            raise VideoError(self.file.path, reason)
        end_s = table.end_s if end_s is None else min(table.end_s, end_s)
        self.duration_s = end_s - begin_s
        if self.spread is None:
            indices = grid_indices(table.starts_s, end_s, begin_s, self.fps)
        else:
            indices = spread_indices(table.starts_s, end_s, begin_s, self.spread)
            self.fps = len(indices) / self.duration_s
        if len(indices) % FRAMES_PER_STEP and (self.fill_up or len(indices) == 1):
            indices = np.append(indices, indices[-1])  # a lone frame makes its own pair
        self.indices = indices[: len(indices) // FRAMES_PER_STEP * FRAMES_PER_STEP]
        self._to_end = self.span == WHOLE
        if self.max_frames is not None and len(self.indices) > self.max_frames:
            if self.on_long == "error":
                raise VideoError(
                    self.file.path,
                    f"it lasts {self.duration_s:.1f} s, that is {len(self.indices)} frames at {self.fps:g} "
                    f"a second, and the limit is {self.max_frames}: cut the video or raise the limit",
                )
            self.indices = self.indices[: self.max_frames // FRAMES_PER_STEP * FRAMES_PER_STEP]
            self._to_end = False

    def clip(self) -> VideoFrames:
        """All of them."""
        frames = None
        for place, picture in self.shown():
            if frames is None:
                frames = np.empty((len(self.indices), *picture.shape), np.uint8)
            frames[place] = picture
        return VideoFrames(frames, self.duration_s)

    def first(self) -> np.ndarray:
        """The first picture, (H, W, 3)."""
        return next(self._pictures(lambda: self.indices[:1].tolist(), False))

    def steps(self) -> Iterator[StepFrames]:
        """Step by step; of the last one no sooner than all that is to be decoded was."""
        for place, picture in self.shown():
            step, second = divmod(place, FRAMES_PER_STEP)
            if not second:
                pair = np.empty((FRAMES_PER_STEP, *picture.shape), np.uint8)
            pair[second] = picture
            if second:
                yield StepFrames.of(step, pair, len(self.indices) // FRAMES_PER_STEP, self.fps)

    def shown(self) -> Iterator[tuple[int, np.ndarray]]:
        """(place on the grid, the picture on display), to be copied; of the last one as for `steps`."""
        pictures = self._pictures(lambda: np.unique(self.indices).tolist(), self._to_end)
        shown, picture, place = -1, None, 0
        while place < len(self.indices):
            if self.indices[place] != shown:  # else the same picture is still on display
                picture = next(pictures)
                shown = self.indices[place]
            if place == len(self.indices) - 1:
                next(pictures, None)
            yield place, picture
            place += 1

    def _pictures(self, wanted, to_end: bool) -> Iterator[np.ndarray]:
        """Pictures of the grid. Where they do not come as told, the timetable is made anew, and with it the grid."""
        had: list[int] = []  # when those that were handed out are shown
        while True:
            numbers = wanted()
            try:
                for picture in self.file.pictures(numbers[len(had) :], to_end):
                    had.append(int(self.file.table.pts[numbers[len(had)]]))
                    yield picture
                return
            except Unlike as error:
                damage = error
                if self.file.table.packets is None:
                    raise
            num_frames = len(self.indices)
            self.file.look()
            self._lay()
            if had and (len(self.indices) != num_frames or self.file.table.pts[wanted()][: len(had)].tolist() != had):
                raise damage
