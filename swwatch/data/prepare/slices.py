"""One split by several machines that share a file system: slices of its parts, then one process that joins them.

What a part gave is written beside the output, whoever worked it off (`parts.py`), so slices need to tell each other
nothing: slice i of n takes every n-th part, and may be killed and started again like a whole run. Locks keep a slice
from two processes, and slices from runs over all parts.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace

from swwatch.data.prepare.parts import CountTokens, PeVideoSplit, finish, finished_parts, refuse_held, run_parts
from swwatch.errors import UserError
from swwatch.paths import LOCK, only_one


@dataclass(frozen=True)
class Slice:
    """Number `index` (from 1) of `count`, as `--part 2/8` says it."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Raises UserError: not of the form i/n with i from 1 to n."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--part {text}: give i/n with i from 1 to n, such as 1/8")
        return cls(int(found[1]), int(found[2]))

    @property
    def lock(self) -> str:
        return f".slice-{self.index}-of-{self.count}.lock"

    def of(self, job: PeVideoSplit) -> PeVideoSplit:
        """The job with this slice's parts alone."""
        return replace(job, parts=job.parts[self.index - 1 :: self.count])


def prepare_slice(jobs: list[PeVideoSplit], slice: Slice, count_tokens: CountTokens, workers: int) -> None:
    """Work off a slice's parts; outputs are not written.

    Raises:
        UserError: the slice, the whole, or a slice of another number of slices is being prepared.
    """
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(only_one(job.states, f"slice {slice.index} of {job.output}", slice.lock))
            refuse_held(job, LOCK)
            refuse_held(job, ".slice-*.lock", besides=f"-of-{slice.count}.lock")
        run_parts([slice.of(job) for job in jobs], count_tokens, workers)


def join(jobs: list[PeVideoSplit]) -> list[dict]:
    """Write the outputs of splits whose parts are all finished; returns their reports.

    Raises:
        UserError: some are not, or are being worked off.
    """
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(only_one(job.states, str(job.output)))
            refuse_held(job, ".slice-*.lock")
            if missing := len(job.parts) - len(finished_parts(job)):
                raise UserError(
                    f"{missing} of {len(job.parts)} parts of {job.output} are not finished: give the --part commands "
                    "that were stopped once more (or the command without --part, which does the rest), then --join"
                )
        return [finish(job) for job in jobs]
