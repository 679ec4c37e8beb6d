"""Where something was measured: commit, hardware, libraries, load."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from swwatch.paths import CODE, IS_INSTALLED


def machine() -> dict:
    """JSON values that a measured figure must carry, as far as they can be found out here."""
    import torch

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "clocks": clocks(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def commit() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it; None outside a git checkout."""
    if IS_INSTALLED:
        return None
    try:
        git = ["git", "-C", str(CODE)]
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def clocks() -> list[str]:
    """How fast each GPU, or without one the CPU, runs just now; nothing where that cannot be found out."""
    fields = "--query-gpu=name,clocks.sm,clocks.max.sm,power.draw"
    if smi := shutil.which("nvidia-smi"):
        answer = subprocess.run([smi, fields, "--format=csv,noheader"], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip():
            return [f"{line} (name, clock, highest clock, power)" for line in answer.stdout.strip().splitlines()]
    speeds = [float(value) for value in _cpuinfo("cpu MHz")]
    return [f"CPU {min(speeds):.0f} to {max(speeds):.0f} MHz"] if speeds else []


def _cpu() -> str:
    return next(iter(_cpuinfo("model name")), platform.machine())


def _cpuinfo(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
