"""How many tokens each record's sample will have, from its video's index and first frame: the rest is not decoded.

The sizes of the clips are kept in a file, so that a continued run plans from the same numbers whatever has happened to
the videos since, and does not look at them again. Records are gone through in stretches, and only numbers are kept.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from swwatch.data.samples import Samples, Size, Skip
from swwatch.errors import UserError

AT_ONCE = 256  # clips measured before they are written down


@dataclass
class Lengths:
    """Token counts of records' samples.

    Attributes:
        tokens: of each record, with the longest question that it may be asked and nothing dropped by a SEE policy: an
            upper bound, which is all that packing and ordering need; 0 where it gives no sample.
        skips: those records, with the reason: unreadable, or longer than the limits.
        num_cut: samples whose video loses its end to max_length.
    """

    tokens: list[int] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    num_cut: int = 0


def sample_lengths(
    clips: Samples, file: Path, threads: int, write: bool = True, chosen: Sequence[int] | None = None
) -> Lengths:
    """Count the tokens of records' samples.

    Args:
        file: jsonl of clip sizes, read where it exists.
        write: add to the file; one process does.
        threads: that look at videos side by side; a look costs a small part of decoding the clip.
        chosen: indices of records; all by default.
    """
    chosen = range(len(clips)) if chosen is None else chosen
    return _lengths(clips, chosen, _Sizes(len(clips), file, write), threads)


def lengths_of(clips: Samples, indices: Sequence[int], threads: int) -> Lengths:
    """As `sample_lengths`, of some records and without a file."""
    return _lengths(clips, indices, _Sizes(len(clips)), threads)


def _lengths(clips: Samples, indices: Sequence[int], sizes: "_Sizes", threads: int) -> Lengths:
    lengths, counter = Lengths(), clips.counter()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(indices), AT_ONCE):
            stretch = {index: clips.record(index) for index in indices[start : start + AT_ONCE]}
            records = {index: record for index, record in stretch.items() if not isinstance(record, Skip)}
            new = [index for index in records if index not in sizes]
            sizes.add(new, pool.map(lambda record: _measure(clips, record), map(records.__getitem__, new)))
            counted = counter(list(records.values()), [sizes[index] for index in records])
            found = dict(zip(records, counted, strict=True))
            for index, record in stretch.items():
                _add(lengths, record, found.get(index))
    return lengths


def _add(lengths: Lengths, record: dict | Skip, counted: tuple[int, bool] | str | None) -> None:
    if isinstance(record, Skip) or isinstance(counted, str):
        lengths.tokens.append(0)
        lengths.skips.append(record if isinstance(record, Skip) else Skip.of(record, UserError(counted)))
        return
    tokens, cut = counted
    lengths.tokens.append(tokens)
    lengths.num_cut += cut


def _measure(clips: Samples, record: dict) -> Size | str:
    """The size of a record's clip, or why there is none."""
    try:
        return clips.measure(record)
    except UserError as error:
        return Skip.of(record, error).reason


class _Sizes:
    """What is known of the clips: 12 bytes each, and a text for those that cannot be used.

    Args:
        count: of records.
        file: keeps them from run to run; None for no file.
        write: add to the file what is new.
    """

    def __init__(self, count: int, file: Path | None = None, write: bool = False):
        self.file, self.write = file, write and file is not None
        self.sizes, self.reasons = np.zeros((count, 3), np.int32), {}
        if file is not None and file.exists():
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    self._read(line, count)

    def __contains__(self, index: int) -> bool:
        return index in self.reasons or bool(self.sizes[index, 0])

    def __getitem__(self, index: int) -> Size | str:
        return self.reasons.get(index) or tuple(self.sizes[index].tolist())

    def add(self, indices: Sequence[int], found) -> None:
        entries = [self._keep(index, size) for index, size in zip(indices, found, strict=True)]
        if self.write and entries:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open(
                "a", encoding="utf-8"
            ) as lines:  # a line begins with its newline: a cut one stays alone
                lines.write("".join(f"\n{json.dumps(entry)}" for entry in entries))

    def _keep(self, index: int, size: Size | str) -> dict:
        if isinstance(size, str):
            self.reasons[index] = size
            return {"record": index, "reason": size}
        self.sizes[index] = size
        return {"record": index, "size": size}

    def _read(self, line: str, count: int) -> None:
        """Take a whole line; a kill, or a writer at work, may have left one that is not."""
        try:
            entry = json.loads(line)
            index, size = entry["record"], entry.get("reason") or entry["size"]
        except (ValueError, KeyError, TypeError):
            return
        if index < count:
            self._keep(index, size)
