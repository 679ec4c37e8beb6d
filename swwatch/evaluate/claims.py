"""Several processes work through one list: who takes what, how far they are, and how many may fail."""

import sys
from collections.abc import Iterator
from pathlib import Path

from swwatch.errors import UserError
from swwatch.launch.ranks import SingleProcess


def claimed(todo: list, ranks: SingleProcess) -> Iterator:
    """What falls to this process: the next one of all whenever it asks."""
    while (i := ranks.add("claimed") - 1) < len(todo):
        yield todo[i]


def check_skips(num: int, num_records: int, max_bad_fraction: float, listed: Path, last: Exception) -> None:
    """Raises: UserError: more clips than allowed could not be read."""
    if num > max_bad_fraction * num_records:
        raise UserError(
            f"{num} of {num_records} clips cannot be read, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows; the last: {last}\nAll are listed in {listed}. "
            "Mend them or raise the limit and give the same command again: finished clips are kept."
        ) from last


def bar_options(ranks: SingleProcess) -> dict:
    """Of tqdm: rank 0 alone shows how far all are."""
    often = 0.5 if sys.stderr.isatty() else 30
    return {"mininterval": often, "dynamic_ncols": True, "disable": ranks.rank > 0}
