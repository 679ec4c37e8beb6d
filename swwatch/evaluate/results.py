"""Writing the files of a run (see run_files) so that a kill at any byte leaves them fit to go on from.

A clip counts as done when predictions AND trace hold its whole line.

Several processes write parts of the same form to the folder `<name>_parts`, one each. Whoever opens the results next
takes them in, be it the same run at its end or the next one after a kill.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from swwatch.data.annotations import encode_line, write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.run_files import beside, read_lines, write_object
from swwatch.launch.ranks import SingleProcess
from swwatch.model.repeat import continued
from swwatch.paths import only_one, only_one_writes, writing

SHARING = {"clips_at_once", "num_processes"}  # facts about a run that make its timings another stream's than its own
VISIBLE_S = 60  # a shared file system may show another node's new file so much later


class Writer:
    """Files that one process writes finished clips to.

    Args:
        predictions: path of its predictions; trace and skipped lie beside.
        done: clips that need not be made again, as text; those added join them.
    Raises:
        UserError: the files are in use.
    """

    def __init__(self, predictions: Path, done: Iterable[str] = ()):
        self.predictions = predictions
        self.trace, self.skipped = beside(predictions, "trace.jsonl"), beside(predictions, "skipped.jsonl")
        self._held = ExitStack()
        self._held.enter_context(only_one_writes(predictions))
        self.done, self.num_skipped = set(done), 0

    def __enter__(self):
        return self

    def __exit__(self, kind=None, error=None, traceback=None) -> None:
        self._held.__exit__(kind, error, traceback)

    def add(self, prediction: dict, tokens: list[dict], **more) -> None:
        """Write one finished clip. The prediction comes last: it is what says that the clip is done.

        Args:
            more: for the trace, such as what differs from run to run.
        """
        key = str(prediction["video_id"])
        append(self.trace, {"video_id": prediction["video_id"], "tokens": tokens, **more})
        append(self.predictions, prediction)
        self.done.add(key)

    def skip(self, video_id: int | str, path: str | None, reason: str) -> None:
        """Note a clip that could not be read."""
        append(self.skipped, {"video_id": video_id, "path": path, "reason": reason})
        self.num_skipped += 1


class Results(Writer):
    """Open result files, locked against a second evaluation.

    Args:
        predictions: path of the predictions; the names of the other files follow from it.
        run: JSON object {"settings": ..., "about": ..., "repeat": ...}. Results made with other settings are never
            mixed with these.
        keys: the clips asked for, as text, in the order that complete results have; results of others are never mixed
            with these either.
        restart: delete what is there first.
    Attributes:
        facts: what run.json says now.
    Raises:
        UserError: the files come from another run, hold a line that is not JSON, or are in use.
    """

    def __init__(self, predictions: Path, run: dict, keys: Iterable[str], *, restart: bool = False):
        super().__init__(predictions)
        self.metrics, self.run = beside(predictions, "metrics.json"), beside(predictions, "run.json")
        self.parts, self._keys = parts_of(predictions), list(keys)
        for lock in self.parts.glob(".*.lock"):
            with only_one(self.parts, str(self.parts), lock.name):
                pass  # a process of an earlier run may still be at work
        if restart:
            for path in (self.predictions, self.trace, self.skipped, self.metrics, self.run):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.parts, ignore_errors=True)
        self._check_run(run)
        self._take_in(self._gather())
        write_atomic(self.skipped, [])  # tried again: a mended video counts, and one still bad is soon found out
        self.metrics.unlink(missing_ok=True)  # scores of fewer clips than will be there

    def complete(self, num_done: int | None = None) -> None:
        """Take in the parts of all processes, and put the clips into the order of the annotations.

        Args:
            num_done: clips that must be there; a file that another node wrote may come to light a little later.
        Raises:
            UserError: clips are missing, or there is none.
        """
        rows, patience = self._gather(), VISIBLE_S
        while num_done is not None and len(rows) < num_done:
            if (patience := patience - 1) < 0:
                raise UserError(
                    f"{num_done - len(rows)} finished clips do not show in {self.parts}: "
                    "the output folder must be one that all nodes share"
                )
            time.sleep(1)
            rows = self._gather()
        skipped = {}
        for path in (self.skipped, *(beside(part, "skipped.jsonl") for part in self._parts())):
            skipped |= read_lines(path)
        write_atomic(self.skipped, [skipped[key][0].decode("utf-8") for key in self._keys if key in skipped])
        self.num_skipped = len(skipped)
        self._take_in(rows)
        if not self.done:
            raise UserError(f"none of the {len(self._keys)} clips can be read: see {self.skipped}")

    def _parts(self) -> list[Path]:
        """The predictions files of the parts, which may not be there where a process finished nothing."""
        return sorted(
            {path.with_name(f"{path.name.partition('_')[0]}_infer.json") for path in self.parts.glob("rank*")}
        )

    def _check_run(self, run: dict) -> None:
        earlier = earlier_note(self.predictions, self.run, "--output-dir or --output-file")
        if earlier is None:
            self._write_run(run)
            return
        try:
            then, about = earlier["settings"], {**earlier["about"], **run["about"]}
            refuse_other_settings(self.predictions, then, run["settings"], "--output-dir or --output-file")
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.run} cannot be read ({error}): give --restart to begin anew") from error
        for name in SHARING & earlier["about"].keys() & run["about"].keys():  # true of some of the clips at least
            about[name] = max(earlier["about"][name], run["about"][name])
        found = {**run, "about": about}
        if "repeat" in run:
            found["repeat"] = continued(earlier.get("repeat"), run["repeat"])
        if found != earlier:
            self._write_run(found)
        self.facts = found

    def _write_run(self, run: dict) -> None:
        self.facts = run
        write_object(self.run, run)

    def _gather(self) -> dict[str, tuple[bytes, bytes]]:
        """Clip -> its lines in predictions and trace, of all clips that some pair of files holds whole."""
        rows: dict[str, tuple[bytes, bytes]] = {}
        for predictions in (self.predictions, *self._parts()):
            captions, traced = read_lines(predictions), read_lines(beside(predictions, "trace.jsonl"))
            for key in captions.keys() & traced.keys():
                rows.setdefault(key, (captions[key][0], traced[key][0]))
        if foreign := rows.keys() - set(self._keys):
            raise UserError(
                f"{self.predictions} holds {len(foreign)} clips that are not among the {len(self._keys)} asked for "
                "(was --max-count larger?): choose another --output-dir or --output-file, or give --restart to "
                "replace them"
            )
        return rows

    def _take_in(self, rows: dict[str, tuple[bytes, bytes]]) -> None:
        """Write the gathered clips, each once; cut lines and what only one of two files holds are dropped.

        The merged files are written before any part is deleted, so a kill in between doubles nothing.
        """
        self.done = set(rows)
        ordered = [rows[key] for key in self._keys if key in rows]
        for path, lines in (
            (self.trace, [row[1] for row in ordered]),
            (self.predictions, [row[0] for row in ordered]),
        ):
            content = b"".join(lines)
            if not path.exists() or path.read_bytes() != content:
                write_atomic(path, [content.decode("utf-8")])
        shutil.rmtree(self.parts, ignore_errors=True)  # what stays is taken in again, and each clip counts once


@contextmanager
def shared(
    path: Path,
    facts: dict,
    keys: list[str],
    work: Callable[[Writer], None],
    ranks: SingleProcess,
    *,
    restart: bool = False,
    label: str,
    noun: str = "clips",
) -> Iterator[Results | None]:
    """Do the work of this rank; at rank 0 the block sees the complete results, at others None.

    Args:
        path, facts, keys, restart: as for Results.
        work: writes what is not done yet to the part it is given, raising the shared counters "ended" and "skipped".
        label, noun: of the results, for the line that tells what there is to do.
    """
    if ranks.rank:
        with Writer(part_of(path, ranks.rank), ranks.hear()) as part:
            work(part)
        ranks.leave()
        yield None
        return
    with Results(path, facts, keys, restart=restart) as results:
        num_before = len(results.done)
        print(f"{label}: {len(keys)} {noun}, {num_before} of them done before -> {path}")
        if ranks.size == 1:
            work(results)
        else:
            ranks.tell(sorted(results.done))
            with Writer(part_of(path, 0), results.done) as part:
                work(part)
            ranks.wait_for_all()
        results.complete(num_before + ranks.add("ended", 0) - ranks.add("skipped", 0))
        yield results


def parts_of(predictions: Path) -> Path:
    """The folder of the parts of several processes."""
    return beside(predictions, "parts")


def part_of(predictions: Path, rank: int) -> Path:
    """Where the process of this rank writes its predictions."""
    return parts_of(predictions) / f"rank{rank}_infer.json"


def earlier_note(rows: Path, note: Path, elsewhere: str) -> dict | None:
    """With what rows were made that are there, as the note beside them says; None where there are none yet.

    Args:
        elsewhere: flags that choose another place.
    Raises:
        UserError: rows without a note, or a note that cannot be read.
    """
    if not note.exists():
        if rows.exists() and rows.stat().st_size:
            raise UserError(
                f"{rows} exists without {note.name}, so it is not known how it was made: "
                f"choose another {elsewhere}, or give --restart to replace it"
            )
        return None
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{note} cannot be read ({error}): give --restart to begin anew") from error


def refuse_other_settings(rows: Path, then: dict, now: dict, elsewhere: str) -> None:
    """Raises: UserError: rows that are there were made with other settings."""
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in changed)
        raise UserError(
            f"{rows} holds results of another run ({differences}): "
            f"choose another {elsewhere}, or give --restart to replace them"
        )


def append(path: Path, record: dict) -> None:
    with writing(path.parent), path.open("ab") as file:
        file.write(encode_line(record).encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
