"""Frames that the server reads for a session: an uploaded file, one of its own, an address."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from swwatch.client.codes import ProtocolError
from swwatch.data.live.sources import FrameStream, frames_of
from swwatch.errors import UserError
from swwatch.serve.limits import decode
from swwatch.serve.log import log


class Sent:
    """The pictures that came with a request, each decoded when it is its turn."""

    def __init__(self, pictures: list[tuple[float, bytes]], max_pixels: int):
        """Args: pictures: seconds of the stream, and a picture file."""
        self._pictures, self._max_pixels, self._stopped = pictures, max_pixels, False

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        for timestamp_s, data in self._pictures:
            if self._stopped:
                return
            yield timestamp_s, decode(data, self._max_pixels)

    def stop(self) -> None:
        self._stopped = True


class SourceReader:
    """Pushes a source's frames into a session at the source's own pace, from a thread of its own."""

    def __init__(
        self, address: str, shown: str, max_pixels: int, *, allow_private: bool = True, realtime: bool = True
    ):
        """
        Args:
            address: a path, or an address that a client gave.
            shown: how clients know it; an upload's path is none of their business.
            allow_private: whether an address may lead to this machine or its inner network.
            realtime: a recording is read at its own pace.
        """
        self._address, self._shown, self._max_pixels = address, shown, max_pixels
        self._allow_private, self._realtime = allow_private, realtime
        self._frames: FrameStream | Sent | None = None

    def open(self) -> None:
        """Find the source. May take long, so not for the event loop. Raises ProtocolError: source."""
        try:
            how = {"allow_private": self._allow_private, "max_pixels": self._max_pixels}
            self._frames = frames_of(self._address, realtime=self._realtime, **how)
        except UserError as error:
            raise self._refusal(error) from error

    def start(self, session) -> None:
        """Begin to push; called in the event loop. The session is told when the source ends or fails."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(session, loop), name="source", daemon=True).start()

    def stop(self) -> None:
        """Read no further."""
        if self._frames is not None:
            self._frames.stop()

    def _run(self, session, loop) -> None:
        def tell(function, *args):
            with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
                loop.call_soon_threadsafe(function, *args)

        try:
            for timestamp_s, picture in self._frames:
                tell(session.touch)
                session.live.push(timestamp_s, picture)
            session.live.end()
            tell(session.source_ended)
        except UserError as error:
            tell(session.fail, self._refusal(error))
        except ProtocolError as error:
            tell(session.fail, error)
        except Exception as error:
            log("source broke", level=40, error=error)
            tell(session.fail, ProtocolError("server_error", "a fault of the server's; its log has more"))

    def _refusal(self, error: UserError) -> ProtocolError:
        return ProtocolError("source", str(error).replace(self._address, self._shown), fatal=True)


class PictureReader(SourceReader):
    """Pushes pictures that are here already."""

    def __init__(self, pictures: list[tuple[float, bytes]], max_pixels: int):
        """Args: see Sent."""
        super().__init__("", "", max_pixels)
        self._frames = Sent(pictures, max_pixels)

    def open(self) -> None:
        """They are here."""

    def _refusal(self, error: UserError) -> ProtocolError:
        return ProtocolError("bad_frame", str(error), fatal=True)


@dataclass(frozen=True)
class SessionOptions:
    """What an `Open` of our own protocol cannot say of a session, and other forms of asking can.

    Attributes:
        source: reads its frames, in place of what the `Open` names.
        hurries: a recording is read as fast as the model watches it, not at its own pace.
        options: of engine.door.open_stream: system, before, choose.
    """

    source: SourceReader | None = None
    hurries: bool = False
    options: dict = field(default_factory=dict)


OURS = SessionOptions()
