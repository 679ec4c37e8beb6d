"""Who holds which part of the model: plain DDP, DeepSpeed's ZeRO stages, or FSDP2. Asked for by `parallel`."""

import json
import os
from dataclasses import dataclass

import torch
from torch import nn

from swwatch.errors import UserError
from swwatch.train import distributed, upstream
from swwatch.train.deepspeed_files import deepspeed_settings


@dataclass(frozen=True)
class Parallelism:
    """One way to train with several processes.

    Attributes:
        name: as asked for.
        deepspeed: content of the DeepSpeed file; None without DeepSpeed.
    """

    name: str
    deepspeed: dict | None = None

    @classmethod
    def of(cls, parallel: str) -> "Parallelism":
        """The engine of a name or of a path to a DeepSpeed JSON, see `deepspeed_settings`."""
        return cls(parallel, deepspeed_settings(parallel))

    @property
    def stage(self) -> int:
        """ZeRO's stage; 0 without DeepSpeed."""
        return int(self.deepspeed["zero_optimization"]["stage"]) if self.deepspeed else 0

    @property
    def needs_group(self) -> bool:
        """Whether even a single process must be a process group."""
        return self.name != "ddp"

    def device(self) -> str | None:
        """Where the model is loaded to: an engine that shards it takes it from the CPU. None: the default."""
        if self.stage == 3 or self.name == "fsdp2":
            return "cpu"
        return f"cuda:{distributed.local_rank()}" if torch.cuda.is_available() else None

    def precision(self) -> str:
        """What bfloat16 means here."""
        if self.deepspeed is not None:
            return "bfloat16 weights, float32 copies in the optimizer"
        return "bfloat16 autocast over float32 weights" if self.name == "ddp" else "bfloat16 over float32 shards"

    def fixed(self) -> dict:
        """What a continued run must share. ddp may continue with another number of processes: state is not sharded."""
        return {"parallel": self.name, "processes": distributed.num_processes()} if self.needs_group else {}

    def arguments(self) -> dict:
        """transformers' TrainingArguments for this engine. Call it when the process group stands."""
        if self.needs_group:
            distributed.meet()
        values = {"ddp_find_unused_parameters": False, "average_tokens_across_devices": True}
        if self.deepspeed is not None:
            values["deepspeed"] = json.loads(json.dumps(self.deepspeed))  # transformers writes into it
        elif self.name == "fsdp2":
            values |= {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}
        if not torch.cuda.is_available():
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")  # else "cpu:0", which torch.load refuses
            if self.deepspeed is not None:
                values["deepspeed"]["zero_optimization"]["overlap_comm"] = False
            values |= upstream.shard_on_cpu(self.name == "fsdp2") if self.needs_group else {"use_cpu": True}
        return values

    def check(self, wrapped: nn.Module) -> str:
        """See that the engine which was asked for has the model; libraries have been known to leave it out silently.

        Args:
            wrapped: the model as it will be trained.
        Returns:
            What it is, for the log.
        Raises:
            UserError: it is something else.
        """
        found, wanted = describe(wrapped), self._wanted()
        if found != wanted:
            raise UserError(
                f"parallel {self.name} was asked for and should give {wanted}, but the model is {found}: "
                "check the versions of accelerate, deepspeed and torch against requirements.lock"
            )
        return found

    def _wanted(self) -> str:
        if self.deepspeed is not None:
            return f"DeepSpeedEngine with ZeRO stage {self.stage}"
        if self.name == "fsdp2":
            return "FSDPModule"
        return "DistributedDataParallel" if torch.distributed.is_initialized() else "unwrapped"


def describe(wrapped: nn.Module) -> str:
    """Which engine has a model."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(wrapped, nn.parallel.DistributedDataParallel):
        return "DistributedDataParallel"
    if isinstance(wrapped, FSDPModule):
        return "FSDPModule"
    if type(wrapped).__name__ == "DeepSpeedEngine":
        return f"DeepSpeedEngine with ZeRO stage {wrapped.zero_optimization_stage()}"
    return "unwrapped"


def share(accumulation: int, batch_size: int) -> int:
    """Forwards of each process per optimizer step.

    Args:
        accumulation: forwards per optimizer step of all processes together.
    Raises:
        UserError: it cannot be shared evenly.
    """
    count = distributed.num_processes()
    if accumulation % count:
        below, above = accumulation // count * count, -(-accumulation // count) * count
        nearest = " or ".join(str(n) for n in (below, above) if n)
        raise UserError(
            f"accumulation {accumulation} (forwards of {batch_size} per optimizer step, all processes together) "
            f"cannot be shared among {count} processes: use accumulation {nearest}, or another number of processes"
        )
    return accumulation // count
