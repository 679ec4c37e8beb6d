"""Which process this is among those that share a command: read from the variables of torchrun or Slurm."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from swwatch.errors import UserError

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class ProcessRank:
    """Which process this is.

    Attributes:
        rank: from 0 over all nodes; size: how many there are; local_rank: from 0 on this node.
        address, port: where the store is.
        hosts_store: rank 0 keeps the store itself (under torchrun its agent does).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    hosts_store: bool = False


def place_of(env: Mapping[str, str]) -> ProcessRank:
    """Read the place from torchrun's variables (RANK, WORLD_SIZE, ...), else from those of a Slurm step.

    Raises:
        UserError: several nodes without MASTER_ADDR, or a variable that is no number.
    """
    try:
        if "RANK" in env and "WORLD_SIZE" in env:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        elif int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        else:
            return ProcessRank()
        rank, size, local = (int(env.get(name, "0")) for name in names)
        port = int(env.get("MASTER_PORT") or 20_000 + int(env.get("SLURM_JOB_ID", "9500")) % 20_000)
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE, LOCAL_RANK and MASTER_PORT must be whole numbers: {error}") from error
    if not 0 <= rank < size:
        raise UserError(f"RANK {rank} is not among the {size} of WORLD_SIZE")
    address = env.get("MASTER_ADDR") or "127.0.0.1"
    if not env.get("MASTER_ADDR") and int(env.get("SLURM_STEP_NUM_NODES", "1")) > 1:
        raise UserError(
            "several nodes need the name of the first: "
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        )
    agent = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return ProcessRank(rank, size, local, address, port, hosts_store=rank == 0 and not agent)


def in_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ
