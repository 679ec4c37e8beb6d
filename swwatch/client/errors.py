"""What a client can be told instead of words."""

from swwatch.errors import UserError

HINTS = {
    "unauthorised": "give its token (token=, or --token)",
    "full": "try again later",
    "version": "client and server must be of the same release",
}


class Unreachable(UserError):
    """Nobody answers at this address, or not as a swwatch server does."""


class ServerError(UserError):
    """The server refused, or its session failed.

    Attributes:
        code: of the table in docs/protocol.md.
    """

    def __init__(self, code: str, message: str):
        hint = f"; {HINTS[code]}" if code in HINTS else ""
        super().__init__(f"the server says {code}: {message}{hint}")
        self.code = code
