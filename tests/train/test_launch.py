"""scripts/sft.sh starts as many processes as it is told to, and a mistake is told once."""

import os
import subprocess
import sys

from swwatch.paths import ROOT
from tests.launch.test_torchrun import VARIABLES


def test_sft_sh_starts_as_many_processes_as_asked_for_and_tells_a_mistake_once(flags):
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    env |= {
        "SWWATCH_PYTHON": sys.executable,
        "NPROC_PER_NODE": "2",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/sft.sh"), *flags(accumulation=3)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error:") == 1 and "accumulation 3" in done.stderr and "2 or 4" in done.stderr
    assert "Traceback" not in done.stderr
