"""Who may talk to the server: a bearer token, and where a browser's request comes from."""

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from swwatch.client.address import is_loopback
from swwatch.client.protocol import TOKEN_SUBPROTOCOL
from swwatch.errors import UserError

TOKEN_FORM = re.compile(r"[A-Za-z0-9._~-]{8,200}")  # what a header, a subprotocol and an address all carry unchanged


def choose_token(token: str | None, host: str, waived: bool) -> str | None:
    """The token that clients must show; None for none.

    Raises:
        UserError: it is of another form, or a server for other machines has none and this was not waived.
    """
    if token and waived:
        raise UserError("--token and --no-token contradict each other: give one")
    if token == "auto":
        return secrets.token_urlsafe(24)
    if token:
        if not TOKEN_FORM.fullmatch(token):
            raise UserError("the token must have 8 to 200 letters, digits or . _ ~ - (or be: auto)")
        return token
    if not is_loopback(host) and not waived:
        raise UserError(
            f"{host} can be reached from other machines: give --token (auto makes one), or --no-token to let "
            "everybody in"
        )
    return None


def check_origins(origins: list[str]) -> tuple[str, ...]:
    """Allowed origins in their one form, scheme://host[:port].

    Raises:
        UserError: one has another form.
    """
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
            raise UserError(f"--allow-origin {origin}: write it as a browser does, https://name or http://name:8000")
    return tuple(origin.lower() for origin in origins)


@dataclass(frozen=True)
class AccessRules:
    """The rules of one server.

    Attributes:
        token: None lets everybody in.
        origins: pages of other hosts that may use it.
        loopback: it is bound to this machine alone.
    """

    token: str | None = None
    origins: tuple[str, ...] = ()
    loopback: bool = True

    def knows(self, headers: Mapping[str, str], query: Mapping[str, str], subprotocols: list[str] = ()) -> bool:
        """Whether a request shows the token, in constant time."""
        if self.token is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        shown = [bearer.strip()] if scheme.lower() == "bearer" else []
        shown += [query["token"]] if "token" in query else []
        shown += [name.removeprefix(TOKEN_SUBPROTOCOL) for name in subprotocols if name.startswith(TOKEN_SUBPROTOCOL)]
        return any([hmac.compare_digest(one.encode(errors="surrogatepass"), self.token.encode()) for one in shown])

    def welcomes(self, headers: Mapping[str, str]) -> bool:
        """Whether the page that a request comes from may send it; a program sends no Origin.

        A page of another site can make its own name lead to this machine (DNS rebinding); its Host and Origin agree
        then. So a server without a token that is bound to this machine alone answers to this machine's names only.
        """
        host = headers.get("host", "").lower()
        if self.loopback and self.token is None and not is_loopback(_name(host)) and host not in self._hosts():
            return False
        origin = headers.get("origin", "").lower()
        return not origin or origin in self.origins or origin.partition("://")[2] == host != ""

    def _hosts(self) -> list[str]:
        return [urlsplit(origin).netloc for origin in self.origins]


def _name(host: str) -> str:
    """`Host` without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
