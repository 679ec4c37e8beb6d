"""scripts/sft.sh: how many processes it starts where, and that signals and exit codes pass through torchrun."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import types

import psutil
import pytest

from swwatch.errors import UserError
from swwatch.launch import torchrun
from swwatch.paths import ROOT
from swwatch.train.distributed import free_port

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


SLURM_STEP = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    "env, shape",
    [
        ({"NPROC_PER_NODE": "1"}, (1, 1)),
        ({"NPROC_PER_NODE": "3"}, (1, 3)),
        ({"NNODES": "2", "NPROC_PER_NODE": "4"}, (2, 4)),
        ({"NNODES": "2", "NPROC_PER_NODE": "4", "SLURM_NODEID": "0", **SLURM_STEP}, (2, 4)),
        ({"WORLD_SIZE": "2", "RANK": "1", "NPROC_PER_NODE": "4"}, (2, 4)),  # batch systems that count nodes so
        ({"NNODES": "2", "WORLD_SIZE": "16", "RANK": "9", "NPROC_PER_NODE": "8"}, (2, 8)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "NPROC_PER_NODE": "2"}, None),  # inside torchrun
        (SLURM_STEP, None),  # inside srun
    ],
)
def test_processes_are_started_as_the_variables_say(env, shape):
    assert torchrun.nodes_and_processes(env) == shape


@pytest.mark.parametrize("gpus, override, want", [(0, None, 1), (4, None, 4), (4, 2, 2), (0, 3, 3)])
def test_a_process_for_each_gpu_unless_told_otherwise(monkeypatch, gpus, override, want):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    env = {"NPROC_PER_NODE": str(override)} if override else {}
    assert torchrun.nodes_and_processes(env) == (1, want)


def test_one_node_meets_by_itself_and_several_where_the_variables_say():
    assert torchrun.meeting(1, {})[:2] == ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    assert torchrun.meeting(1, {"MASTER_PORT": "29511"}) == ["--master-addr=127.0.0.1", "--master-port=29511"]
    wanted = ["--nnodes=2", "--node-rank=1", "--master-addr=node-a", "--master-port=29500"]
    address = {"MASTER_ADDR": "node-a"}
    assert torchrun.meeting(2, address | {"NODE_RANK": "1", "RANK": "9"}) == wanted
    assert torchrun.meeting(2, address | {"SLURM_NODEID": "1"}) == wanted
    assert torchrun.meeting(2, address | {"RANK": "1"}) == wanted
    assert torchrun.meeting(2, address | {"NODE_RANK": "0", "MASTER_PORT": "4444"})[-1] == "--master-port=4444"


@pytest.mark.parametrize(
    "env, named",
    [
        ({"NNODES": "2", "NODE_RANK": "0"}, "MASTER_ADDR=None"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NODE_RANK=None"),
        ({"NNODES": "2", "MASTER_ADDR": "a", "NODE_RANK": "2"}, "0 to 1"),
        ({"NNODES": "2", "MASTER_ADDR": "a", "NODE_RANK": "-1"}, "NODE_RANK=-1"),
        ({"NNODES": "two"}, "NNODES=two"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE=0"),
        ({"NNODES": "2", "MASTER_ADDR": "a", "NODE_RANK": "0", "MASTER_PORT": "http"}, "MASTER_PORT=http"),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(env, named):
    with pytest.raises(UserError, match=named):
        nodes, _ = torchrun.nodes_and_processes(env)
        torchrun.meeting(nodes, env)


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
LAUNCHER = "import sys; from swwatch.launch.torchrun import launch; sys.exit(launch(sys.argv[1:]))"


def start(tmp_path, *arguments, nodes=1, processes=2, where=types.MappingProxyType({})) -> subprocess.Popen:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-c", LAUNCHER, *torchrun.meeting(nodes, where), f"--nproc-per-node={processes}"]
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


SLEEPER = """
import os, time
from pathlib import Path
def several(options):
    return True
def main(options):
    Path(options[0], f"{os.getpid()}.pid").touch()
    time.sleep(300)
"""


def test_a_launcher_that_is_killed_outright_leaves_nobody_behind(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    env = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    env |= {"PYTHONPATH": f"{ROOT}:{tmp_path}", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen([sys.executable, "-m", "swwatch.launch.torchrun", "sleeper", str(tmp_path)], env=env)
    while len(pids := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
        assert launched.poll() is None
        time.sleep(0.05)
    launched.kill()
    launched.wait()
    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, pids)):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def test_a_worker_whose_launcher_died_before_it_began_ends_at_once():
    code = "from swwatch.launch.signals import die_with_parent; die_with_parent(1); print('here')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")


@pytest.mark.slow
def test_two_nodes_meet_and_end_together(tmp_path):
    port, launched = free_port(), []
    for node in (0, 1):
        where = {"NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        launched.append(start(tmp_path, "0", nodes=2, processes=1, where=where))
    assert [process.wait(timeout=100) for process in launched] == [0, 0]
    assert (tmp_path / "ready-0").exists() and (tmp_path / "ready-1").exists()
