"""Start a command once for each GPU, on this node or on several: what scripts/sft.sh and eval.sh run.

    python -m swwatch.launch.torchrun MODULE [options of the command]

The module has `several(argv) -> bool`, which tells mistakes in the options and whether more than one process is of
use, and `main(argv) -> exit code`. docs/training.md lists the variables. It differs from the torchrun command in two
things: the exit code is that of the program (2 a mistake, 75 stopped by a signal and ready to continue, 128 + n killed
by signal n), and SIGTERM waits for the program to save its work instead of killing it after 30 seconds.
"""

import importlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping

from swwatch.errors import UserError, run
from swwatch.launch.place import DEFAULT_PORT, place_of
from swwatch.launch.signals import PREEMPTED, STOP_SIGNALS
from swwatch.launch.worker import leave

MISTAKE = 2


def main(argv: list[str]) -> int:
    """Run the program, alone in this process or in several under torchrun.

    Args:
        argv: module of the program, then its options.
    Raises:
        UserError: an option or a variable is wrong.
    """
    module, *options = argv
    program = importlib.import_module(module)
    several = program.several(options)
    if not several or (shape := nodes_and_processes(os.environ)) is None:
        return program.main(options)
    nodes, processes = shape
    if nodes * processes == 1:  # no torchrun: signals and exit code are the program's own
        for name in ("WORLD_SIZE", "RANK"):
            os.environ.pop(name, None)
        return program.main(options)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    with tempfile.TemporaryDirectory(prefix="swwatch-launch-") as logs:
        where = [*meeting(nodes, os.environ), f"--nproc-per-node={processes}", f"--log-dir={logs}"]
        return launch([*where, "-m", "swwatch.launch.worker", str(os.getpid()), module, *options])


def nodes_and_processes(env: Mapping[str, str]) -> tuple[int, int] | None:
    """How many nodes, and processes on each: as the variables say, else one node and a process for each GPU.

    Returns:
        None where this process is one of several already: inside torchrun, or a Slurm step of several tasks.
    Raises:
        UserError: a variable is no number of 1 or more.
    """
    nodes = number(env, "NNODES") or number(env, "WORLD_SIZE")  # by the latter several batch systems mean nodes
    processes = number(env, "NPROC_PER_NODE")
    if "LOCAL_RANK" in env or (nodes is None and processes is None and place_of(env).size > 1):
        return None
    if processes is None:
        import torch

        processes = max(1, torch.cuda.device_count())
    return nodes or 1, processes


def meeting(nodes: int, env: Mapping[str, str]) -> list[str]:
    """torchrun's arguments for where the nodes meet.

    Raises:
        UserError: several nodes, and a variable is missing or wrong.
    """
    port = number(env, "MASTER_PORT")
    if nodes == 1:  # what torchrun makes of --standalone: a free port, so that runs beside one another do not meet
        own = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid.uuid4()}"]
        return ["--master-addr=127.0.0.1", f"--master-port={port}"] if port else own
    address = env.get("MASTER_ADDR")
    rank = next((env[name] for name in ("NODE_RANK", "SLURM_NODEID", "RANK") if env.get(name)), None)
    if not address or rank is None or not rank.isdecimal() or int(rank) >= nodes:
        raise UserError(
            f"{nodes} nodes need MASTER_ADDR (host of the first) and NODE_RANK (0 to {nodes - 1}) on each node; "
            f"found MASTER_ADDR={address}, NODE_RANK={rank}"
        )
    place = [f"--nnodes={nodes}", f"--node-rank={rank}"]
    return [*place, f"--master-addr={address}", f"--master-port={port or DEFAULT_PORT}"]


def launch(arguments: list[str]) -> int:
    """Run torchrun in this process.

    Returns:
        0, or the exit code of the process that failed first; 128 + n where signal n killed it.
    """
    import psutil
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    def pass_on(number: int, frame) -> None:
        for child in psutil.Process().children():
            child.send_signal(number)

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the program tells its errors itself
    config, command, command_args = config_from_args(parse_args(arguments))
    # torchrun would kill what has not ended 30 s after SIGTERM; a large checkpoint takes longer
    config.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"
    for stop_signal in STOP_SIGNALS:
        signal.signal(stop_signal, pass_on)
    try:
        elastic_launch(config, command)(*command_args)
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        if code not in (MISTAKE, PREEMPTED):
            how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else "has failed"
            print(
                f"process {rank} {how} (exit code {failure.exitcode}); the same command continues, "
                "what is finished is kept",
                file=sys.stderr,
            )
        return code
    return 0


def number(env: Mapping[str, str], variable: str) -> int | None:
    """The value of a variable; None where it is not set.

    Raises:
        UserError: it is no whole number of 1 or more.
    """
    text = env.get(variable)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{variable}={text} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    leave(run(main, sys.argv[1:]))
