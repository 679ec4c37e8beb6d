"""What others make of a narration: a command is run for each event of a kind, a web address is told what was said.

An event is JSON, as docs/protocol.md has it; "said" is the words of a step or of a chat turn: start_s, end_s and text.
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from swwatch.data.live.addresses import check_url
from swwatch.errors import UserError
from swwatch.narrate.latency import kind_of

if TYPE_CHECKING:
    import httpx  # as pydantic, it takes longer to import than flags to parse

    from swwatch.client.protocol import Event

SAID = "said"
KINDS = (SAID, "watched", "token", "thought", "decided", "turn", "asked", "dropped", "error", "end")
POSTED = (SAID, "asked", "dropped", "error", "end")
WITHIN_S = 30.0  # for one command, and at the end for all that is left
MAX_WAITING = 256  # events


def parse_on(text: str) -> tuple[str, list[str]]:
    """`said=notify-send -t 2000` -> ("said", ["notify-send", "-t", "2000"]). No shell is asked.

    Raises:
        UserError: no such event, or no such command.
    """
    kind, equals, command = text.partition("=")
    if not equals or kind not in KINDS:
        raise UserError(f"--on {text}: write EVENT=COMMAND, with an event of {', '.join(KINDS)}")
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--on {text}: {error}") from error
    if not arguments or shutil.which(arguments[0]) is None:
        raise UserError(f"--on {text}: there is no command {arguments[0] if arguments else ''!r}")
    return kind, arguments


def check_webhook(address: str) -> None:
    """Raises UserError: no address of http or https. One of this machine or its network may be meant."""
    if not address.lower().startswith(("http://", "https://")):
        raise UserError(f"--webhook {address}: an address must begin with http:// or https://")
    check_url(address, allow_private=True)


class Hooks:
    """Tells one event after the other, from a thread of its own: the narration waits for nobody. A context manager."""

    def __init__(self, on: Iterable[str] = (), webhook: str | None = None):
        """Args: on: see `parse_on`; webhook: an address that events are posted to."""
        from swwatch.client.cues import Cues

        self._commands, self._webhook, self._cues = [parse_on(text) for text in on], webhook, Cues()
        self._kinds = {kind for kind, _ in self._commands} | set(POSTED if webhook else ())
        self._waiting: queue.Queue = queue.Queue(MAX_WAITING)
        self._num_lost = 0
        self._thread = threading.Thread(target=self._work, name="hooks", daemon=True)

    def heard(self, events: "Iterable[Event]") -> "Iterator[Event]":
        """The same events, and whoever wants one is told."""
        for event in events:
            if (cue := self._cues.of(event)) is not None:
                self._put(SAID, json.dumps({"type": SAID, **cue._asdict()}, ensure_ascii=False))
            if (kind := kind_of(event)) in self._kinds:
                self._put(kind, event.wire())
            yield event

    def _put(self, kind: str, text: str) -> None:
        if kind in self._kinds:
            try:
                self._waiting.put_nowait((kind, text))
            except queue.Full:
                self._num_lost += 1

    def _work(self) -> None:
        import httpx

        with httpx.Client(timeout=WITHIN_S, follow_redirects=False) as client:
            while (waiting := self._waiting.get()) is not None:
                kind, text = waiting
                for wanted, arguments in self._commands:
                    if wanted == kind:
                        self._run(arguments, text)
                if self._webhook and kind in POSTED:
                    self._post(client, text)

    def _run(self, arguments: list[str], text: str) -> None:
        how = {"input": text.encode(), "env": os.environ | {"SWWATCH_EVENT": text}, "timeout": WITHIN_S}
        try:
            if code := subprocess.run(arguments, check=False, **how).returncode:
                self._tell(f"{arguments[0]} ended with code {code}")
        except (OSError, subprocess.TimeoutExpired) as error:
            self._tell(f"{arguments[0]} was not run to its end: {error}")

    def _post(self, client: "httpx.Client", text: str) -> None:
        import httpx

        try:
            answer = client.post(self._webhook, content=text.encode(), headers={"content-type": "application/json"})
            if not answer.is_success:
                self._tell(f"--webhook answered {answer.status_code}")
        except httpx.HTTPError as error:
            self._tell(f"--webhook did not answer: {error!r}")

    def _tell(self, trouble: str) -> None:
        print(f"\n  [{trouble}]", file=sys.stderr, flush=True)

    def __enter__(self) -> "Hooks":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        try:
            self._waiting.put(None, timeout=WITHIN_S)
        except queue.Full:
            self._num_lost += self._waiting.qsize()
        else:
            self._thread.join(WITHIN_S)
        if self._num_lost:
            self._tell(f"{self._num_lost} events were not handed over: what was to take them is too slow")
