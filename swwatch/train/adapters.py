"""What an adapter run trains: LoRA or DoRA layers (by default on the LLM), and the merger in full unless frozen."""

import importlib.util
import re
from pathlib import Path

import torch
from peft import LoraConfig
from torch import nn
from transformers import BitsAndBytesConfig

from swwatch.errors import UserError
from swwatch.model.adapters import Adapted, attach
from swwatch.train.settings import TrainSettings

LLM, TOWER = "model.language_model", "model.visual"
UNQUANTISED = (TOWER, "lm_head")  # QLoRA holds the LLM's layers in 4 bits


def adapt(model: nn.Module, settings: TrainSettings, begin: Path | None) -> Adapted:
    """Freeze a model and put adapters on it, in place: new ones, or those of a checkpoint.

    What learns is float32, whatever the base is held in. New adapters add nothing: their second factor is zero.

    Args:
        begin: checkpoint to continue from.
    Raises:
        UserError: lora_targets match no layer, or the checkpoint's adapter is not one for this model.
    """
    model.requires_grad_(False)
    if begin is not None:
        adapted = attach(model, begin, trainable=True)
    else:
        own = [] if model.decision_head is None else ["decision_head"]
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets(model, settings.lora_targets),
            use_dora=settings.adapter == "dora",
            modules_to_save=[*(model.mergers if settings.train_merger else ()), *own] or None,
        )
        with torch.random.fork_rng(devices=[]):  # the same adapters whatever was drawn before
            torch.manual_seed(settings.seed)
            adapted = Adapted(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def targets(model: nn.Module, patterns: list[str] | None) -> list[str]:
    """Names of the linear layers that get an adapter.

    Args:
        patterns: regular expressions for the end of a name, from a dot on: q_proj, layers.[0-3].mlp.up_proj. Layers of
            the vision tower, some of which have names of the LLM's, are meant only by one that says so:
            visual.blocks.*. None: the LLM's layers.
    Raises:
        UserError: a pattern matches no linear layer.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    names = [name for name in names if name != "decision_head"]  # which learns in full
    if patterns is None:
        return [name for name in names if name.startswith(f"{LLM}.")]
    chosen: set[str] = set()
    for pattern in patterns:
        try:
            found = {name for name in names if re.search(rf"(?:^|\.)(?:{pattern})$", name)}
            if "visual" not in pattern:
                found = {name for name in found if not name.startswith(f"{TOWER}.")}
        except re.error as error:
            raise UserError(f"lora_targets: {pattern!r} is no regular expression: {error}") from error
        if not found:
            there = ", ".join(sorted({re.sub(r"\d+", "N", name) for name in names}))
            raise UserError(f"lora_targets: {pattern!r} matches no linear layer. There are (N a number): {there}")
        chosen |= found
    return [name for name in names if name in chosen]


def quantisation(settings: TrainSettings) -> BitsAndBytesConfig | None:
    """How the base model of a QLoRA run is held: 4 bits a weight (NF4, scales quantised too), computed in bfloat16.

    Source: QLoRA, arXiv 2305.14314. None for every other run.

    Raises:
        UserError: bitsandbytes or a CUDA device is missing, or the parallel engine would shard what it cannot.
    """
    if settings.adapter != "qlora":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("adapter qlora needs bitsandbytes: pip install bitsandbytes, or use --adapter lora")
    if not torch.cuda.is_available():
        raise UserError("adapter qlora needs a CUDA device: use --adapter lora")
    if settings.parallel != "ddp":
        raise UserError(f"adapter qlora trains with parallel ddp, not {settings.parallel}: 4-bit weights stay whole")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(UNQUANTISED),  # of 4-bit loading too, by its old name
    )
