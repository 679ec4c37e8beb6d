"""How the limits of serve/settings.py are kept: rates, and a picture's size before it is decoded."""

import asyncio
import io
import time

import numpy as np
from PIL import Image, UnidentifiedImageError

from swwatch.client.protocol import ProtocolError
from swwatch.data.stills import rgb_of
from swwatch.serve.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP")
MISTAKES = 100  # bad messages that a connection may send before it is closed
OPEN_WITHIN_S = 10.0
ORDERS_PER_S = 50  # text messages of a session, but for ping, stop and end
MAX_ASKS = 4  # questions of a session that wait for their step
AHEAD_S = 15.0  # of video more than a session may last: a sender's clock may run ahead of ours
MAX_SCANS = 32  # of a JPEG; progressive ones have about ten, and each costs as much as a picture
MAX_PARTS = 200  # of a picture file, but for a PNG's pixels: Pillow reads each in Python, and may inflate it
MAX_EXIF = 65_536  # bytes of it, as many as a JPEG has room for: Pillow reads each of its entries in Python
REPLAY = 1024  # numbered messages kept after they were sent, for a reconnect


class TokenBucket:
    """A rate limit that allows bursts of one second."""

    def __init__(self, per_s: float, now=time.monotonic):
        self.per_s, self._now = per_s, now
        self._left, self._at = max(1.0, per_s), now()

    def take(self) -> bool:
        """True if one more fits."""
        now = self._now()
        self._left = min(max(1.0, self.per_s), self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class WaitingConnections:
    """Connections before their `open`, the oldest first, for a server that may be `closing`."""

    def __init__(self, limits: Limits):
        self.limits, self.closing = limits, False
        self._waiting: dict[asyncio.Task, None] = {}

    def queue(self, waiting: asyncio.Task) -> None:
        """One more waits. Where too many do, the one that has waited longest is cancelled."""
        self._waiting[waiting] = None
        waiting.add_done_callback(self._waiting.pop)
        if self.closing or len(self._waiting) > self.limits.max_sessions + 8:
            next(iter(self._waiting)).cancel()

    def turn_away(self) -> None:
        """Nobody is to wait any more."""
        self.closing = True
        for waiting in list(self._waiting):
            waiting.cancel()


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """A JPEG, PNG or WebP file -> (H, W, 3) uint8, RGB, as `rgb_of`; of an animation the first picture.

    Raises:
        ProtocolError: bad_frame, or too_many_pixels before any pixel is decoded.
    """
    _check_work(data)
    if size := _webp_size(data):  # Pillow gives a WebP animation its canvas when it opens it
        _check_pixels(*size, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(*image.size, max_pixels)
            image.load()  # a PNG may tell it last
            _check_exif(max(len(image.info.get("exif", "")), len(image.info.get("Raw profile type exif", "")) // 2))
            return rgb_of(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        bomb = isinstance(error, Image.DecompressionBombError)
        code, why = ("too_many_pixels", "too many") if bomb else ("bad_frame", "neither JPEG, PNG nor WebP")
        raise ProtocolError(code, f"the picture: {why}") from None
    except ProtocolError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, ZeroDivisionError) as error:
        # Pillow's ways to say that a file is damaged
        raise ProtocolError("bad_frame", f"the picture is damaged ({type(error).__name__})") from None


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ProtocolError("too_many_pixels", f"{width}x{height} is over the limit of {max_pixels} pixels")


def _check_exif(num_bytes: int) -> None:
    if num_bytes > MAX_EXIF:
        raise ProtocolError("bad_frame", f"a picture may have {MAX_EXIF} bytes of EXIF")


def _check_work(data: bytes) -> None:
    """What a file costs beside its pixels, from its outline alone. (Of WebP it is little, whatever the file.)"""
    if data.startswith(b"\xff\xd8"):
        at, parts, exif = 2, 0, 0
        while at < len(data) and data[at : at + 2] != b"\xff\xda" and parts <= MAX_PARTS:
            parts += 1
            is_filling = data[at + 1 : at + 2] == b"\xff"
            length = 1 if is_filling else 2 + int.from_bytes(data[at + 2 : at + 4])
            exif += length * (data[at + 4 : at + 8] == b"Exif")  # in parts that Pillow joins, and reads at once
            at += length
        _check_exif(exif - 4)
        if parts > MAX_PARTS or data.count(b"\xff\xda", at) > MAX_SCANS:
            raise ProtocolError("bad_frame", f"a JPEG may have {MAX_SCANS} scans and {MAX_PARTS} other parts")
    elif data.startswith(b"\x89PNG"):
        at, parts, most = 8, 0, MAX_PARTS + len(data) // 1024
        inflated = MAX_PARTS
        while at < len(data) and parts <= most and inflated >= 0:
            parts += 1
            inflated -= data[at + 4 : at + 8] != b"IDAT"
            at += 12 + int.from_bytes(data[at : at + 4])
        if parts > most or inflated < 0:
            raise ProtocolError("bad_frame", f"a PNG may have {MAX_PARTS} parts beside its pixels, and no tiny ones")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file from its first chunk (RFC 9649), None for what is no WebP."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
