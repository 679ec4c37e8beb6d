"""What the live protocol calls the things that go wrong: error codes, and the close codes of the WebSocket."""

from typing import Literal

Code = Literal[
    "bad_message",
    "bad_frame",
    "too_large",
    "too_many_pixels",
    "too_fast",
    "not_open",
    "already_open",
    "full",
    "unauthorised",
    "origin",
    "not_found",
    "unsupported",
    "source",
    "model_error",
    "server_error",
    "version",
]

# of the WebSocket; 1000, 1001 and 1012 are the standard's (done, going away, service restart)
CLOSE_DONE, CLOSE_GOING_AWAY, CLOSE_RESTART, CLOSE_PROTOCOL, CLOSE_FULL = 1000, 1001, 1012, 4400, 4429
CLOSE_UNAUTHORISED, CLOSE_ORIGIN, CLOSE_REPLACED, CLOSE_ERROR = 4401, 4403, 4409, 4500
CLOSE_CODES = {  # of fatal errors; CLOSE_PROTOCOL of all others
    "unauthorised": CLOSE_UNAUTHORISED,
    "origin": CLOSE_ORIGIN,
    "full": CLOSE_FULL,
    "source": CLOSE_ERROR,
    "model_error": CLOSE_ERROR,
    "server_error": CLOSE_ERROR,
}


class ProtocolError(Exception):
    """What a client did wrong: an error code of the protocol and a sentence that says what to do.

    Attributes:
        param: the field that is at fault, where it is one of a form that names it.
        retry_after_s: when it may go better, where that is known.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        fatal: bool = False,
        param: str | None = None,
        retry_after_s: int | None = None,
    ):
        super().__init__(message)
        self.code, self.message, self.fatal = code, message, fatal
        self.param, self.retry_after_s = param, retry_after_s
