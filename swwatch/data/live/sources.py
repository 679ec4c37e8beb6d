"""Where live frames come from: files, HTTP and RTSP addresses, cameras; one frame after the other.

`frames_of` gives (timestamp_s, frame) from any of them; `LiveFrames` makes steps of that.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from swwatch.data.live.addresses import check_url, locate
from swwatch.data.live.reader import LiveReader, Reconnect
from swwatch.data.video.picture import Pictures, unconverted
from swwatch.data.video.source import MAX_PIXELS
from swwatch.errors import UserError

__all__ = ["FrameStream", "Reconnect", "check_url", "frames_of"]


def frames_of(source: str | Path, **options) -> "FrameStream":
    """Open a source and iterate over its frames: (timestamp_s, frame (H, W, 3) uint8 RGB). Options: `FrameStream`."""
    return FrameStream(source, **options)


class FrameStream:
    """An iterator over the frames of a source, which a thread of its own reads a few frames ahead.

    Timestamps count from the first frame, in seconds of the source's own times where it has any, else of the clock.

    A recording (a file; an address whose length is known) loses no frame: reading waits for the consumer. Of a live
    source (a camera, RTSP, an address without length) the oldest waiting frame goes when the consumer is slow. A
    live source ends only where an HTTP server says so (not by closing the connection), or by `stop`.

    When a connection breaks off or says nothing for `read_timeout_s`, the source is opened again, with pauses that
    double. A recording goes on behind the last frame; a live source goes on in time by the clock. What cannot be
    opened the first time is an error at once.

    `stop` may be called from any thread. The consumer's loop then ends at once; the thread behind it lets go when what
    it waits for answers or runs into its time limit. Use it as a context manager, or stop it, or iterate to the end.

    Attributes:
        end_s: when the last frame ended, where the source tells; known after the last frame. For `LiveFrames.flush`.
        is_live: whether frames may be lost; None until the source is open.
        reconnects: how often it was opened again.
        damaged: frames of a live source that could not be decoded.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        realtime: bool = False,
        open_timeout_s: float = 10.0,
        read_timeout_s: float = 10.0,
        reconnects: int = 5,
        backoff_s: float = 0.5,
        on_reconnect: Callable[[Reconnect], None] | None = None,
        allow_private: bool = True,
        rtsp_transport: str = "tcp",
        max_pixels: int = MAX_PIXELS,
    ):
        """
        Args:
            source: a file, http://, https://, rtsp://, rtsps://, or camera:0 (Linux and macOS: a number; also
                camera:/dev/video2; Windows: a number or the camera's name).
            realtime: play a recording at its own pace; a live source has its own anyway.
            reconnects: attempts after a connection is lost, until one has held for half a minute.
            backoff_s: the pause before the first of them.
            on_reconnect: told before each attempt, from the reading thread.
            allow_private: see `check_url`. Where it is false, as for what strangers give, a string must be an address,
                playlists are refused, and all that is opened is checked when it is connected to: forward.py.
            rtsp_transport: "tcp", or "udp" for cameras that know nothing else.
            max_pixels: of a frame; a source with larger ones is an error, told before such a frame is decoded.
        Raises:
            UserError: from here, what cannot be a source; from the iteration, everything else.
        """
        location = locate(source, allow_private=allow_private, rtsp_transport=rtsp_transport)
        self._reader = LiveReader(
            location,
            realtime=realtime,
            timeouts_s=(open_timeout_s, read_timeout_s),
            attempts=reconnects,
            backoff_s=backoff_s,
            on_reconnect=on_reconnect,
            allow_private=allow_private,
            max_pixels=max_pixels,
        )
        self._pictures = Pictures()
        weakref.finalize(self, self._reader.buffer.stop)  # a stream that nobody holds any more reads no further
        threading.Thread(target=self._reader.run, name=f"frames of {location.shown}", daemon=True).start()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return self

    def __next__(self) -> tuple[float, np.ndarray]:
        timestamp_s, frame = self._reader.buffer.get()
        try:
            return timestamp_s, np.array(self._pictures.of(frame), order="C")
        except av.FFmpegError as error:
            self.stop()
            raise UserError(f"{self._reader.location.shown}: {unconverted(frame)}") from error

    def stop(self) -> None:
        """End the iteration, from any thread."""
        self._reader.buffer.stop()

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def dropped(self) -> int:
        """Frames of a live source that came and went before the consumer asked."""
        return self._reader.buffer.dropped

    @property
    def end_s(self) -> float | None:
        return self._reader.end_s

    @property
    def is_live(self) -> bool | None:
        return self._reader.is_live

    @property
    def reconnects(self) -> int:
        return self._reader.reconnects

    @property
    def damaged(self) -> int:
        return self._reader.damaged
