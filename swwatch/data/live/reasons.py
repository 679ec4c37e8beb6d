"""What went wrong with a live source, and what to do about it."""

import errno
import time

import av

from swwatch.data.live.addresses import Location
from swwatch.data.video.source import CONVERT


def why_broken(error: av.FFmpegError, where: Location, timeout_s: float, asked_s: float) -> str:
    """What went wrong since it was asked, by the clock, and what to do about it."""
    if isinstance(error, av.error.ExitError | TimeoutError) or time.monotonic() - asked_s >= timeout_s:
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "the server knows nothing of this address (404): check it"
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "the server refuses: give a user and a password as in http://user:password@host/"
    if isinstance(error, ConnectionRefusedError):
        return "nothing answers there: check host and port, and whether the server runs"
    if isinstance(error, av.error.InvalidDataError | av.error.ArgumentError):  # the second: FORMATS lacks it
        return f"it cannot be read as video: it is damaged, cut short or in a form that is not taken here; {CONVERT}"
    if where.kind == "camera":
        hint = "check that it is plugged in, that no other program uses it, and that you may read it"
        return f"the camera cannot be used ({error.strerror}): {hint}"
    is_io = error.errno == errno.EIO and where.kind != "file"
    return "the connection failed or broke off" if is_io else error.strerror
