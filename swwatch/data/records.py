"""A jsonl file as a sequence whose records are read when they are asked for: only the places of lines are in memory.

So a file of a million lines opens in about a second, takes 8 MB, and worker processes share these.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from swwatch.data.annotations import REQUIRED, no_file, no_record, parse_line
from swwatch.data.samples import Skip
from swwatch.errors import UserError

CHUNK = 1 << 23  # bytes read at once
LOOKS = 50_000  # lines that `check` reads at most; a few seconds
SHOWN = 160  # bytes of a bad line in a message
NEWLINE, SPACES = 10, tuple(b" \t\n\r\v\f")


class Unusable(UserError):
    """Too many records cannot be used; `skips` names them, as far as they were looked at."""

    def __init__(self, message: str, skips: Sequence[Skip]):
        super().__init__(message)
        self.skips = skips


class Records(Sequence):
    """The records of an annotation file such as `dataset/train_3_5.jsonl`, in file order; blank lines do not count.

    An item is what annotations.read_jsonl gives. A line that is no record raises UserError where it is asked for;
    see `check`.

    Args:
        path: the file.
    Attributes:
        sha256: of the file, in hexadecimal.
    Raises:
        UserError: missing or empty file.
    """

    wanted = (
        f"A line is a JSON object with {', '.join(REQUIRED)} and video_path: "
        "`python mani_data.py` makes such files of PE-Video, and with --task funqa of FunQA"
    )

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise no_file(self.path)
        self._fd: int | None = None
        self._stamp = _stamp(os.stat(self.path))
        self._starts, self._has_blanks, self.sha256 = _scan(self.path)
        if not len(self):
            raise no_record(self.path)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> dict:
        """One record.

        Raises:
            UserError: the line is no record; the message names it. Or the file was replaced since it was opened.
        """
        try:
            return self._parse(index)
        except UserError as error:
            raise UserError(f"{self.path}, line {self.number(index)}: {error}") from None

    def _parse(self, index: int) -> dict:
        return parse_line(self.line(index))

    def line(self, index: int) -> bytes:
        """The text of a record, with the blank lines behind it."""
        index = range(len(self))[index]
        start, end = self._starts[index : index + 2].tolist()
        return os.pread(self._file(), end - start, start)  # has no position of its own that processes could share

    def number(self, index: int) -> int:
        """Which line of the file a record is in, from 1."""
        if not self._has_blanks:
            return index + 1
        start, count = int(self._starts[index]), 1
        with self.path.open("rb") as file:
            while start > 0:
                chunk = file.read(min(CHUNK, start))
                count, start = count + chunk.count(b"\n"), start - len(chunk)
        return count

    def check(self, max_bad_fraction: float) -> list[str]:
        """Look at the lines before anything is made of them: at all of them, or at 50,000 spread over a longer file.

        Returns:
            Why single lines cannot be used.
        Raises:
            Unusable: more than `max_bad_fraction` of the lines looked at, which is so in a file of another kind.
            UserError: a `video_id` is there twice.
        """
        looks = range(0, len(self), -(-len(self) // LOOKS))
        bad, seen = {}, {}
        for index in looks:
            try:
                video_id = str(self[index]["video_id"])
            except UserError as error:
                bad[index] = str(error)
                continue
            first = seen.setdefault(video_id, index)
            if first != index:
                where = f"{self.path}, line {self.number(index)}"
                raise UserError(f"{where}: video_id {video_id} was already in line {self.number(first)}; remove one")
        if len(bad) > max_bad_fraction * len(looks):
            index = next(iter(bad))
            text = self.line(index).strip()
            shown = text[:SHOWN].decode(errors="replace") + ("..." if len(text) > SHOWN else "")
            raise Unusable(
                f"{bad[index]}\n  it says: {shown}\n"
                f"{len(bad):,} of the {len(looks):,} lines looked at cannot be used, more than max_bad_fraction "
                f"{max_bad_fraction:g} allows. {self.wanted}",
                [Skip(f"record {number + 1}", str(self.path), reason) for number, reason in bad.items()],
            )
        return list(bad.values())

    def _file(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDONLY)
            if _stamp(os.fstat(self._fd)) != self._stamp:
                raise UserError(f"{self.path} was changed while it was in use: start again")
        return self._fd

    def __getstate__(self) -> dict:
        """For workers that are not forked: they open the file anew; torch hands the places over in shared memory."""
        return self.__dict__ | {"_fd": None}

    def __del__(self):
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd)


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _scan(path: Path) -> tuple[torch.Tensor, bool, str]:
    """Read a file once.

    Returns:
        (N + 1,) int64: where the N lines begin that are not blank, then the file's size; whether there are blank ones;
        the file's sha256.
    """
    digest, position, new_line, has_blanks = hashlib.sha256(), 0, True, False
    found = []
    with path.open("rb") as file, path.open("rb") as again:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            text = np.frombuffer(chunk, np.uint8)
            starts = np.flatnonzero(text == NEWLINE) + 1
            starts = np.concatenate([np.zeros(int(new_line), np.int64), starts])
            starts, new_line = starts[starts < len(text)], chunk.endswith(b"\n")
            # a line that begins with a space may be blank: few do, so these are read by themselves
            doubtful = np.flatnonzero(np.isin(text[starts], SPACES))
            blanks = [i for i in doubtful.tolist() if _is_blank(again, position + int(starts[i]))]
            has_blanks |= bool(blanks)
            found.append(np.delete(starts, blanks) + position)
            position += len(chunk)
    starts = np.concatenate([*found, [position]]).astype(np.int64)
    return torch.from_numpy(starts), has_blanks, digest.hexdigest()


def _is_blank(file, start: int) -> bool:
    file.seek(start)
    return not file.readline().strip()
