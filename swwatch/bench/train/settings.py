"""Every setting of `swwatch bench train`, and the rows of its table."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from swwatch.bench.settings import BenchSettings, check_known
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.model.checks import check_checkpoint
from swwatch.rules import variants

BASELINE = "dense-eager"


@dataclass(frozen=True)
class TrainRow:
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
        TrainRow(BASELINE, "eager", "one", upstream=True),  # what the public release does, with the right mask
        TrainRow("sdpa", "sdpa", "one"),
        TrainRow("sdpa-padded", "sdpa", "padded"),
        TrainRow("sdpa-packed", "sdpa", "packed"),
        TrainRow("flex", "flex", "one"),
        TrainRow("flex-packed", "flex", "packed"),
        TrainRow("flash", "flash_attention_2", "one"),
        TrainRow("flash-packed", "flash_attention_2", "packed"),
    )
}
SWEPT = ("flex", "flash", "sdpa", BASELINE)  # rows of a sweep over lengths, unless `rows` says otherwise


@dataclass(frozen=True)
class TrainBenchSettings(BenchSettings):
    """Measure training steps: attention backends, padding and packing, on one set of weights and the same samples.

    Every row of the table is a process of its own that takes optimizer steps (forward, backward, clipping, AdamW) over
    all samples, in as many forwards as the row needs. On a CPU the rows take turns step by step, so that other
    programs slow them all alike; on a GPU they come one after the other. By default the toy model learns from toy
    clips.

    The row dense-eager is what the public release does: one sample a forward, eager attention with a dense mask,
    transformers' own vision tower and loss. All other rows run as `swwatch train` would run them.
    """

    # the model
    shape: Literal["toy", "0.2b", "3b", "7b"] = setting("toy", "model with random weights: toy, 0.2b, 3b or 7b")
    model: str | None = setting(None, "checkpoint folder or hub id, instead of a shape")
    variant: str = setting("group", f"one of {', '.join(variants.VARIANTS)}")
    # the samples, the same for all rows; a step takes all of them
    data: Path | None = setting(None, "annotation file: its first clips, decoded before anything is timed")
    samples: int = setting(32, "samples of an optimizer step", least=1)
    tokens_per_step: int = setting(64, "video tokens of a second, where samples are made up", least=1)
    seconds: tuple[int, ...] = setting((5, 30), "shortest and longest of made-up samples, drawn evenly between")
    sweep_length: tuple[int, ...] = setting((), "then one made-up sample of so many tokens each, such as 2048,8192")
    # the rows
    rows: tuple[str, ...] = setting((), f"which rows (default: all): {', '.join(ROWS)}")
    batch_size: int = setting(4, "samples of a padded batch", least=1)
    pack_tokens: int | None = setting(None, "tokens of a pack (default: 16 longest samples, at most 8192)", least=1)
    # how
    train_vision: bool | None = setting(
        None, "train the vision tower too (default: as configs/train: toy yes, else no)"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass")
    warmup: int = setting(2, "optimizer steps before any is timed", least=1)
    repeats: int = setting(5, "optimizer steps that are timed", least=1)
    peak_tflops: float | None = setting(None, "dense bf16 peak of the GPU, where its name is not known")
    precision: Literal["auto", "float32", "bfloat16", "autocast", "fp32", "bf16"] | None = setting(
        None,
        "weights in float32 or bfloat16, or bfloat16 autocast over float32; auto: the fastest of the device (default: "
        "bfloat16 on cuda, else float32)",
        also="dtype",
    )
    max_load: float = setting(1.0, "too busy: load average before the start above this share of the cores")
    max_spread: float = setting(0.1, "too busy: the step times' interquartile range is more of the median than this")

    def __post_init__(self):
        super().__post_init__()
        variants.get(self.variant)
        if self.model is not None:
            check_checkpoint(self.model)
        check_known("row", self.rows, ROWS)
        if len(self.seconds) != 2 or not 1 <= self.seconds[0] <= self.seconds[1]:
            raise UserError(f"seconds must be the shortest and the longest, such as 5,30, not {self.seconds}")
        if self.data is not None and self.model is None:
            raise UserError("--data needs the tokenizer of a checkpoint: give --model too")

    @property
    def steadiness(self) -> str:
        return f"the step times of every row spread by at most {self.max_spread:.0%} (interquartile range by median)"

    def settled(self, cuda: bool) -> Self:
        settled = super().settled(cuda, self.model)
        if settled.train_vision is None:
            settled = replace(settled, train_vision=settled.shape == "toy" and settled.model is None)
        return settled


def why_not(row: TrainRow, settings: TrainBenchSettings, *, flash_available: bool, causal: bool) -> str | None:
    """Why a row cannot be measured here; None where it can.

    Args:
        settings: settled.
    """
    cuda = settings.device == "cuda"
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
