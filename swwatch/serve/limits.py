"""What a client may ask of the server: counts, sizes, rates, times. A picture's size is known before it is decoded."""

import io
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from swwatch.client.protocol import LimitsTold, ProtocolError
from swwatch.config import setting
from swwatch.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP")
MISTAKES = 100  # bad messages that a connection may send before it is closed
OPEN_WITHIN_S = 10.0
ORDERS_PER_S = 50  # text messages of a session, but for ping, stop and end
MAX_ASKS = 4  # questions of a session that wait for their step
REPLAY = 1024  # numbered messages kept after they were sent, for a reconnect


@dataclass(frozen=True)
class Limits:
    """Flags of `swwatch serve`; times in seconds, sizes in bytes."""

    max_sessions: int = setting(8, "sessions at a time; one more is told `full`")
    max_frame_bytes: int = setting(2_000_000, "size of one picture")
    max_pixels: int = setting(3840 * 2160, "pixels of one picture, checked before it is decoded")
    max_frame_rate: float = setting(60.0, "frames a second of one session; more are not decoded")
    max_message_bytes: int = setting(16_384, "size of a text message")
    max_question_chars: int = setting(1000, "length of a question")
    max_tokens: int = setting(4096, "tokens that a session may speak")
    idle_s: float = setting(60.0, "end a session that nothing came for")
    total_s: float = setting(600.0, "end a session after this time")
    grace_s: float = setting(15.0, "keep a session whose connection broke")
    max_unread: int = setting(1024, "events kept for a client that does not read; then its session waits")
    queue_size: int = setting(8, "steps that may wait for the model; then the session's policy drops or merges")
    max_upload_bytes: int = setting(200_000_000, "size of one uploaded file")
    max_uploads_bytes: int = setting(1_000_000_000, "size of all uploaded files")
    max_uploads: int = setting(32, "number of uploaded files")
    keep_s: float = setting(1800.0, "remove uploads and recordings after this time")

    def __post_init__(self):
        wrong = [name for name, value in vars(self).items() if value <= 0 and name != "grace_s"]
        if wrong or self.grace_s < 0:
            raise UserError(f"--{(wrong or ['grace_s'])[0].replace('_', '-')} must be above 0")

    def told(self) -> LimitsTold:
        """What `opened` and /api/info say about them."""
        return LimitsTold(
            frame_bytes=self.max_frame_bytes,
            pixels=self.max_pixels,
            frame_rate=self.max_frame_rate,
            message_bytes=self.max_message_bytes,
            question_chars=self.max_question_chars,
            idle_s=self.idle_s,
            total_s=self.total_s,
            tokens=self.max_tokens,
        )

    @property
    def max_size(self) -> int:
        """Of a WebSocket message; a larger one is not read. Twice the limits, so that a mistake gets an answer."""
        return 2 * max(self.max_frame_bytes, self.max_message_bytes)


class Bucket:
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


def decode(data: bytes, max_pixels: int) -> np.ndarray:
    """A JPEG, PNG or WebP file -> (H, W, 3) uint8, RGB; of an animation the first picture.

    Raises:
        ProtocolError: bad_frame, or too_many_pixels before any pixel is decoded.
    """
    if size := _webp_size(data):  # Pillow gives a WebP animation its canvas when it opens it
        _check_pixels(*size, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(*image.size, max_pixels)
            return np.asarray(image.convert("RGB"))
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
