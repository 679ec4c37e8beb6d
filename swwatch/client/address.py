"""Where a server is and how to get in."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from swwatch.errors import UserError

WEB = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def is_loopback(host: str) -> bool:
    """Whether an address, or the name of one, is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        base: http or https, without a slash at the end; may have a path where a proxy gives it one.
        token: None where there is none.
    """

    base: str
    token: str | None = None

    @property
    def live(self) -> str:
        """The WebSocket's address."""
        return "ws" + self.base.removeprefix("http") + "/api/live"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def may_proxy(self) -> bool:
        """Whether the environment's proxy may stand between; this machine is reached without one."""
        return not is_loopback(urlsplit(self.base).hostname or "")


def locate(url: str, token: str | None = None) -> Address:
    """An address as people have it: also as `swwatch serve` prints it, with `#token=...`.

    Raises:
        UserError: it is no address.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{url.partition('#')[0]} is malformed: {error}") from error
    if parts.scheme not in WEB or not host:
        raise UserError(f"{url.partition('#')[0]}: write a server's address as http://127.0.0.1:8000")
    shown = parse_qs(parts.fragment).get("token", [None])[0]
    base = f"{WEB[parts.scheme]}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/').removesuffix('/api/live')}"
    return Address(base, token or shown)
