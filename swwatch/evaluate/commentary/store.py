"""Rows of a generation run on disk, by one process or several, which a kill at any byte leaves fit to go on from.

While OUT.jsonl is made, every process appends rows to a file of its own in OUT_parts, which also keeps the states of
streams; rank 0 takes the files in at the start of a run and at its end. OUT_run.json says with what they were made.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from swwatch.data.annotations import encode_line, write_atomic
from swwatch.errors import UserError
from swwatch.launch.ranks import Alone
from swwatch.paths import make_folder


class Store:
    """Open files of a run, locked against a second one.

    Args:
        output: path of the rows.
        settings: what the rows depend on; rows made with other settings are never mixed with these.
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
        ranks: Alone,
        tidy: Callable[[Iterable[dict]], list[dict]],
        *,
        restart: bool = False,
    ):
        self.output, self.parts = Path(output), Path(output).with_name(f"{Path(output).stem}_parts")
        self._run, self._tidy = self.output.with_name(f"{self.output.stem}_run.json"), tidy
        make_folder(self.output.parent)
        if not ranks.rank:
            self._lock = _hold(self.output.with_name(f".{self.output.name}.lock"))
            if restart:
                for path in (self.output, self._run):
                    path.unlink(missing_ok=True)
                shutil.rmtree(self.parts, ignore_errors=True)
            self._check(settings)
            self._gather()
            ranks.tell([])
        else:
            ranks.hear()
        make_folder(self.parts)
        self.rows = read(self.output)
        self._file = (self.parts / f"rank{ranks.rank}.jsonl").open("ab")

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def add(self, row: dict) -> None:
        """Write a row so that it lasts."""
        self._file.write(encode_line(row).encode("utf-8"))
        self._file.flush()
        os.fsync(self._file.fileno())

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
        for path in parts:
            path.unlink()

    def _check(self, settings: dict) -> None:
        settings = json.loads(json.dumps(settings))
        if not self._run.exists():
            if self.output.exists() and self.output.stat().st_size:
                raise UserError(
                    f"{self.output} exists without {self._run.name}, so it is not known how it was made: choose "
                    "another --output, or give --restart to replace it"
                )
            write_atomic(self._run, [json.dumps(settings, indent=2) + "\n"])
            return
        before = json.loads(self._run.read_text(encoding="utf-8"))
        if differ := sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key)):
            raise UserError(
                f"{self.output} was made with another {', '.join(differ)}: choose another --output, or give --restart "
                "to replace it"
            )


def read(path: Path) -> list[dict]:
    """Rows of a jsonl file; what a kill left of the last line is no row.

    Raises:
        UserError: a line that is no JSON object.
    """
    pieces = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    rows = []
    for number, raw in enumerate(pieces, start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error}). Remove the line, or give --restart"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not an object. Remove the line, or give --restart")
        rows.append(row)
    return rows


def _hold(path: Path):
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(f"another run writes to {path.parent}: wait for it, or choose another --output") from error
    return file
