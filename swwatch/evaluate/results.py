"""The result files of one evaluation, which a kill at any byte leaves in a state that can be continued.

Beside the predictions `<name>_infer.json` (one JSON object a line, the public release's form) lie `<name>_trace.jsonl`
(every token of every clip), `<name>_skipped.jsonl`, `<name>_run.json` (with what they were made) and, at the end,
`<name>_metrics.json`. A clip counts as done when predictions AND trace hold its whole line.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

from swwatch.data.annotations import encode_line, write_atomic
from swwatch.errors import UserError
from swwatch.paths import make_folder


class Results:
    """Open result files, locked against a second evaluation.

    Args:
        predictions: path of the predictions; the names of the other files follow from it.
        run: JSON object {"settings": ..., "about": ...}. Results made with other settings are never mixed with these.
        keys: the clips asked for, as text; results of others are never mixed with these either.
        restart: delete what is there first.
    Raises:
        UserError: the files come from another run, hold a line that is not JSON, or are in use.
    """

    def __init__(self, predictions: Path, run: dict, keys: Iterable[str], *, restart: bool = False):
        self.predictions = predictions
        self.trace, self.skipped = beside(predictions, "trace.jsonl"), beside(predictions, "skipped.jsonl")
        self.metrics, self.run = beside(predictions, "metrics.json"), beside(predictions, "run.json")
        make_folder(predictions.parent)
        self._lock = _lock(predictions.with_name(f".{predictions.name}.lock"))
        if restart:
            for path in (self.predictions, self.trace, self.skipped, self.metrics, self.run):
                path.unlink(missing_ok=True)
        self._check_run(run)
        self.done = self._reconcile(set(keys))
        self.num_skipped = 0
        write_atomic(self.skipped, [])  # tried again: a mended video counts, and one still bad is soon found out
        self.metrics.unlink(missing_ok=True)  # scores of fewer clips than will be there

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *error) -> None:
        self._lock.close()

    def add(self, prediction: dict, tokens: list[dict]) -> None:
        """Write one finished clip. The prediction comes last: it is what says that the clip is done."""
        key = str(prediction["video_id"])
        _append(self.trace, {"video_id": prediction["video_id"], "tokens": tokens})
        _append(self.predictions, prediction)
        self.done.add(key)

    def skip(self, video_id: int | str, path: str | None, reason: str) -> None:
        """Note a clip that could not be read."""
        _append(self.skipped, {"video_id": video_id, "path": path, "reason": reason})
        self.num_skipped += 1

    def _check_run(self, run: dict) -> None:
        if not self.run.exists():
            if self.predictions.exists() and self.predictions.stat().st_size:
                raise UserError(
                    f"{self.predictions} exists without {self.run.name}, so it is not known how it was made: "
                    "choose another --output-dir or --output-file, or give --restart to replace it"
                )
            write_atomic(self.run, [json.dumps(run, indent=2, ensure_ascii=False) + "\n"])
            return
        try:
            then, now = json.loads(self.run.read_text(encoding="utf-8"))["settings"], run["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.run} cannot be read ({error}): give --restart to begin anew") from error
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if changed:
            told = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in changed)
            raise UserError(
                f"{self.predictions} holds results of another run ({told}): "
                "choose another --output-dir or --output-file, or give --restart to replace them"
            )

    def _reconcile(self, keys: set[str]) -> set[str]:
        """Drop incomplete last lines, and clips that only one of the two files holds; the clips that both hold."""
        files = {path: read_lines(path) for path in (self.predictions, self.trace)}
        done = set.intersection(*(set(lines) for lines in files.values()))
        if foreign := done - keys:
            raise UserError(
                f"{self.predictions} holds {len(foreign)} clips that are not among the {len(keys)} asked for (was "
                "--max-count larger?): choose another --output-dir or --output-file, or give --restart to replace them"
            )
        for path, lines in files.items():
            kept = b"".join(raw for key, (raw, _) in lines.items() if key in done)
            if not path.exists() or path.read_bytes() != kept:
                write_atomic(path, [kept.decode("utf-8")])
        return done


def beside(predictions: Path, what: str) -> Path:
    """group_infer.json -> group_<what>, in the same folder."""
    return predictions.with_name(f"{predictions.stem.removesuffix('_infer')}_{what}")


def read_lines(path: Path, *, cut_tail: bool = True) -> dict[str, tuple[bytes, dict]]:
    """The lines of a result file: clip -> (the line as it is, its object).

    Args:
        cut_tail: leave out what follows the last line end: what a kill left of a line is no result.
    Raises:
        UserError: a line is not a JSON object with a video_id.
    """
    pieces = path.read_bytes().split(b"\n") if path.exists() else []
    lines: dict[str, tuple[bytes, dict]] = {}
    for number, raw in enumerate(pieces[:-1] if cut_tail else pieces, start=1):
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
            lines.setdefault(str(record["video_id"]), (raw + b"\n", record))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: not a result ({error!r}). Remove the line, or give --restart to begin anew"
            ) from error
    return lines


def _append(path: Path, record: dict) -> None:
    with path.open("ab") as file:
        file.write(encode_line(record).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def _lock(path: Path):
    """An exclusive lock that ends with the process, however that ends."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(
            f"another evaluation writes to {path.parent}: wait for it, or choose another output"
        ) from error
    return file
