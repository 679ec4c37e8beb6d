"""A session as files: JSONL with every numbered message, WebVTT with what was said when."""

import contextlib
import json
import re
import secrets
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from swwatch.client.protocol import Decided, Event, Opened, ProtocolError, Token, Turn, parse_server
from swwatch.paths import only_one

KINDS = {"jsonl": "application/x-ndjson", "vtt": "text/vtt; charset=utf-8"}
LAST_CUE_S = 2.0  # how long the last words stay


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
        self._cue: list[Token] = []  # of one step, or of a turn
        if aside is not None:
            self._zero -= aside["at_s"]
            self._cue = [parse_server(token) for token in aside["cue"]]
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
        if self._jsonl.closed:
            return
        self._line(event.model_dump())
        if isinstance(event, Token):
            if self._cue and event.step != self._cue[0].step:
                self._write_cue(event.t_emit_s)
            self._cue.append(event)
        if isinstance(event, Decided) and not event.tokens and self._cue:  # silence ends what is shown
            self._write_cue(min(event.t_s, self._cue[-1].t_emit_s + LAST_CUE_S))
        if isinstance(event, Turn):
            self._cue = []
            self._write(event.start_s, event.end_s, event.text)

    def close(self) -> None:
        """Write the last words and close both files."""
        if not self._jsonl.closed:
            if self._cue:
                self._write_cue(self._cue[-1].t_emit_s + LAST_CUE_S)
            self._jsonl.close()
            self._vtt.close()

    def put_aside(self) -> dict:
        """Write no more. Returns what another recorder needs to go on, in numbers and texts."""
        files = {"jsonl": self._jsonl, "vtt": self._vtt}
        for file in files.values():
            file.close()
        texts = {kind: Path(file.name).read_text(encoding="utf-8") for kind, file in files.items()}
        return {"at_s": self._now() - self._zero, "cue": [token.wire() for token in self._cue], **texts}

    def give_up(self) -> None:
        """Write no more; what was written stays in the folder, and is not offered."""
        self._on_lost(self.name)
        for file in (self._jsonl, self._vtt):
            with contextlib.suppress(OSError):
                file.close()

    def _line(self, message: dict) -> None:
        at_s = round(self._now() - self._zero, 4)
        print(json.dumps({**message, "at_s": at_s}, ensure_ascii=False), file=self._jsonl)

    def _write_cue(self, end_s: float) -> None:
        start_s = self._cue[0].t_emit_s
        text = "".join(token.text for token in self._cue)
        self._cue = []
        self._write(start_s, end_s, text)

    def _write(self, start_s: float, end_s: float, text: str) -> None:
        text = " ".join(text.split())
        if text:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            self._vtt.write(f"\n{_stamp(start_s)} --> {_stamp(max(end_s, start_s + 0.001))}\n{text}\n")


def _stamp(seconds: float) -> str:
    """WebVTT's hh:mm:ss.ttt."""
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


class Recordings:
    """All recordings of this server, in the user's folder, or in one that goes with the server.

    Raises:
        UserError: another server writes to the user's folder, or it cannot be made.
    """

    def __init__(self, folder: Path | None, keep_s: float, now=time.monotonic):
        self._kept, self._now, self._keep_s = folder is not None, now, keep_s
        self._held = contextlib.ExitStack()
        if folder:
            self._held.enter_context(only_one(folder, f"recordings to {folder}"))
        else:  # which goes with the process, whatever ends it in an orderly way
            own = tempfile.TemporaryDirectory(prefix="swwatch-recordings-", ignore_cleanup_errors=True)
            self._held.callback(own.cleanup)
        self.folder = folder or Path(own.name)
        self._made: dict[str, float] = {}  # name -> when it was begun

    def new_name(self) -> str:
        """A name that sorts by time and cannot be guessed."""
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(12)}"

    def begin(self, name: str, opened: Opened, aside: dict | None = None) -> Recorder:
        """Begin one, or go on with one.

        Raises:
            ProtocolError: server_error, when the disk takes nothing.
            ValueError: what is to go on has no name of ours.
        """
        if aside is not None and not re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{24}", name):
            raise ValueError("no recording of ours")
        try:
            recorder = Recorder(self.folder, name, opened, on_lost=self._made.pop, aside=aside)
        except OSError as error:
            raise ProtocolError("server_error", f"the recording cannot be written: {error.strerror}") from error
        self._made[name] = self._now()
        return recorder

    def path(self, name: str, kind: str) -> Path:
        """A recording's file. Raises ProtocolError: not_found."""
        path = self.folder / f"{name}.{kind}"
        if name not in self._made or kind not in KINDS or not path.is_file():
            raise ProtocolError("not_found", "no such recording: it may have been removed")
        return path

    def sweep(self) -> None:
        """Remove what is too old, unless it lies in the user's own folder."""
        for name, at_s in list(self._made.items()):
            if not self._kept and self._now() - at_s > self._keep_s:
                del self._made[name]
                for kind in KINDS:
                    (self.folder / f"{name}.{kind}").unlink(missing_ok=True)

    def close(self) -> None:
        self._held.close()
