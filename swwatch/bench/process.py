"""This process: memory in use, on its GPU where it uses one, and CPU time of all that it started."""

import contextlib
import os
import time
from pathlib import Path

import psutil
import torch


def memory_now(cuda: bool) -> int | None:
    """Bytes in use; None where that cannot be found out."""
    return torch.cuda.memory_allocated() if cuda else _status("VmRSS")


def memory_peak(cuda: bool) -> int | None:
    """Bytes in use at most since `forget_peak`; None where that cannot be found out."""
    return torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")


def forget_peak(cuda: bool) -> None:
    """What came before, loading for example, may have needed more than what is measured now."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int | None:
    """A size of this process in bytes, from Linux; None elsewhere.

    Not resource.getrusage: its ru_maxrss begins with what the parent had when it started this process.
    """
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def cpu_seconds() -> float:
    """CPU time so far, of all threads of this process and of the processes that it started."""
    ended, alive = os.times(), 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            used = child.cpu_times()
            alive += used.user + used.system
    return time.process_time() + ended.children_user + ended.children_system + alive
