"""What this machine decides: numbers that a run computes in, attention, loader workers."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from swwatch.errors import UserError
from swwatch.model.attention import choose_attention
from swwatch.model.checks import saved_settings
from swwatch.model.dtype import bf16_units, dtype_of
from swwatch.model.settings import Settings
from swwatch.train import distributed
from swwatch.train.parallelism import Parallelism, share
from swwatch.train.settings import TrainSettings

MOST_WORKERS = 8  # by default


def settle(settings: TrainSettings) -> TrainSettings:
    """Fill what depends on the machine: attention, workers, and what precision `auto` is.

    Args:
        settings: from `settings.complete`.
    Raises:
        UserError: the machine cannot compute what is asked for, or the processes cannot share a step.
    """
    share(settings.accumulation, settings.batch_size)
    cuda = torch.cuda.is_available()
    if settings.precision == "auto":
        dtype = dtype_of("auto", "cuda" if cuda else "cpu")
        settings = replace(settings, precision=str(dtype).removeprefix("torch."))
    if settings.precision == "bfloat16" and not has_bf16():
        raise UserError("precision bfloat16: this machine does not multiply in it: use --precision float32")
    if settings.precision == "bfloat16" and not cuda and settings.parallel != "ddp":
        raise UserError(f"precision bfloat16 on a CPU goes with parallel ddp, not {settings.parallel}: leave one out")
    if settings.tf32 and not (cuda and torch.cuda.get_device_capability()[0] >= 8):
        raise UserError("tf32 needs a CUDA device of compute capability 8 or more: leave it off")
    if settings.attention == "flex" and not cuda:
        raise UserError("FlexAttention has no backward pass on a CPU: use --attention sdpa")
    attention = attention_for(settings)[0] if settings.attention == "auto" else settings.attention
    workers = settings.num_workers
    if workers is None:
        cores = (os.cpu_count() or 1) // distributed.processes_per_node()
        # clips that stay encoded in memory are each worker's own, and a CPU of one core has nobody to spare
        alone = not cuda and (cores < 2 or settings.cache_frames_gb > 0)
        workers = 0 if alone else max(1, min(MOST_WORKERS, cores))
    return replace(settings, attention=attention, num_workers=workers)


def attention_for(settings: TrainSettings) -> tuple[str, str]:
    """The attention backend that `auto` means, and why."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if bf16(settings) else torch.float32
    saved = saved_settings(settings.model_path) if Path(settings.model_path).is_dir() else {}
    carried = Settings.resolve(saved, **settings.overrides(saved)).carriers is not None
    return choose_attention(settings.variant, device, dtype, carried=carried)


def why_attention(settings: TrainSettings) -> str:
    chosen, reason = attention_for(settings)
    return reason if chosen == settings.attention else "as asked for"


def has_bf16() -> bool:
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else bool(bf16_units())


def bf16(settings: TrainSettings) -> bool:
    """Whether products are computed in bfloat16."""
    return settings.precision == "bfloat16" or (
        settings.precision is None and torch.cuda.is_available() and has_bf16()
    )


def base_dtype(settings: TrainSettings, parallelism: Parallelism) -> torch.dtype:
    """What weights are loaded in. A base model that stays frozen under adapters needs no float32.

    FSDP2 shards weights of one precision only.
    """
    frozen = settings.adapter != "none" and parallelism.name != "fsdp2"
    return torch.bfloat16 if frozen and bf16(settings) else torch.float32


def precision_text(settings: TrainSettings, parallelism: Parallelism) -> str:
    """For the banner."""
    if not bf16(settings):
        return "float32 (products in tf32)" if settings.tf32 else "float32"
    if base_dtype(settings, parallelism) is torch.bfloat16:
        return f"bfloat16 over a {'4-bit' if settings.adapter == 'qlora' else 'bfloat16'} base, float32 adapters"
    return parallelism.precision()
