"""What a run is about to do, one line for each fact."""

import torch

from swwatch.model.loading import Loaded
from swwatch.rules import turn_positions as positions
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS
from swwatch.train import distributed
from swwatch.train.arrange import Arrangement
from swwatch.train.machine import precision_text, why_attention
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Setup


def banner(
    settings: TrainSettings, setup: Setup, arranged: Arrangement, steps: int, *, more: dict[str, str | None]
) -> str:
    """The lines.

    Args:
        more: further lines; those that are None are left out.
    """
    loaded = setup.loaded
    device = "cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name()
    learns = [f"{name} {trainable:,} of {total:,}" for name, (trainable, total) in setup.counts.items()]
    tokens = (
        ""
        if arranged.tokens_per_row is None
        else f", about {arranged.tokens_per_row * settings.rows_per_step:,.0f} tokens"
    )
    processes = distributed.num_processes()
    several = processes > 1 or settings.parallel != "ddp"
    rows = {
        "variant": _variant(settings, loaded),
        "pixel budget": loaded.settings.pixel_budget,
        "frames": f"{loaded.settings.fps:g} a second",
        "model": settings.model_path,
        "trainable": "; ".join(learns),
        "adapter": _adapter(settings),
        "runs on": f"{device}, {precision_text(settings, setup.parallelism)}",
        "attention": f"{settings.attention} ({why_attention(settings)})",
        "loss": f"{loaded.model.loss_way} ({setup.why_loss})",
        "data": f"{', '.join(map(str, settings.annotations))}, {len(setup.clips):,} samples",
        "rows": arranged.summary,
        "steps": f"{steps:,} of {settings.batch_size} x {settings.accumulation} "
        f"{'samples' if settings.pack_tokens is None else 'packs'}{tokens}",
        "optimizer": f"AdamW {_rates(settings)} {settings.lr_schedule}, warm-up {settings.warmup:g}",
        "parallel": f"{settings.parallel}, {processes} x {settings.accumulation // processes} forwards a step"
        if several
        else None,
        "output": str(settings.output_dir),
    }
    return "\n".join(f"{name:13}{text}" for name, text in (rows | more).items() if text is not None)


def _variant(settings: TrainSettings, loaded: Loaded) -> str:
    name, policies = (
        loaded.settings.variant,
        {table: getattr(loaded.settings, table) for table in ("keep", "choose", "think")},
    )
    if loaded.settings.see.drops:
        policies = {"see": loaded.settings.see} | policies
    own = positions.of(get(name)) if name in TURNS else None
    turns = [f"positions {own.name if own and own.apart else settings.positions}", f"context {settings.context}"]
    form = turns if name in TURNS else [f"schedule {loaded.settings.schedule}"]
    names = [f"{table} {policy}" for table, policy in policies.items() if policy is not None]
    return ", ".join([name, *form, *names])


def _rates(settings: TrainSettings) -> str:
    own = {"merger": settings.merger_learning_rate, "vision tower": settings.vision_learning_rate}
    text = "".join(f", {name} {rate:g}" for name, rate in own.items() if rate is not None)
    return f"{settings.learning_rate:g}" + (f" ({text[2:]})" if text else "")


def _adapter(settings: TrainSettings) -> str | None:
    if settings.adapter == "none":
        return None
    where = "all linear layers of the LLM" if settings.lora_targets is None else ", ".join(settings.lora_targets)
    return f"{settings.adapter} of rank {settings.lora_rank}, alpha {settings.lora_alpha:g}, on {where}"
