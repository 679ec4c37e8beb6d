"""Reads one live source in a thread: opens it, decodes it, opens it again when the connection is lost."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import av

from swwatch.data.live.addresses import Location, check_url
from swwatch.data.live.buffer import Buffer
from swwatch.data.live.forward import Forwarder
from swwatch.data.live.losses import Losses
from swwatch.data.live.reasons import why_broken
from swwatch.data.video.container import check_file, is_whole
from swwatch.data.video.source import (
    CONVERT,
    Clock,
    ends_open,
    most_pixels,
    readable,
    share_out,
    shown_stream,
    stated_end_s,
    stream_end,
    too_large,
    why_not,
)
from swwatch.errors import UserError

STEADY_S = 30.0  # a connection that gave frames for so long gives the next one all its attempts again
LONGEST_WAIT_S = 8.0  # between two attempts
PROMISED_S = 1.0  # a recording may end so much before the length that it states
DISORDER_S = 2.0  # times that go back by so much are in the order of decoding; by more, a file that begins again
PARTED = ("hls", "dash")  # playlists: their parts may each begin at time 0, so times do not tell how much is left
TIMELESS = ("mjpeg", "mpjpeg", "jpeg_pipe")  # pictures without times, as network cameras send them: the clock decides


@dataclass(frozen=True)
class Reconnect:
    """Told before each attempt to open a source again: which of how many, in how many seconds, and why."""

    attempt: int
    attempts: int
    wait_s: float
    reason: str


class Broken(Exception):
    """The connection was lost, or there was none; says why."""


class LiveReader:
    """Puts the frames of one source into a buffer. Its options and numbers are those of `live_sources.FrameStream`."""

    def __init__(
        self,
        location: Location,
        *,
        realtime: bool,
        timeouts_s: tuple[float, float],
        attempts: int,
        backoff_s: float,
        on_reconnect: Callable[[Reconnect], None] | None,
        allow_private: bool,
        max_pixels: int,
    ):
        """Args: `timeouts_s` to open and to read; `attempts` to open it again."""
        self.location, self.buffer = location, Buffer()
        self.realtime, self.timeouts_s, self.allow_private = realtime, timeouts_s, allow_private
        self.attempts, self.backoff_s, self.on_reconnect = attempts, backoff_s, on_reconnect
        self.max_pixels = max_pixels
        self.is_live: bool | None = None
        self.end_s: float | None = None
        self.reconnects = self.damaged = 0
        self._failed = 0  # attempts since the last steady connection
        self._newest_s: float | None = None  # timestamp of the newest frame
        self._came_s = 0.0  # when it came, by the clock
        self._playing_s: float | None = None  # when the first of all frames came, by the clock
        self._zero_s: float | None = None  # the source's own time at timestamp 0
        # of this connection: when it began, by the clock; when the recording is to end and how far it was read
        self._began_s = self._reached_s = 0.0
        self._stated_s: float | None = None

    def run(self) -> None:
        """Read to the end, or until the buffer is stopped."""
        try:
            self._keep_playing()
        except Exception as error:  # whatever it is, it belongs to the consumer
            self.buffer.finish(error)
        else:
            self.buffer.finish()

    def _keep_playing(self) -> None:
        name = self.location.shown
        while True:
            try:
                return self._play()
            except Broken as broken:
                reason = str(broken)
            if self.is_live is None or self.location.kind == "file":
                raise UserError(f"{name}: {reason}")
            self._failed += 1
            if self._failed > self.attempts:
                raise UserError(
                    f"{name} was lost {self._newest_s or 0:.1f} s after its first frame, {reason}; "
                    f"{self.attempts} attempts to open it again failed"
                )
            wait_s = min(self.backoff_s * 2 ** (self._failed - 1), LONGEST_WAIT_S)
            if self.on_reconnect:
                self.on_reconnect(Reconnect(self._failed, self.attempts, wait_s, reason))
            if self.buffer.is_stopped_within(wait_s):
                return
            self.reconnects += 1
            if self.location.kind != "camera":
                check_url(self.location.address, allow_private=self.allow_private)

    def _play(self) -> None:
        """From opening to the end. Raises Broken for what another attempt might mend."""
        where, asked_s = self.location, time.monotonic()
        options = where.options | most_pixels(self.max_pixels)
        with ExitStack() as held:
            way = held.enter_context(Forwarder(where.address, self.timeouts_s[0])) if where.is_strangers else None
            address = held.enter_context(readable(where.address if way is None else way.address))
            try:
                container = av.open(
                    address, format=where.format, options=options, timeout=self.timeouts_s, metadata_errors="replace"
                )
            except av.FFmpegError as error:
                if way is not None and way.refused is not None:
                    raise way.refused from error
                if where.kind == "file":
                    check_file(where.path)  # knows better, where the file itself tells
                reason = why_broken(error, where, self.timeouts_s[0], asked_s)
                raise Broken(way.failed if way is not None and way.failed else reason) from error
            self._read(container)

    def _read(self, container) -> None:
        """To the end of an opened source."""
        with container:
            stream = shown_stream(container)
            self._check(why_not(stream, self.max_pixels))
            stream.codec_context.options = most_pixels(self.max_pixels)  # what the source tells may be a lie
            if self.is_live is None:
                self.is_live = _is_live(self.location.kind, container)
            if self.is_live:
                self._zero_s = None  # another connection, another clock
            else:
                share_out(stream.codec_context)
            self._decode(container, stream)

    def _check(self, reason: str | None) -> None:
        if reason is not None:
            raise UserError(f"{self.location.shown}: {reason}")

    def _decode(self, container, stream) -> None:
        self._stated_s = None if container.format.name in PARTED else stated_end_s(container)
        self._reached_s, last = -math.inf, None  # where all streams have come to; when the last picture is shown
        self._clock, self._losses = Clock(container, stream), Losses(stream.codec_context)
        timeless = self.is_live and container.format.name in TIMELESS
        self._began_s = heard_s = time.monotonic()
        is_cut_in = None  # whether it begins between key frames
        for packet in self._packets(container, stream):
            if self.buffer.is_stopped_within(0):
                return
            if packet.pts is not None:
                until_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._reached_s = max(self._reached_s, until_s)
            if packet.stream.index == stream.index:
                if packet.pts is not None and not packet.is_discard:
                    last = max(last or (packet.pts, 0), (packet.pts, packet.duration or 0))
                is_cut_in = not packet.is_keyframe if is_cut_in is None else is_cut_in
                for frame in self._frames(packet, self._newest_s is None and is_cut_in):
                    self._deliver(frame, timeless)
                    heard_s = time.monotonic()
                self._tell_losses(container)
            if self.is_live and time.monotonic() - heard_s > self.timeouts_s[1]:
                raise Broken(f"no picture for {self.timeouts_s[1]:g} s")
        self._losses.end()
        self._tell_losses(container)
        if self.is_live and self.location.kind != "http":
            raise Broken("it ended")
        is_short = not self._is_read_to(PROMISED_S) and self._reached_s > -math.inf
        if not self.is_live and is_short and not self._is_whole(container):
            raise Broken(f"it breaks off, {self._stated_s - self._reached_s:.1f} s are missing at its end")
        if self.location.path and self.location.path.is_file():
            check_file(self.location.path)  # what states no length may still be known to be cut
        if self._newest_s is None:
            raise UserError(f"{self.location.shown} has no frames")
        if not self.is_live and last is not None and container.format.name not in PARTED:
            self.end_s = self._ends_s(container, stream, *last)

    def _ends_s(self, container, stream, pts: int, duration: int) -> float | None:
        """When a recording's last picture ends, as the sampler has it; None where nothing tells."""
        end = stream_end(container, stream)
        if end is not None and end > pts:
            duration = min(duration, end - pts)
        if not duration or self._clock.is_needed:
            return None
        return float((pts + duration) * stream.time_base) - self._zero_s

    def _is_whole(self, container) -> bool:
        """Whether all bytes of an MP4 file are there: its edit list may ask for more than it holds."""
        return bool(self.location.path and container.format.name.startswith("mov") and is_whole(self.location.path))

    def _tell_losses(self, container) -> None:
        lost, self._losses.count = self._losses.count, 0
        if lost and not self.is_live and container.format.name not in PARTED:
            raise Broken(f"{lost} or more of its frames cannot be decoded: the file is damaged or cut short")
        self.damaged += lost

    def _is_read_to(self, tolerance_s: float) -> bool:
        """Whether a recording was read to its end; where its length is unknown, it is not known to be longer."""
        return self._stated_s is None or self._reached_s >= self._stated_s - tolerance_s

    def _packets(self, container, stream) -> Iterator[av.Packet]:
        """Of all streams: they tell how far the source goes. At the end an empty one for what the decoder holds.

        A packet marked as corrupt is a frame cut short if it is the last of a recording; else it only comes after some
        that were lost, or after a cut between two parts.
        """
        packets, packet, doubtful = container.demux(), None, None
        while True:
            asked_s = time.monotonic()
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                is_read = self._stated_s is not None and self._is_read_to(tolerance_s=0.01)
                if self.is_live or not (is_read or ends_open(container, packet)):
                    raise Broken(why_broken(error, self.location, self.timeouts_s[1], asked_s)) from error
                # where a server tells the end by closing the connection, FFmpeg takes it for an accident
                packets, packet = iter(()), av.Packet()
                packet.stream, packet.time_base = stream, stream.time_base
            if doubtful is not None:
                if packet is None or not packet.size:
                    raise Broken("it breaks off in the middle of a frame")
                yield doubtful
                doubtful = None
            if packet is None:
                return
            if packet.is_corrupt and not self.is_live:
                doubtful = packet
            else:
                yield packet

    def _frames(self, packet: av.Packet, is_cut_in: bool) -> list[av.VideoFrame]:
        self._losses.take(packet)
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if self.is_live or is_cut_in:  # a piece was lost on the way; the next key frame mends it
                self.damaged += 1
                self._losses.failed()
                return []
            raise Broken("one of its frames cannot be decoded: the file is damaged or cut short") from error
        for frame in frames:
            self._losses.came(frame)
            if not self.is_live:
                self._clock.set(frame)
        return frames

    def _no_times(self) -> UserError:
        return UserError(f"the frames of {self.location.shown} carry no usable times: {CONVERT}")

    def _deliver(self, frame: av.VideoFrame, timeless: bool) -> None:
        self._check(too_large(frame, self.max_pixels))
        now_s = time.monotonic()
        is_timed = frame.pts is not None and not timeless
        if not is_timed and not self.is_live:
            raise self._no_times()
        # by the clock: a live source without times, its first frame, and how long an interruption took
        timestamp_s = 0.0 if self._newest_s is None else self._newest_s + now_s - self._came_s
        if is_timed:
            own_s = float(frame.pts * frame.time_base)
            if self._zero_s is None:
                self._zero_s = own_s - timestamp_s
            timestamp_s = own_s - self._zero_s
        if not self.is_live:
            if self._newest_s is not None and timestamp_s <= self._newest_s and self.reconnects:
                return  # had before the interruption
            if self.location.kind == "file" and 0 < (self._newest_s or 0) - timestamp_s <= DISORDER_S:
                raise self._no_times()
            self._playing_s = now_s if self._playing_s is None else self._playing_s
            if self.realtime and self.buffer.is_stopped_within(self._playing_s + timestamp_s - now_s):
                return
        self._newest_s, self._came_s = timestamp_s, now_s
        self.buffer.put(timestamp_s, frame, self.is_live)
        if now_s - self._began_s > STEADY_S:
            self._failed = 0


def _is_live(kind: str, container) -> bool:
    """Whether it goes on without a known end. An address whose content has a size is a recording."""
    if kind in ("file", "camera"):
        return kind == "camera"
    is_sized = kind == "http" and container.format.name not in PARTED and container.size > 0
    return container.duration is None and not is_sized
