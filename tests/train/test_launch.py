"""scripts/sft.sh: how many processes it starts where, and that signals and exit codes pass through torchrun."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from swwatch.errors import UserError
from swwatch.train import launch
from swwatch.train.distributed import free_port
from swwatch.train.settings import ROOT

VARIABLES = (
    "NPROC_PER_NODE",
    "NNODES",
    "WORLD_SIZE",
    "NODE_RANK",
    "SLURM_NODEID",
    "RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


@pytest.fixture
def env(monkeypatch):
    """env(NAME=value, ...) sets these of the launcher's variables and removes the others."""

    def build(**values):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return build


@pytest.mark.parametrize("gpus, override, want", [(0, None, 1), (4, None, 4), (4, 2, 2), (0, 3, 3)])
def test_a_process_for_each_gpu_unless_told_otherwise(env, monkeypatch, gpus, override, want):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    env(**({"NPROC_PER_NODE": override} if override else {}))
    assert launch.processes_per_node() == want


def test_one_node_meets_by_itself_and_several_where_the_variables_say(env):
    env()
    assert launch.num_nodes() == 1 and launch.rendezvous(1)[:2] == [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    env(MASTER_PORT=29511)
    assert launch.rendezvous(1) == ["--master-addr=127.0.0.1", "--master-port=29511"]
    env(NNODES=2, WORLD_SIZE=16, NODE_RANK=1, RANK=9, MASTER_ADDR="node-a")
    assert launch.num_nodes() == 2
    wanted = ["--nnodes=2", "--node-rank=1", "--master-addr=node-a", "--master-port=29500"]
    assert launch.rendezvous(2) == wanted
    env(NNODES=2, SLURM_NODEID=1, MASTER_ADDR="node-a")
    assert launch.rendezvous(2) == wanted
    env(WORLD_SIZE=2, RANK=1, MASTER_ADDR="node-a", MASTER_PORT=29500)  # batch systems that count nodes so
    assert launch.num_nodes() == 2 and launch.rendezvous(2) == wanted


@pytest.mark.parametrize(
    "values, named",
    [
        ({"NNODES": 2, "NODE_RANK": 0}, "MASTER_ADDR=None"),
        ({"NNODES": 2, "MASTER_ADDR": "a"}, "NODE_RANK=None"),
        ({"NNODES": 2, "MASTER_ADDR": "a", "NODE_RANK": 2}, "0 to 1"),
        ({"NNODES": "two"}, "NNODES=two"),
        ({"NPROC_PER_NODE": 0}, "NPROC_PER_NODE=0"),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(env, values, named):
    env(**values)
    with pytest.raises(UserError, match=named):
        launch.processes_per_node()
        launch.rendezvous(launch.num_nodes())


WORKER = """
import os, signal, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
def stop(*_):
    time.sleep(0.5)
    (folder / f"saved-{rank}").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
(folder / f"ready-{rank}").touch()
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
time.sleep(120)
"""
LAUNCHER = "import sys; from swwatch.train.launch import launch; sys.exit(launch(sys.argv[1:]))"


def start(tmp_path, *arguments, nodes=1, processes=2) -> subprocess.Popen:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-c", LAUNCHER, *launch.rendezvous(nodes), f"--nproc-per-node={processes}"]
    command += [tmp_path / "worker.py", tmp_path]
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES} | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*map(str, command), *arguments], env=env | {"OMP_NUM_THREADS": "1"})


def wait_for(*paths):
    while not all(path.exists() for path in paths):
        time.sleep(0.05)


def test_sigterm_reaches_every_process_and_the_launcher_waits_for_them(tmp_path):
    launched = start(tmp_path)
    wait_for(tmp_path / "ready-0", tmp_path / "ready-1")
    launched.send_signal(signal.SIGTERM)
    assert launched.wait(timeout=100) == 75
    assert (tmp_path / "saved-0").exists() and (tmp_path / "saved-1").exists()


def test_the_exit_code_is_that_of_the_training_and_runs_beside_one_another_do_not_meet(tmp_path):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # then somebody else has it, which is as well
            taken.bind(("127.0.0.1", 29500))
            taken.listen()
        launched = [start(tmp_path, code) for code in ("2", "0")]
        assert [one.wait(timeout=100) for one in launched] == [2, 0]


@pytest.mark.slow
def test_two_nodes_meet_and_end_together(env, tmp_path):
    port, launched = free_port(), []
    for node in (0, 1):
        env(NNODES=2, NODE_RANK=node, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        launched.append(start(tmp_path, "0", nodes=2, processes=1))
    assert [process.wait(timeout=100) for process in launched] == [0, 0]
    assert (tmp_path / "ready-0").exists() and (tmp_path / "ready-1").exists()


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
