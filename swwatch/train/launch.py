"""What `bash scripts/sft.sh` runs: `swwatch train` once for each GPU, on this node or on several, under torchrun.

It differs from the torchrun command in two things: the exit code is that of the training (2 a mistake, 75 stopped by a
signal and ready to continue), and SIGTERM waits for the checkpoint instead of killing after 30 seconds.
"""

import logging
import os
import signal
import sys
import tempfile
import uuid

import psutil
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from swwatch.errors import UserError, run
from swwatch.train.distributed import STOP_SIGNALS

PROGRAM = ("-m", "swwatch.train.worker")


def main(argv: list[str]) -> int:
    if any(flag in ("-h", "--help") for flag in argv):
        os.execv(sys.executable, [sys.executable, *PROGRAM, "--help"])
    processes, nodes = processes_per_node(), num_nodes()
    if processes * nodes == 1:  # no torchrun: signals and exit code are the program's own
        for name in ("WORLD_SIZE", "RANK"):
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, *PROGRAM, *argv])
    with tempfile.TemporaryDirectory(prefix="swwatch-launch-") as logs:
        return launch([*rendezvous(nodes), f"--nproc-per-node={processes}", f"--log-dir={logs}", *PROGRAM, *argv])


def processes_per_node() -> int:
    """NPROC_PER_NODE, else the number of visible GPUs, else 1."""
    return _number("NPROC_PER_NODE") or max(1, torch.cuda.device_count())


def num_nodes() -> int:
    """NNODES, else WORLD_SIZE, by which several batch systems mean nodes, else 1."""
    return _number("NNODES") or _number("WORLD_SIZE") or 1


def rendezvous(nodes: int) -> list[str]:
    """torchrun's arguments for where the nodes meet.

    Raises:
        UserError: several nodes, and a variable is missing.
    """
    port = os.environ.get("MASTER_PORT")
    if nodes == 1:  # what torchrun makes of --standalone: a free port, so that runs beside one another do not meet
        own = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid.uuid4()}"]
        return ["--master-addr=127.0.0.1", f"--master-port={port}"] if port else own
    address = os.environ.get("MASTER_ADDR")
    rank = next((os.environ[name] for name in ("NODE_RANK", "SLURM_NODEID", "RANK") if os.environ.get(name)), None)
    if not address or rank is None or not rank.isdigit() or int(rank) >= nodes:
        raise UserError(
            f"{nodes} nodes need MASTER_ADDR (host of the first) and NODE_RANK (0 to {nodes - 1}) on each node; "
            f"found MASTER_ADDR={address}, NODE_RANK={rank}"
        )
    return [f"--nnodes={nodes}", f"--node-rank={rank}", f"--master-addr={address}", f"--master-port={port or 29500}"]


def launch(arguments: list[str]) -> int:
    """Run torchrun in this process.

    Returns:
        0, or the exit code of the process that failed first; 128 + n where signal n killed it.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the program tells its errors itself
    args = parse_args(arguments)
    config, command, command_args = config_from_args(args)
    # torchrun would kill what has not ended 30 s after SIGTERM; a large checkpoint takes longer
    config.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"
    for number in STOP_SIGNALS:
        signal.signal(number, _pass_on)
    try:
        elastic_launch(config, command)(*command_args)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code >= 0 else 128 - code
    return 0


def _pass_on(number: int, frame) -> None:
    for child in psutil.Process().children():
        child.send_signal(number)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable}={text} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
