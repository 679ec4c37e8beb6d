"""Every setting of `swwatch bench train`, and the rows of its table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.rules import variants

BASELINE = "dense-eager"


@dataclass(frozen=True)
class Row:
    """One way to train on the same samples.

    Attributes:
        attention: a key of model.attention.BACKENDS.
        rows: a forward takes one sample, a padded batch of samples, or a pack of samples.
        upstream: transformers' own loss (logits of all tokens) and vision tower, as the public release has them.
    """

    name: str
    attention: str
    rows: Literal["one", "padded", "packed"]
    upstream: bool = False


ROWS = {
    row.name: row
    for row in (
        Row(BASELINE, "eager", "one", upstream=True),  # what the public release does, with the right mask
        Row("sdpa", "sdpa", "one"),
        Row("sdpa-padded", "sdpa", "padded"),
        Row("sdpa-packed", "sdpa", "packed"),
        Row("flex", "flex", "one"),
        Row("flex-packed", "flex", "packed"),
        Row("flash", "flash_attention_2", "one"),
        Row("flash-packed", "flash_attention_2", "packed"),
    )
}
SWEPT = ("flex", "flash", "sdpa", BASELINE)  # rows of a sweep over lengths, unless `rows` says otherwise


@dataclass(frozen=True)
class BenchSettings:
    """Settings of `swwatch bench train`."""

    # the model
    shape: Literal["toy", "0.2b", "3b", "7b"] = setting("toy", "model with random weights: toy, 0.2b, 3b or 7b")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", f"one of {', '.join(variants.VARIANTS)}")
    # the samples, the same for all rows; a step takes all of them
    data: Path | None = setting(None, "annotation file: its first clips, decoded before anything is timed")
    samples: int = setting(32, "samples of an optimizer step")
    tokens_per_step: int = setting(64, "video tokens of a second, where samples are made up")
    seconds: tuple[int, ...] = setting((5, 30), "shortest and longest of made-up samples, drawn evenly between")
    sweep_length: tuple[int, ...] = setting((), "then one made-up sample of so many tokens each, such as 2048,8192")
    # the rows
    rows: tuple[str, ...] = setting((), f"which rows (default: all): {', '.join(ROWS)}")
    batch_size: int = setting(4, "samples of a padded batch")
    pack_tokens: int | None = setting(None, "tokens of a pack (default: 16 of the longest sample, at most 8192)")
    # how
    precision: Literal["auto", "float32", "bfloat16", "autocast"] = setting(
        "auto", "weights in float32 or bfloat16, or bfloat16 autocast over float32 (auto: bfloat16 on cuda)"
    )
    train_vision: bool | None = setting(
        None, "train the vision tower too (default: as configs/train: toy yes, else no)"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass")
    warmup: int = setting(2, "optimizer steps before any is timed")
    repeats: int = setting(5, "optimizer steps that are timed")
    max_spread: float = setting(0.1, "warn where the step times' interquartile range is more of the median than this")
    threads: int | None = setting(None, "CPU threads (default: torch's own choice)")
    peak_tflops: float | None = setting(None, "dense bf16 peak of the GPU, where its name is not known")
    seed: int = setting(0, "of random weights and made-up samples")
    output: Path | None = setting(None, "folder for bench_train.json and bench_train.md")

    def __post_init__(self):
        variants.get(self.variant)
        unknown = [name for name in self.rows if name not in ROWS]
        if unknown:
            raise UserError(f"no row {unknown[0]!r}: choose from {', '.join(ROWS)}")
        at_least = {"samples": 1, "tokens_per_step": 1, "batch_size": 1, "warmup": 1, "repeats": 1, "threads": 1}
        for key, least in at_least.items():
            if getattr(self, key) is not None and getattr(self, key) < least:
                raise UserError(f"{key} must be at least {least}, not {getattr(self, key)}")
        if len(self.seconds) != 2 or not 1 <= self.seconds[0] <= self.seconds[1]:
            raise UserError(f"seconds must be the shortest and the longest, such as 5,30, not {self.seconds}")
        if self.data is not None and self.model is None:
            raise UserError("--data needs the tokenizer of a checkpoint: give --model too")


def settle(settings: BenchSettings, cuda: bool) -> BenchSettings:
    """Decide what depends on others: precision, and whether the vision tower learns.

    Raises:
        UserError: bfloat16 where it is not computed.
    """
    if settings.train_vision is None:
        settings = replace(settings, train_vision=settings.shape == "toy" and settings.model is None)
    if settings.precision == "auto":
        return replace(settings, precision="bfloat16" if cuda else "float32")
    if settings.precision != "float32" and not cuda:
        raise UserError(f"precision {settings.precision} needs a CUDA device: use --precision float32")
    return settings


def why_not(row: Row, settings: BenchSettings, cuda: bool, flash_available: bool, causal: bool) -> str | None:
    """Why a row cannot be measured here; None where it can.

    Args:
        settings: with `precision` settled.
    """
    if row.attention == "flex" and not cuda:
        return "FlexAttention has no backward pass on a CPU"
    if row.attention == "flash_attention_2":
        if not causal:
            return f"flash-attention is causal only and {settings.variant} is not"
        if not cuda:
            return "flash-attention needs a CUDA device"
        if not flash_available:
            return "flash-attention is not installed"
        if settings.precision == "float32":
            return "flash-attention does not compute in float32"
    return None
