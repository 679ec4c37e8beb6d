"""Start the evaluation on all GPUs of this machine, one process each: what `bash eval.sh` runs.

Variables: NPROC_PER_NODE (default: the number of GPUs, 1 without any), NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT.
Inside torchrun or a Slurm step of several tasks this process is one of the ranks and starts no others.
"""

import logging
import os
import sys
from collections.abc import Mapping

import torch

from swwatch.errors import UserError, run
from swwatch.evaluate.caption.settings import read_settings
from swwatch.evaluate.ranks import place_of


def main(argv: list[str]) -> int:
    _, _, score_only = read_settings(argv)  # a mistake is told here, once
    options = torchrun_options(os.environ)
    if score_only or options is None:
        from swwatch.evaluate.caption import command  # with all of transformers behind it

        return command.main(argv)
    return torchrun([*options, "-m", "swwatch.cli", "eval", *argv])


def torchrun_options(env: Mapping[str, str]) -> list[str] | None:
    """What to tell torchrun; None where this process shall do the work itself, alone or as a rank.

    Raises:
        UserError: a variable that is no number from 1 on, or several nodes that do not know where to meet.
    """
    wanted = any(env.get(name) for name in ("NPROC_PER_NODE", "NNODES"))
    if "RANK" in env or (not wanted and place_of(env).size > 1):
        return None
    num_processes = _number(env, "NPROC_PER_NODE", max(1, torch.cuda.device_count()), least=1)
    num_nodes = _number(env, "NNODES", 1, least=1)
    if num_processes * num_nodes == 1:
        return None
    options = [f"--nproc-per-node={num_processes}", f"--nnodes={num_nodes}", "--max-restarts=0"]
    if num_nodes == 1:
        return [*options, "--standalone"]  # finds a free port
    lacking = [name for name in ("MASTER_ADDR",) if not env.get(name)]
    if not (env.get("NODE_RANK") or env.get("SLURM_NODEID")):
        lacking.append("NODE_RANK")
    if lacking:
        raise UserError(
            f"NNODES={num_nodes} needs {' and '.join(lacking)}: the name of the first node, the same everywhere, "
            "and this node's number from 0 on"
        )
    node_rank = _number(env, "NODE_RANK", int(env.get("SLURM_NODEID") or 0), least=0)
    port = _number(env, "MASTER_PORT", 29500, least=1)
    return [*options, f"--node-rank={node_rank}", f"--master-addr={env['MASTER_ADDR']}", f"--master-port={port}"]


def torchrun(args: list[str]) -> int:
    """Run torchrun in this process; its exit code is that of the first rank that failed."""
    from torch.distributed import run as program
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the ranks tell what is wrong
    num_processes = int(args[0].partition("=")[2])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // num_processes)))
    try:
        program.main(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0 or failure.exitcode not in (1, 2):
            print(f"rank {rank} was ended by {failure.signal_name()} (exit code {failure.exitcode})", file=sys.stderr)
        print("the evaluation stopped; give the same command again, finished clips are kept", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


def _number(env: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name}={text}: a whole number from {least} on is wanted")
    return int(text)


if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
