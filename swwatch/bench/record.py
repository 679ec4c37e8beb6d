"""What a run has found so far: written anew after every part, so that a run that is cut short keeps what it has."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from swwatch.bench.settings import BenchSettings
from swwatch.bench.trust import Neighbours, verdict
from swwatch.data.annotations import write_atomic
from swwatch.launch.signals import handled_by
from swwatch.metrics.machine import machine

STOPPED = "stopped from outside"


class Record:
    """One run.

    Attributes:
        result: command, settings, where it began and ended, verdict, and what a benchmark adds; all JSON values.
    """

    def __init__(
        self, name: str, settings: BenchSettings, command: str, report: Callable[[dict], str], indent: int | None = 1
    ):
        """
        Args:
            name: of the kind.
            settings: settled.
            report: the result as Markdown.
            indent: of the JSON file; None: on one line, for long columns of numbers.
        """
        self.name, self.settings, self._report, self._indent = name, settings, report, indent
        self._began = time.perf_counter()
        self._neighbours = Neighbours(settings.device == "cuda")
        self.result = {
            "command": command,
            "settings": {
                key: _told(value) for key, value in asdict(settings).items() if key not in ("output", "report")
            },
            "begin": machine(),
            "threads": torch.get_num_threads(),
            "left_out": [],
        }

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def say(self, text: str) -> None:
        """A line on stderr with the seconds so far."""
        print(f"[{self.elapsed_s:6.0f} s] {text}", file=sys.stderr, flush=True)

    def save(self, spreads: Sequence[tuple[str, float | None]] = (), doubts: Sequence[str] = ()) -> dict:
        """Judge what there is, and write it where there is an output folder.

        Args:
            spreads, doubts: see `trust.verdict`.
        """
        self.result["end"] = machine()
        self.result["verdict"] = verdict(self.settings, **self._neighbours.seen(), spreads=spreads, doubts=doubts)
        if (folder := self.settings.output) is not None:
            write_atomic(folder / f"bench_{self.name}.json", [json.dumps(self.result, indent=self._indent) + "\n"])
            write_atomic(folder / f"bench_{self.name}.md", [self._report(self.result) + "\n"])
        return self.result

    @contextmanager
    def until_stopped(self) -> Iterator[None]:
        """Ctrl-C or a stop signal ends the measuring inside and keeps what there is."""
        try:
            with handled_by(signal.default_int_handler):
                yield
        except KeyboardInterrupt:
            self.result["left_out"].append({"part": "what was still to come", "reason": STOPPED})


def _told(value):
    return str(value) if isinstance(value, Path) else value
