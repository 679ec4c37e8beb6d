"""A session as files: JSONL with every numbered message, WebVTT with what was said when."""

import asyncio
import contextlib
import json
import re
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from swwatch.client.cues import Cue, Cues, srt_of
from swwatch.client.protocol import Event, Opened, ProtocolError, parse_server
from swwatch.paths import LOCK, only_one

KINDS = {"jsonl": "application/x-ndjson", "vtt": "text/vtt; charset=utf-8"}
SRT = "application/x-subrip; charset=utf-8"  # made of the VTT when it is asked for
NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{24}")
LOOK_S, MAX_FOLLOWED = 0.3, 64  # how often a file that grows is looked at, and by how many


class Recorder:
    """Writes one session as it goes."""

    def __init__(
        self,
        folder: Path,
        name: str,
        opened: Opened,
        *,
        now=time.monotonic,
        on_lost=lambda name: None,
        aside: dict | None = None,
    ):
        """
        Args:
            on_lost: called where the disk does not take it.
            aside: what another recorder has `put_aside`, to go on with.
        Raises:
            OSError: as all methods do.
        """
        self.name, self._now, self._zero, self._on_lost = name, now, now(), on_lost
        self._cues = Cues()
        if aside is not None:
            self._zero -= aside["at_s"]
            self._cues = Cues(parse_server(token) for token in aside["cue"])
            for kind in KINDS:
                if not (path := folder / f"{name}.{kind}").exists():
                    path.write_text(aside[kind], encoding="utf-8")
        lines = {"mode": "x" if aside is None else "a", "encoding": "utf-8"}
        lines["buffering"] = 1  # written as they come: a full disk shows at once
        self._jsonl = (folder / f"{name}.jsonl").open(**lines)
        self._vtt = (folder / f"{name}.vtt").open(**lines)
        if aside is None:
            self._vtt.write("WEBVTT\n")
            self._line(opened.model_dump(exclude={"session"}))

    def event(self, event: Event) -> None:
        """Write a numbered message down."""
        if self.closed:
            return
        self._line(event.model_dump())
        self._write(self._cues.of(event))

    @property
    def closed(self) -> bool:
        """Nothing more is written."""
        return self._jsonl.closed

    def close(self) -> None:
        """Write the last words and close both files."""
        if not self.closed:
            self._write(self._cues.last())
            self._jsonl.close()
            self._vtt.close()

    def put_aside(self) -> dict:
        """Write no more. Returns what another recorder needs to go on, in numbers and texts."""
        files = {"jsonl": self._jsonl, "vtt": self._vtt}
        for file in files.values():
            file.close()
        texts = {kind: Path(file.name).read_text(encoding="utf-8") for kind, file in files.items()}
        return {"at_s": self._now() - self._zero, "cue": [token.wire() for token in self._cues.held], **texts}

    def give_up(self) -> None:
        """Write no more; what was written stays in the folder, and is not offered."""
        self._on_lost(self.name)
        for file in (self._jsonl, self._vtt):
            with contextlib.suppress(OSError):
                file.close()

    def _write(self, cue: Cue | None) -> None:
        if cue is not None:
            self._vtt.write(cue.vtt())

    def _line(self, message: dict) -> None:
        at_s = round(self._now() - self._zero, 4)
        print(json.dumps({**message, "at_s": at_s}, ensure_ascii=False), file=self._jsonl)


class Recordings:
    """All recordings of this server, in the user's folder, or in one that goes with the server.

    Args:
        replica: which of several servers this is, which share the user's folder: then all offer what lies there.
    Raises:
        UserError: another server writes to the user's folder, or it cannot be made.
    """

    def __init__(self, folder: Path | None, keep_s: float, now=time.monotonic, replica: int | None = None):
        self._kept, self._now, self._keep_s = folder is not None, now, keep_s
        self._shared = self._kept and replica is not None
        self._held = contextlib.ExitStack()
        if folder:
            lock = LOCK if replica is None else f"{LOCK}.{replica}"
            self._held.enter_context(only_one(folder, f"recordings to {folder}", lock))
        else:  # which goes with the process, whatever ends it in an orderly way
            own = tempfile.TemporaryDirectory(prefix="swwatch-recordings-", ignore_cleanup_errors=True)
            self._held.callback(own.cleanup)
        self.folder = folder or Path(own.name)
        self._made: dict[str, float] = {}  # name -> when it was begun
        self._recorders: dict[str, Recorder] = {}
        self._num_followed = 0

    @property
    def num_own(self) -> int:
        """Recordings that go with the server."""
        return 0 if self._kept else len(self._made)

    def new_name(self) -> str:
        """A name that sorts by time and cannot be guessed."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(12)}"

    def begin(self, name: str, opened: Opened, aside: dict | None = None) -> Recorder:
        """Begin one, or go on with one.

        Raises:
            ProtocolError: server_error, when the disk takes nothing.
            ValueError: what is to go on has no name of ours.
        """
        if aside is not None and not NAME.fullmatch(name):
            raise ValueError("no recording of ours")
        try:
            recorder = Recorder(self.folder, name, opened, on_lost=self._lose, aside=aside)
        except OSError as error:
            raise ProtocolError("server_error", f"the recording cannot be written: {error.strerror}") from error
        self._made[name], self._recorders[name] = self._now(), recorder
        return recorder

    def path(self, name: str, kind: str) -> Path:
        """A recording's file. Raises ProtocolError: not_found."""
        path = self.folder / f"{name}.{kind}"
        offered = name in self._made or self._shared and NAME.fullmatch(name)
        if not offered or kind not in KINDS or not path.is_file():
            raise ProtocolError("not_found", "no such recording: it may have been removed")
        return path

    def _lose(self, name: str) -> None:
        del self._made[name], self._recorders[name]

    def subtitles(self, name: str, kind: str) -> str:
        """What was said so far, "vtt" or "srt". Raises ProtocolError: not_found."""
        text = self.path(name, "vtt").read_text(encoding="utf-8")
        return srt_of(text) if kind == "srt" else text

    async def follow(self, name: str, kind: str) -> AsyncIterator[str]:
        """The same, and what is said from now on, as it comes.

        Raises:
            ProtocolError: not_found; full, where too many follow already.
        """
        if self._num_followed >= MAX_FOLLOWED:
            raise ProtocolError("full", "too many follow subtitles already: try later")
        if name not in self._made:
            raise ProtocolError("not_found", "no such recording: it may have been removed")
        self._num_followed += 1
        try:
            sent, is_over = 0, False
            while not is_over:
                if sent and name not in self._made:  # it was lost, or is too old
                    return
                is_over = self._recorders[name].closed  # before what it has written is read
                text = self.subtitles(name, kind)
                yield text[sent:]
                sent = len(text)
                await asyncio.sleep(0 if is_over else LOOK_S)
        finally:
            self._num_followed -= 1

    def sweep(self) -> None:
        """Remove what is too old, unless it lies in the user's own folder."""
        for name, at_s in list(self._made.items()):
            if not self._kept and self._now() - at_s > self._keep_s:
                self._lose(name)
                for kind in KINDS:
                    (self.folder / f"{name}.{kind}").unlink(missing_ok=True)

    def close(self) -> None:
        self._held.close()
