"""Videos that clients send, on the server's disk."""

import asyncio
import contextlib
import errno
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from swwatch.client.codes import ProtocolError
from swwatch.serve.log import log
from swwatch.serve.metrics import Metrics
from swwatch.serve.settings import Limits

FORM_BYTES = 65_536  # of a form around its file
CHUNK_S = 30.0  # a sender that says nothing for so long is given up
SLOW_BYTES_PER_S = 50_000  # a slower one makes room for another where all places are taken
BODIES = 4  # more than sessions, that may be read at a time


@dataclass(eq=False)
class Coming:
    """A file that is being received."""

    began_s: float
    size: int = 0  # of what is kept of it, so far
    came: int = 0  # bytes, with all around it
    gives_way: asyncio.Event = field(default_factory=asyncio.Event)

    def rate(self, now_s: float) -> float:
        """Bytes a second, of a sender that has just begun as if it had a second behind it."""
        return self.came / (1 + now_s - self.began_s)

    async def timely(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same, but a sender that stands still, or is to make room, is an error."""
        leave = asyncio.create_task(self.gives_way.wait())
        try:
            while True:
                chunk = asyncio.ensure_future(anext(chunks, None))
                try:
                    await asyncio.wait({chunk, leave}, timeout=CHUNK_S, return_when=asyncio.FIRST_COMPLETED)
                    if leave.done():
                        raise ProtocolError("full", "too slow, and others wait: send it again later")
                    if not chunk.done():
                        raise ProtocolError("bad_message", f"nothing came for {CHUNK_S:g} s")
                finally:
                    chunk.cancel()
                if chunk.result() is None:
                    return
                self.came += len(chunk.result())
                yield chunk.result()
        finally:
            leave.cancel()


def give_way(coming: set[Coming], now_s: float) -> bool:
    """Let the slowest of those that are being received make room. False: none is slow."""
    slowest = min(coming, key=lambda one: (one.rate(now_s), one.began_s), default=None)
    if slowest is None or slowest.rate(now_s) >= SLOW_BYTES_PER_S:
        return False
    slowest.gives_way.set()
    coming.discard(slowest)
    return True


class Bodies:
    """Requests that are held in memory, or passed on: so many at a time, and none that is too large."""

    def __init__(self, limits: Limits):
        self.limits, self._coming = limits, set()

    @contextlib.contextmanager
    def place(self) -> Iterator[Coming]:
        """For one more. Raises ProtocolError: full."""
        coming = Coming(time.monotonic())
        if len(self._coming) >= self.limits.max_sessions + BODIES and not give_way(self._coming, time.monotonic()):
            raise ProtocolError("full", "too many requests are being sent: try later")
        self._coming.add(coming)
        try:
            yield coming
        finally:
            self._coming.discard(coming)

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The bytes of a request, which has its place until they are read and understood.

        Raises:
            ProtocolError: full, too_large.
        """
        most, parts = self.limits.max_request_bytes, []
        with self.place() as coming:
            async for part in coming.timely(request.stream()):
                if coming.came > most:
                    raise ProtocolError("too_large", f"a request may have {most} bytes: upload the video to /v1/files")
                parts.append(part)
            body = b"".join(parts)
            parts.clear()
            yield body


@dataclass
class Stored:
    """A file of ours under a random name."""

    path: Path
    size: int
    at_s: float  # when it came, monotonic
    users: int = 0  # sessions that read it
    unwanted: bool = False  # to be removed when the last of them ends


class Uploads:
    """Files that clients sent, in a folder of their own that goes with the server."""

    def __init__(self, limits: Limits, metrics: Metrics, now=time.monotonic):
        self.limits, self._metrics, self._now = limits, metrics, now
        self._made = tempfile.TemporaryDirectory(prefix="swwatch-uploads-", ignore_cleanup_errors=True)
        self._folder = Path(self._made.name)
        self._stored: dict[str, Stored] = {}
        self._coming: set[Coming] = set()

    @property
    def num(self) -> int:
        """Files that are stored."""
        return len(self._stored)

    async def receive(self, content_type: str, length: int | None, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Write a form's `file` to disk as it comes.

        Args:
            content_type: multipart/form-data with its boundary.
            length: of the whole request, where the client says so.
        Returns:
            Its id, and its size in bytes.
        Raises:
            ProtocolError: full, too_large, or bad_message (no form, no file in it).
        """
        with self._receiving() as (name, coming):
            if length is not None and length > self.limits.max_upload_bytes + FORM_BYTES:
                raise self._too_large()
            form = _Form(content_type)
            await self._write(self._folder / name, coming, form, chunks)
            form.check_whole()
        return name, coming.size

    async def receive_request(self, request: Request) -> tuple[str, int]:
        """The same of an HTTP request."""
        length = request.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdigit() else None
        name, size = await self.receive(request.headers.get("content-type", ""), size, request.stream())
        log("upload", bytes=size)
        return name, size

    async def store(self, data: bytes) -> str:
        """Write a file that came another way. Returns its id. Raises ProtocolError: full, too_large."""
        with self._receiving() as (name, coming):
            coming.size = len(data)
            self._check_room(coming.size)
            with _disk_errors():
                await asyncio.to_thread((self._folder / name).write_bytes, data)
        return name

    @contextlib.contextmanager
    def _receiving(self):
        """A name for a file that comes; it is stored where nothing goes wrong, and else leaves nothing behind."""
        self.sweep()
        self._make_place()
        name, coming = secrets.token_hex(16), Coming(self._now())
        path = self._folder / name
        self._coming.add(coming)
        try:
            yield name, coming
        except BaseException:  # also where the client went away
            path.unlink(missing_ok=True)
            raise
        finally:
            self._coming.discard(coming)
        self._stored[name] = Stored(path, coming.size, self._now())
        self._metrics.upload_bytes.set(self._total())

    def _make_place(self) -> None:
        """For one more file: where there is none, the slowest sender makes room."""
        if len(self._stored) + len(self._coming) < self.limits.max_uploads:
            return
        if not give_way(self._coming, self._now()):
            raise ProtocolError("full", "too many uploaded files: delete one, or try later")

    async def _write(self, path: Path, coming: Coming, form: "_Form", chunks: AsyncIterator[bytes]) -> None:
        around = 0  # bytes of the form
        with _disk_errors(), path.open("xb") as file:
            async for chunk in coming.timely(chunks):
                data = form.feed(chunk)
                coming.size += len(data)
                around += len(chunk) - len(data)
                if around > FORM_BYTES:
                    raise self._too_large()
                self._check_room(coming.size)
                await asyncio.to_thread(file.write, data)

    def _total(self) -> int:
        return sum(stored.size for stored in self._stored.values()) + sum(coming.size for coming in self._coming)

    def _check_room(self, size: int) -> None:
        if size > self.limits.max_upload_bytes:
            raise self._too_large()
        if self._total() > self.limits.max_uploads_bytes:
            raise ProtocolError("full", "no room for more uploads: delete one, or try later")

    def _too_large(self) -> ProtocolError:
        return ProtocolError("too_large", f"a file may have {self.limits.max_upload_bytes} bytes")

    @contextlib.contextmanager
    def using(self, name: str):
        """The path of an upload, which stays while it is used.

        Raises:
            ProtocolError: not_found.
        """
        stored = self._find(name)
        stored.users += 1
        try:
            yield stored.path
        finally:
            stored.users -= 1
            if stored.unwanted and not stored.users:
                self._remove(name)

    def delete(self, name: str) -> None:
        """Remove an upload, now or when the last session that reads it ends. Raises ProtocolError: not_found."""
        stored = self._find(name)
        stored.unwanted = True
        if not stored.users:
            self._remove(name)

    def sweep(self) -> None:
        """Remove what is too old."""
        for name, stored in list(self._stored.items()):
            if self._now() - stored.at_s > self.limits.keep_s and not stored.unwanted:
                self.delete(name)

    def close(self) -> None:
        self._made.cleanup()

    def _find(self, name: str) -> Stored:
        stored = self._stored.get(name)
        if stored is None or stored.unwanted:
            raise ProtocolError("not_found", "no such upload: it may have been removed", fatal=True)
        return stored

    def _remove(self, name: str) -> None:
        self._stored.pop(name).path.unlink(missing_ok=True)
        self._metrics.upload_bytes.set(self._total())


@contextlib.contextmanager
def _disk_errors():
    """What the disk refuses is the server's trouble, and told as such."""
    try:
        yield
    except ConnectionError:  # of the client's
        raise
    except OSError as error:
        log("upload not stored", level=40, why=error.strerror)
        code = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "server_error"
        raise ProtocolError(code, f"the server cannot store files: {error.strerror}") from error


@contextlib.contextmanager
def _damaged_form():
    try:
        yield
    except ValueError as error:  # FormParserError is one
        raise ProtocolError("bad_message", "the form is damaged") from error


class _Form:
    """Takes the bytes of the field `file` out of multipart form data, as they come."""

    def __init__(self, content_type: str):
        with _damaged_form():
            kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ProtocolError("bad_message", "send multipart form data with a field `file`")
        self._data: list[bytes] = []
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._name: bytes | None = None  # of the part that is being read
        self._found = self._ended = False
        callbacks = ("part_begin", "part_data", "header_field", "header_value", "header_end", "end")
        with _damaged_form():
            self._parser = MultipartParser(
                options[b"boundary"], {f"on_{name}": getattr(self, f"_{name}") for name in callbacks}
            )

    def feed(self, chunk: bytes) -> bytes:
        """Returns what of the file is in this chunk."""
        self._data = []
        with _damaged_form():
            self._parser.write(chunk)
        return b"".join(self._data)

    def check_whole(self) -> None:
        if not self._found or not self._ended:
            raise ProtocolError("bad_message", "the form has no whole field `file`")

    def _part_begin(self) -> None:
        self._name = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        field_name, value = (bytes(part) for part in self._header)
        self._header = bytearray(), bytearray()
        if field_name.lower() == b"content-disposition":
            self._name = parse_options_header(value)[1].get(b"name")
            if self._name == b"file" and self._found:
                raise ProtocolError("bad_message", "one file at a time")
            self._found |= self._name == b"file"

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == b"file":
            self._data.append(data[start:end])

    def _end(self) -> None:
        self._ended = True
