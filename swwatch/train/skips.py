"""The records a run could not use: listed once each, counted, and too many of them stop the run."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.data.dataset import MAX_REPLACEMENTS, Skip
from swwatch.errors import UserError
from swwatch.train.checkpoints import append_line


class SkipList:
    """skipped.jsonl of a run: video_id, path, reason. A continued run adds to it and doubles nothing.

    Args:
        path: the file; read if it exists.
        num_records: size of the data set.
        max_bad_fraction: share of it that may be unusable.
        writes: whether this process writes the file; among several only the main one does.
    """

    def __init__(self, path: Path, num_records: int, max_bad_fraction: float, *, writes: bool = True):
        self.path, self.num_records, self.max_bad_fraction = path, num_records, max_bad_fraction
        self.writes = writes
        self.seen: set[str] = set()
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
        whole = [line + "\n" for line in lines[:-1]]
        if lines[-1] and writes:  # a kill has cut it short
            write_atomic(path, whole)
        self.seen.update(json.loads(line)["video_id"] for line in whole)

    def __len__(self) -> int:
        return len(self.seen)

    def add(self, skips: list[Skip]) -> None:
        """List what is new, all of it.

        Raises:
            UserError: more records are unusable than max_bad_fraction allows.
        """
        for skip in skips:
            if skip.video_id in self.seen:
                continue
            self.seen.add(skip.video_id)
            if self.writes:
                append_line(self.path, asdict(skip))
        if skips and len(self) > self.max_bad_fraction * self.num_records:
            last = skips[-1]
            raise UserError(
                f"{len(self)} of {self.num_records} records are unusable, more than max_bad_fraction "
                f"{self.max_bad_fraction:g}; the last one is {last.path}: {last.reason}. {self._advice()}"
            )

    def judge(self, num_bad: int, num_looked: int) -> None:
        """Refuse a data set of which a part, spread over all of it, was looked at and has too many unusable records.

        Raises:
            UserError: there are more than max_bad_fraction, and than chance could explain (three standard deviations).
        """
        if num_looked >= self.num_records:
            return  # `add` has counted them all
        expected = self.max_bad_fraction * num_looked
        if num_bad > expected + 3 * math.sqrt(expected):
            raise UserError(
                f"{num_bad} of {num_looked} records that were looked at are unusable, far more than max_bad_fraction "
                f"{self.max_bad_fraction:g}. {self._advice()}"
            )

    def _advice(self) -> str:
        return (
            f"All that are known are in {self.path}: mend or remove them, raise --max-length or --max-frames where "
            "they are too long (or give --truncate), or raise --max-bad-fraction"
        )

    def give_up(self, skips: list[Skip]) -> None:
        """A sample could not be replaced.

        Raises:
            UserError: always.
        """
        self.add(skips)
        last = skips[-1]
        raise UserError(
            f"{MAX_REPLACEMENTS} records drawn in a row are unusable; the last one is {last.path}: {last.reason}. "
            f"All are in {self.path}"
        )
