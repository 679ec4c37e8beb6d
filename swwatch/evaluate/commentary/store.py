"""Rows of a generation run on disk, by one process or several, which a kill at any byte leaves fit to go on from.

While OUT.jsonl is made, every process appends rows to a file of its own in OUT_parts, which also keeps the states of
streams; rank 0 takes the files in at the start of a run and at its end. OUT_run.json says with what they were made,
OUT_trace.jsonl what was measured of each row.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from swwatch.data.annotations import encode_line, write_atomic
from swwatch.evaluate.results import append, earlier_note, refuse_other_settings
from swwatch.evaluate.run_files import objects_in, read_lines
from swwatch.launch.ranks import SingleProcess
from swwatch.model.repeat import continued
from swwatch.paths import make_folder, only_one_writes, writing


class Store:
    """Open files of a run, locked against a second one.

    Args:
        output: path of the rows.
        settings: what the rows depend on; rows made with other settings are never mixed with these.
        repeat: how another repeats the run; only rank 0's counts.
        about: how the rows were made, in words.
        ranks: all processes of the run; rank 0 must open first.
        tidy: puts gathered rows into order, each once.
        restart: delete what is there first.
    Attributes:
        rows: what was made before.
    Raises:
        UserError: made with other settings, or in use.
    """

    def __init__(
        self,
        output: Path,
        settings: dict,
        ranks: SingleProcess,
        tidy: Callable[[Iterable[dict]], list[dict]],
        *,
        repeat: dict | None = None,
        about: dict | None = None,
        restart: bool = False,
    ):
        self.output, self.parts = Path(output), Path(output).with_name(f"{Path(output).stem}_parts")
        self._run, self._tidy = self.output.with_name(f"{self.output.stem}_run.json"), tidy
        self._trace = trace_of(self.output)
        self._held = ExitStack()
        if not ranks.rank:
            self._held.enter_context(only_one_writes(self.output))
            if restart:
                for path in (self.output, self._run, self._trace):
                    path.unlink(missing_ok=True)
                shutil.rmtree(self.parts, ignore_errors=True)
            self._check({"settings": settings, "repeat": repeat, "about": about})
            self._gather()
            ranks.tell([])
        else:
            ranks.hear()
            self._held.enter_context(writing(self.parts))
        make_folder(self.parts)
        self.rows = read(self.output)
        self._part, self._part_trace = (self.parts / f"{name}{ranks.rank}.jsonl" for name in ("rank", "trace"))

    def __enter__(self):
        return self

    def __exit__(self, kind=None, error=None, traceback=None) -> None:
        self._held.__exit__(kind, error, traceback)

    def add(self, row: dict, measured: dict) -> None:
        """Write a row so that it lasts, and its line of the trace, which has a `video_id` of its own."""
        append(self._part_trace, measured)
        append(self._part, row)

    def state_path(self, video: str) -> Path:
        """Where the stream of a video is kept between two rows."""
        return self.parts / f"{hashlib.sha256(video.encode()).hexdigest()[:24]}.state"

    def complete(self, finish: Callable[[list[dict]], list[dict]]) -> list[dict]:
        """Rank 0, after all have left: take in all parts, write the whole file and delete the parts."""
        self._gather()
        rows = finish(read(self.output))
        write_atomic(self.output, map(encode_line, rows))
        shutil.rmtree(self.parts, ignore_errors=True)
        return rows

    def _gather(self) -> None:
        """Put the parts into the output, and then delete them; what a kill in between doubles, `tidy` drops."""
        parts = sorted(self.parts.glob("rank*.jsonl"))
        rows = self._tidy([row for path in (self.output, *parts) for row in read(path)])
        write_atomic(self.output, map(encode_line, rows))
        traces = sorted(self.parts.glob("trace*.jsonl"))
        lines: dict[str, tuple[bytes, dict]] = {}
        for path in (self._trace, *traces):
            lines |= read_lines(path)
        write_atomic(self._trace, [raw.decode("utf-8") for raw, _ in lines.values()])
        for path in (*parts, *traces):
            path.unlink()

    def _check(self, run: dict) -> None:
        run = json.loads(json.dumps(run))
        before = earlier_note(self.output, self._run, "--output")
        if before is not None:
            before = before if "settings" in before else {"settings": before}  # of a run before there was more
            refuse_other_settings(self.output, before["settings"], run["settings"], "--output")
            run["repeat"] = continued(before.get("repeat"), run["repeat"])
        write_atomic(self._run, [json.dumps(run, indent=2) + "\n"])


def trace_of(rows: Path) -> Path:
    """Where what was measured of rows lies."""
    return rows.with_name(f"{rows.stem}_trace.jsonl")


def read(path: Path) -> list[dict]:
    return [row for _, row in objects_in(path)]
