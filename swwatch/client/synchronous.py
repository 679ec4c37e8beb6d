"""The client for programs without asyncio: the other one, on an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from swwatch.client.asynchronous import AsyncClient
from swwatch.client.progress import Counts, Reconnected
from swwatch.client.protocol import End, File, Message, Opened, Upload, Url
from swwatch.errors import UserError


class Client:
    """As AsyncClient, whose methods tell the details. May be used from several threads: one sends, another reads."""

    def __init__(self, url: str, **how):
        """Args: those of AsyncClient: token, max_in_flight, max_events, timeout_s, silence_s."""
        self._client = AsyncClient(url, **how)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="swwatch client", daemon=True)
        self._thread.start()

    def open(self, *, source: Upload | File | Url | None = None, **how) -> Opened:
        """Begin a session: variant, engine, schedule, question, rate, policy, record; see AsyncClient.open."""
        return self._do(self._client.open(source=source, **how))

    def send(self, timestamp_s: float, picture: np.ndarray | bytes, *, wait: bool = False) -> bool:
        """Send a frame; whether it is on its way. See AsyncClient.send."""
        return self._do(self._client.send(timestamp_s, picture, wait=wait))

    def ask(self, question: str) -> None:
        """Another question, in effect from the next step on."""
        self._do(self._client.ask(question))

    def pause(self) -> None:
        """Be silent, and go on watching."""
        self._do(self._client.pause())

    def resume(self) -> None:
        """Speak again."""
        self._do(self._client.resume())

    def stop(self) -> None:
        """End now."""
        self._do(self._client.stop())

    def end(self) -> None:
        """No more frames: the rest is spoken."""
        self._do(self._client.end())

    def read(self, timeout_s: float | None = None) -> list[Message | Reconnected]:
        """Events since the last call; see AsyncClient.read."""
        return self._do(self._client.read(timeout_s))

    def __iter__(self) -> Iterator[Message | Reconnected]:
        while events := self.read():
            yield from events

    def watch(self, frames: Iterable[tuple[float, np.ndarray]], *, wait: bool = False) -> Iterator:
        """Feed a source in the background and iterate over the events; see AsyncClient.watch."""
        events = self._client.watch(frames, wait=wait)
        try:
            while True:
                try:
                    yield self._do(_next(events))
                except StopAsyncIteration:
                    return
        finally:
            if not self._loop.is_closed():
                self._do(events.aclose())

    @property
    def opened(self) -> Opened | None:
        return self._client.opened

    @property
    def end_message(self) -> End | None:
        return self._client.end_message

    @property
    def ended(self) -> bool:
        return self._client.ended

    @property
    def counts(self) -> Counts:
        return self._client.counts

    def info(self) -> dict:
        """What the server has."""
        return self._do(self._client.info())

    def files(self) -> list[str]:
        """Videos in the server's folder, for `open(source=File(...))`."""
        return self._do(self._client.web.files())

    def upload(self, path: str | Path) -> Upload:
        """Send a video file, for `open(source=...)`."""
        return self._do(self._client.upload(path))

    def delete(self, upload: Upload) -> None:
        """Remove an upload."""
        self._do(self._client.web.delete(upload))

    def recording(self, kind: str = "jsonl", name: str | None = None) -> str:
        """The text of a recording, "jsonl" or "vtt"."""
        return self._do(self._client.recording(kind, name))

    def close(self) -> None:
        """Leave: a session that has not ended is stopped. May be called twice."""
        if self._loop.is_closed():
            return
        self._do(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _do(self, work):
        if self._loop.is_closed():
            work.close()
            raise UserError("this client is closed: make another one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # where the wait was interrupted


async def _next(events):
    return await anext(events)
