"""The way to a stranger's address: FFmpeg opens an address of this machine, and what stands behind it connects to the
real one, to the very IP address that was found to be public.

A name that leads elsewhere a moment later leads nowhere so, and where an answer redirects, the new address is checked
likewise (HTTP) or refused (RTSP, of which FFmpeg would follow it by itself). Certificates are checked.
"""

import contextlib
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from urllib.parse import SplitResult, urljoin, urlsplit

from swwatch.data.live.addresses import public_addresses, shown_url
from swwatch.errors import UserError

MAX_HEAD, MAX_REDIRECTS, PIECE = 65536, 5, 65536
REDIRECTS = "30[12378]"
SECRETS = ("host:", "authorization:", "cookie:")  # fields of a request that another host does not get


class Forwarder:
    """Stands for one address while it is read. A context manager.

    Attributes:
        address: for FFmpeg, which may open it as often as it likes.
        refused: why a connection was not made, where it must not be.
        failed: why it was not made, where another attempt might mend it.
    """

    def __init__(self, url: str, timeout_s: float):
        """Args: timeout_s: for connecting, and for the head of an answer."""
        self._url, self._shown, self._timeout_s = urlsplit(url), shown_url(url), timeout_s
        self.refused: UserError | None = None
        self.failed = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: set[socket.socket] = {self._listener}
        user, at, _ = self._url.netloc.rpartition("@")
        here = f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        self.address = self._url._replace(scheme=self._url.scheme.removesuffix("s"), netloc=here).geturl()
        threading.Thread(target=self._accept, name=f"way to {self._shown}", daemon=True).start()

    def __enter__(self) -> "Forwarder":
        return self

    def __exit__(self, *_) -> None:
        for held in list(self._held):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)  # and the thread that waits for it closes it

    def _accept(self) -> None:
        serve = self._http if self._url.scheme.startswith("http") else self._rtsp
        with self._listener, contextlib.suppress(OSError):  # it was shut down
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, serve), name="way", daemon=True).start()

    def _serve(self, client: socket.socket, serve: Callable) -> None:
        self._held.add(client)
        try:
            serve(client)
        except UserError as error:
            self.refused = error
        except (OSError, ValueError):  # of either side; FFmpeg is to see that it was no orderly end
            with contextlib.suppress(OSError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            client.close()
            self._held.discard(client)

    @contextlib.contextmanager
    def _connected(self, url: SplitResult):
        """A connection to one of the addresses of a host, all of which were found to be public just now."""
        upstream = self._connect(public_addresses(url.geturl()))
        try:
            if url.scheme in ("https", "rtsps"):
                upstream = ssl.create_default_context().wrap_socket(upstream, server_hostname=url.hostname)
            self._held.add(upstream)
            yield upstream
        except ssl.SSLCertVerificationError as error:
            raise UserError(f"{self._shown}: the certificate of {url.hostname}: {error.verify_message}") from error
        finally:
            self._held.discard(upstream)
            upstream.close()

    def _connect(self, found: list[tuple]) -> socket.socket:
        for family, kind, protocol, _, where in found:
            upstream = socket.socket(family, kind, protocol)
            upstream.settimeout(self._timeout_s)
            try:
                upstream.connect(where)
                return upstream
            except OSError as error:
                failed = error
                upstream.close()
        self.failed = "nothing answers there: check host and port, and whether the server runs"
        raise failed

    # ---- HTTP -------------------------------------------------------------------------------------------------------

    def _http(self, client: socket.socket) -> None:
        """One request, redirected as often as it takes."""
        head, _ = _head(client)
        method, path, _ = head[0].split(" ", 2)
        url = urlsplit(f"{self._url.scheme}://{self._url.netloc}{path}")
        for _ in range(1 + MAX_REDIRECTS):
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            is_elsewhere = url[:2] != self._url[:2]  # and a password is for the host that it was given for
            fields = [line for line in head[1:] if not line.lower().startswith(SECRETS if is_elsewhere else "host:")]
            lines = [f"{method} {target} HTTP/1.1", f"Host: {url.netloc.rpartition('@')[2]}", *fields, "", ""]
            with self._connected(url) as upstream:
                upstream.sendall("\r\n".join(lines).encode("latin-1"))
                answer, rest = _head(upstream)
                location = _field(answer, "location")
                if not re.match(rf"\S+ {REDIRECTS}\b", answer[0]) or not location:
                    client.sendall("\r\n".join([*answer, "", ""]).encode("latin-1") + rest)
                    return _pipe(client, upstream, lambda data: data)
            url = urlsplit(urljoin(url.geturl(), location))
            if url.scheme not in ("http", "https"):
                raise UserError(f"{self._shown} redirects to {url.scheme}: only http and https are followed")
        raise UserError(f"{self._shown} redirects more than {MAX_REDIRECTS} times")

    # ---- RTSP -------------------------------------------------------------------------------------------------------

    def _rtsp(self, client: socket.socket) -> None:
        with self._connected(self._url) as upstream:
            _pipe(client, upstream, Answers(self._shown).feed)


class Answers:
    """What an RTSP server says, written anew from what was understood of it, so that FFmpeg understands the same."""

    def __init__(self, shown: str):
        self._shown, self._buffer, self._left = shown, b"", 0  # bytes of a packet or a body, which pass as they are

    def feed(self, data: bytes) -> bytes:
        """Take in some bytes; returns those that may pass. Raises UserError: a redirect, or what is no RTSP."""
        self._buffer += data
        passed = b""
        while True:
            if self._left:
                piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
                self._left -= len(piece)
                passed += piece
                if self._left:
                    return passed
            self._buffer = self._buffer.lstrip(b"\r\n")
            if self._buffer[:1] == b"$":
                if len(self._buffer) < 4:
                    return passed
                self._left = 4 + int.from_bytes(self._buffer[2:4])
            elif end := re.search(rb"\n\r*\n", self._buffer):
                passed += self._answer(self._buffer[: end.start()])
                self._buffer = self._buffer[end.end() :]
            elif len(self._buffer) > MAX_HEAD:
                raise UserError(f"{self._shown} does not speak RTSP")
            else:
                return passed

    def _answer(self, head: bytes) -> bytes:
        first, *lines = head.replace(b"\r", b"").split(b"\n")
        status = re.match(rb"RTSP/\d\.\d ([1-9]\d\d)(?: |$)", first)
        if not status and not re.match(rb"[A-Z_]+ \S+ RTSP/\d\.\d$", first):  # or a request of the server's
            raise UserError(f"{self._shown} does not speak RTSP")
        if status and status[1].startswith(b"3"):
            raise UserError(f"{self._shown} redirects (RTSP {status[1].decode()}): give the address that it leads to")
        fields = [line for line in lines if re.match(rb"[A-Za-z][\w-]*:", line)]
        lengths = [line.partition(b":")[2].strip() for line in fields if line.lower().startswith(b"content-length:")]
        if len(lengths) > 1 or not all(re.fullmatch(rb"\d{1,6}", length) for length in lengths):
            raise UserError(f"{self._shown} does not speak RTSP")
        self._left = int(lengths[0]) if lengths else 0
        return b"\r\n".join([first, *fields, b"", b""])


def _pipe(client: socket.socket, upstream: socket.socket, understood: Callable[[bytes], bytes]) -> None:
    """Pass on what comes from either side until one has ended; from `upstream` as far as it is `understood`."""
    upstream.settimeout(None)  # FFmpeg has limits of its own
    while True:
        ready, _, _ = select.select([client, upstream], [], [])
        if client in ready:
            if not (data := client.recv(PIECE)):
                return
            upstream.sendall(data)
        if upstream in ready:
            if not (data := upstream.recv(PIECE)):
                return
            # select knows nothing of what TLS has read already
            while isinstance(upstream, ssl.SSLSocket) and upstream.pending():
                data += upstream.recv(PIECE)
            client.sendall(understood(data))


def _head(side: socket.socket) -> tuple[list[str], bytes]:
    """The lines before the first empty one, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = side.recv(PIECE)
        data += piece
        if not piece or len(data) > MAX_HEAD:
            raise OSError("no HTTP there")
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.decode("latin-1").split("\r\n"), rest


def _field(head: list[str], name: str) -> str:
    return next((line.partition(":")[2].strip() for line in head[1:] if line.lower().startswith(f"{name}:")), "")
