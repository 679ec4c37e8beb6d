"""Settings of a training run that exclude each other."""

from typing import Any

from swwatch.errors import UserError


def check_together(settings: Any) -> None:
    """Refuse what cannot be had together.

    Args:
        settings: of train.settings, whose construction asks this.
    Raises:
        UserError: which settings, and what to change.
    """
    if settings.pack_tokens is not None:
        if settings.pack_tokens < settings.max_length:
            raise UserError(
                f"pack_tokens {settings.pack_tokens} is below max_length {settings.max_length}, so a sample might not "
                "fit into a pack: raise pack_tokens or lower max_length"
            )
        if settings.group_by_length:
            raise UserError("pack_tokens and group_by_length exclude each other: packs need no padding")
    if not settings.frames_cache and (settings.frames_cache_dir is not None or settings.fill_cache):
        raise UserError("no frames are to be cached: leave frames_cache_dir and fill_cache out, or frames_cache on")
    if settings.fill_cache and not settings.frames_cache_gb:
        raise UserError("fill_cache fills nothing of 0 GB: raise frames_cache_gb")
    if settings.dry_run and settings.fill_cache:
        raise UserError("dry_run does nothing, and fill_cache fills a folder: give one of them")
    if settings.epochs <= 0 or (settings.max_steps is not None and settings.max_steps < 1):
        raise UserError(f"nothing to train: epochs {settings.epochs}, max_steps {settings.max_steps}")
    if not (settings.train_vision or settings.train_merger or settings.train_llm):
        raise UserError("nothing to train: set train_vision, train_merger or train_llm")
    if settings.thought_dropout >= 1:
        raise UserError(f"thought_dropout must be below 1, not {settings.thought_dropout:g}: or leave think out")
    if settings.adapter != "none":
        if settings.train_vision or not settings.train_llm:
            raise UserError(
                f"adapter {settings.adapter} goes with train_llm and without train_vision: lora_targets says which "
                "layers of LLM and vision tower get one (train_merger: in full)"
            )
        if settings.lora_dropout >= 1:
            raise UserError(f"lora_dropout must be below 1, not {settings.lora_dropout}")
    for part in ("merger", "vision"):
        rate = getattr(settings, f"{part}_learning_rate")
        if rate is not None and not getattr(settings, f"train_{part}") and settings.adapter == "none":
            raise UserError(f"{part}_learning_rate {rate:g} has nothing to set: train_{part} is off")
