"""Was the machine quiet enough to believe the figures? One rule for all benchmarks, stated with the verdict."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from swwatch.bench.process import cpu_seconds
from swwatch.bench.settings import BenchSettings

FOREIGN_BYTES = 1e9  # of a GPU's memory


class Neighbours:
    """What else the machine does: how much of this process's cores others use, from Linux's own books.

    Attributes:
        load: average number of processes that wanted to run in the minute before the start, when nothing of ours did.
        gpu_bytes: memory of the GPU that others held at the start; None without one.
    """

    def __init__(self, cuda: bool):
        self.load, self.cores = os.getloadavg()[0], sorted(os.sched_getaffinity(0))
        self.gpu_bytes = None
        if cuda:
            free, total = torch.cuda.mem_get_info()
            self.gpu_bytes = total - free - torch.cuda.memory_reserved()
        self._start = self._now()

    def _now(self) -> tuple[float, float, float] | None:
        """(time, seconds that the cores were busy, seconds that this process and its children were)."""
        path = Path("/proc/stat")
        if not path.exists():
            return None
        lines = {line.split()[0]: line.split()[1:] for line in path.read_text().splitlines() if line.startswith("cpu")}
        tick, busy = os.sysconf("SC_CLK_TCK"), 0.0
        for core in self.cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, lines.get(f"cpu{core}", ["0"] * 8))
            busy += (user + nice + system + irq + softirq + steal) / tick
        return time.perf_counter(), busy, cpu_seconds()

    def share(self) -> float | None:
        """Share of the cores that others used since the start; None where there are no such books."""
        now = self._now()
        if now is None or self._start is None or now[0] == self._start[0]:
            return None
        elapsed, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, busy - own) / elapsed / len(self.cores)

    def seen(self) -> dict:
        """So far, as `verdict` takes it."""
        return {"load": self.load, "cores": len(self.cores), "others": self.share(), "gpu_bytes": self.gpu_bytes}


def rule(settings: BenchSettings) -> str:
    """The rule of `verdict` in words."""
    return (
        f"trusted when the load average before the start is at most {settings.max_load:g} for each core, other "
        f"programs use at most {settings.max_others:.0%} of the cores meanwhile, and {settings.steadiness}"
    )


def verdict(
    settings: BenchSettings,
    *,
    load: float,
    cores: int,
    others: float | None,
    gpu_bytes: float | None = None,
    spreads: Sequence[tuple[str, float | None]] = (),
    doubts: Sequence[str] = (),
) -> dict:
    """Judge a run.

    Args:
        load: load average before the start; others: share of the cores that other programs used, None if not known.
        gpu_bytes: memory of the GPU that others held.
        spreads: of the step times of what was measured, None if not known; held against `settings.max_spread`.
        doubts: what else a benchmark has against its own figures.
    Returns:
        trusted, reasons (what speaks against it), rule, and the numbers judged.
    """
    reasons = []
    if load > settings.max_load * cores:
        reasons.append(f"load average {load:.2f} on {cores} cores before the start")
    if others is not None and others > settings.max_others:
        reasons.append(f"other programs used {others:.0%} of the cores meanwhile")
    if gpu_bytes is not None and gpu_bytes > FOREIGN_BYTES:
        reasons.append(f"other programs held {gpu_bytes / 1e9:.1f} GB of the GPU's memory at the start")
    for name, value in spreads:
        if value is not None and value > settings.max_spread:
            reasons.append(f"step times of {name} spread by {value:.0%}")
    reasons += doubts
    numbers = {"load_before": load, "others": others, "gpu_bytes_of_others": gpu_bytes}
    return {"trusted": not reasons, "reasons": reasons, "rule": rule(settings), **numbers}
