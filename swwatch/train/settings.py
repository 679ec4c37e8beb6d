"""Every setting of a training run. Its name is a key of configs/train/*.yaml and a flag; defaults are the paper's."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swwatch.config import check_least, setting
from swwatch.data.tasks import TASKS
from swwatch.errors import UserError
from swwatch.model.checks import full_name
from swwatch.model.settings import OVERRIDES
from swwatch.paths import ROOT
from swwatch.policies.choose import CHOOSE
from swwatch.policies.keep import KEEP, parse_keep, with_numbers
from swwatch.policies.see import SEE
from swwatch.policies.table import forms
from swwatch.policies.think import THINK
from swwatch.rules import systems
from swwatch.rules.systems import Context
from swwatch.rules.variants import TURNS, VARIANTS
from swwatch.train.contradictions import check_together

TEXT_KEPT = ("text_sink", "text_window")  # options of a policy of KEEP that have a setting of their own


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `swwatch train`. Two facts of a field, besides those of `config.setting`, are for continued runs.

    free: it may change, as it changes neither losses nor weights (`parallel` is compared where it matters, see
    Parallelism.fixed). since: the version that brought it; runs begun by an earlier one know nothing of it, and at
    its default it is as good as not there.
    """

    # what is trained on what
    task: Literal["pe-video", "funqa"] = setting(
        "pe-video", "pe-video or funqa: the defaults of train_data and output_dir", env="QWEN2_5_VL_TASK", free=True
    )
    variant: str | None = setting(
        None, f"one of {', '.join([*VARIANTS, *TURNS])}, where the checkpoint names none", env="QWEN2_5_VL_VARIANT"
    )
    model_path: str = setting(
        "Qwen/Qwen2.5-VL-7B-Instruct", "checkpoint folder or hub id to start from", env="QWEN2_5_VL_MODEL_PATH"
    )
    train_data: Path | None = setting(
        None,
        "annotation file, jsonl (default: dataset/train_3_5.jsonl or, for funqa, dataset/funqa_train.jsonl)",
        env="QWEN2_5_VL_TRAIN_DATA",
    )
    more_data: list[Path] | None = setting(
        None, "more files of conversations (streamingvlm, livecc), with commas; named twice, seen twice", since="0.1"
    )
    video_root: Path | None = setting(None, "folder of all videos (default: where the records' video_path says)")
    output_dir: Path | None = setting(
        None, "of checkpoints and model (default: the repository's output/qwen2_5vl-<pe|funqa>-<variant>)", free=True
    )
    schedule: str | None = setting(
        None, "wait-k:3 or random:3:seed=0 (default: the checkpoint's own, else wait-k:3)", also="speak"
    )
    see: str | None = setting(
        None, f"which video tokens are seen: {forms(SEE)} (default: the checkpoint's own, else all)", since="0.1"
    )
    keep: str | None = setting(
        None, f"what stays of a stream without end: {forms(KEEP)} (default: the checkpoint's own)", since="0.1"
    )
    choose: str | None = setting(
        None, f"how sessions choose tokens: {forms(CHOOSE)} (default: the checkpoint's own)", since="0.1"
    )
    think: str | None = setting(None, f"beside the words: {forms(THINK)} (default: its own, else off)", since="0.1")
    thought_weight: float = setting(1.0, "of a thought in the loss, where a word has 1", least=0, since="0.1")
    thought_dropout: float = setting(
        0.0, "share of samples without thoughts, drawn anew each epoch", least=0, since="0.1"
    )
    pixel_budget: str | None = setting(
        None, "declared, release or qwen3_vl (default: the checkpoint's own, else declared)"
    )
    fps: float | None = setting(
        None, "frames a second that are watched (default: the checkpoint's own, else 2)", above=0, since="0.1"
    )
    other_fps: bool = setting(False, "fps may be another than the checkpoint was trained at", since="0.1")
    seconds_per_turn: float | None = setting(
        None,
        "of streamingvlm and livecc, whole patches of two frames (default: 1, or what one lasts)",
        above=0,
        since="0.1",
    )
    max_length: int = setting(
        8192, "longest sample in tokens; longer ones are skipped and listed, or see truncate", least=1
    )
    max_frames: int = setting(60, "longest clip in frames; longer ones are skipped and listed", least=2)
    reader: Literal["pyav", "decord"] = setting(
        "pyav",
        "what decodes videos: pyav, as the ffmpeg command shows them, or decord, as the release did",
        since="0.1",
    )
    truncate: bool = setting(
        False, "samples beyond max_length lose the end of their video, never of their answer", since="0.1"
    )
    positions: Literal["mrope_full", "flat_1d"] = setting(
        "mrope_full", "of streamingvlm and livecc; LiveCC's released weights were trained with flat_1d", since="0.1"
    )
    context: Context = setting(
        "none", "of livecc: what a query tells besides, the video's title or what was said before", since="0.1"
    )
    text_sink: int | None = setting(
        None, "of streamingvlm: first tokens of the previous text that stay, an option of keep", least=0, since="0.1"
    )
    text_window: int | None = setting(
        None, "of streamingvlm: last tokens of it that stay, an option of keep", least=0, since="0.1"
    )
    max_bad_fraction: float = setting(0.01, "stop when a larger share of records is unusable", least=0, free=True)
    # what learns
    train_vision: bool = setting(False, "train the vision tower")
    train_merger: bool = setting(True, "train the merger between vision tower and LLM")
    train_llm: bool = setting(True, "train the LLM")
    adapter: Literal["none", "lora", "dora", "qlora"] = setting(
        "none", "train adapters instead of the LLM's own weights; qlora holds these in 4 bits (cuda only)", since="0.1"
    )
    lora_rank: int = setting(16, "rank of the adapters", least=1, since="0.1")
    lora_alpha: float = setting(32.0, "the adapters' output counts lora_alpha / lora_rank", least=0, since="0.1")
    lora_dropout: float = setting(0.0, "dropout before the adapters", least=0, since="0.1")
    lora_targets: list[str] | None = setting(
        None,
        "which linear layers get one, by the end of their names, such as q_proj,v_proj; of the tower as visual.* "
        "(default: all of the LLM)",
        since="0.1",
    )
    # how it learns
    epochs: float = setting(1.0, "passes over the data")
    max_steps: int | None = setting(None, "optimizer steps, instead of epochs")
    batch_size: int = setting(1, "rows per forward: samples, or packs of samples with pack_tokens", least=1)
    pack_tokens: int | None = setting(None, "pack samples into sequences of up to so many tokens (default: off)")
    group_by_length: bool = setting(False, "batches of samples of like length, which need less padding")
    accumulation: int = setting(
        64, "forwards per optimizer step, shared among the processes (the paper: 64 on 4 GPUs, 16 each)", least=1
    )
    learning_rate: float = setting(2e-5, "peak learning rate of AdamW", least=0)
    merger_learning_rate: float | None = setting(None, "the merger's (default: learning_rate)", least=0, since="0.1")
    vision_learning_rate: float | None = setting(None, "the tower's (default: learning_rate)", least=0, since="0.1")
    lr_schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "cosine, linear or constant")
    warmup: float = setting(0.03, "linear warm-up: a share of all steps if below 1, else a number of steps", least=0)
    weight_decay: float = setting(0.0, "AdamW's weight decay", least=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm; 0 is off", least=0)
    seed: int = setting(42, "of the data order, the questions and everything else that is drawn")
    # how it runs
    parallel: str = setting(
        "ddp", "ddp, zero2, zero3, zero3_offload, fsdp2, or a DeepSpeed .json; see docs/training.md", free=True
    )
    precision: Literal["auto", "float32", "bfloat16", "fp32", "bf16"] | None = setting(
        None,
        "bf16: autocast over float32 weights; auto: bf16 where the device multiplies in it, else fp32 (default: bf16 "
        "on cuda, fp32 on the CPU)",
        also="dtype",
    )
    attention: Literal["auto", "sdpa", "eager", "flex", "flash_attention_2"] = setting(
        "auto", "attention backend; flash_attention_2 for variants of one stream only, flex on cuda only"
    )
    tf32: bool = setting(False, "float32 products in TensorFloat-32 on CUDA: faster, and less exact", since="0.1")
    fused_loss: Literal["auto", "liger", "chunked", "off"] = setting(
        "auto",
        "loss without logits of all tokens at once: by liger-kernel, or in chunks of answer tokens (auto: liger where "
        "it is installed and fits, else chunked)",
        since="0.1",
    )
    gradient_checkpointing: bool = setting(True, "recompute activations in the backward pass to save memory")
    num_workers: int | None = setting(
        None,
        "processes that decode clips ahead; 0: training does it (default: a core each, 8 at most)",
        least=0,
        free=True,
    )
    prefetch_factor: int | None = setting(
        None, "batches each keeps ready (default: together those of an optimizer step, at least 2)", least=1, free=True
    )
    cache_frames_gb: float = setting(
        0.0, "keep encoded clips in memory, up to this size (workers have equal shares)", least=0, free=True
    )
    frames_cache: bool = setting(
        True, "keep decoded frames on disk where clips are read more than once and there is room", free=True
    )
    frames_cache_dir: Path | None = setting(
        None,
        "folder of decoded frames for all processes, epochs and runs that use it (default: in output_dir, half of "
        "the free room at most, until the run is finished)",
        free=True,
    )
    frames_cache_gb: float = setting(
        50.0, "size of that folder at most; not more than its disk has room for", least=0, free=True
    )
    fill_cache: bool = setting(False, "fill that folder with the frames of all clips, and train nothing", free=True)
    save_steps: int = setting(50, "steps between checkpoints; the last step is always saved", least=1, free=True)
    save_total_limit: int = setting(1, "complete checkpoints kept", least=1, free=True)
    # what it tells
    eval_data: list[Path] | None = setting(
        None,
        "annotations of held-out clips whose loss is told while training (of conversations several, with commas)",
        free=True,
    )
    eval_steps: int = setting(50, "steps between such evaluations; the last step always has one", least=1, free=True)
    eval_samples: int = setting(64, "clips of eval_data taken, spread evenly; 0: all", least=0, free=True)
    log_to: list[str] | None = setting(
        None,
        "besides log.jsonl: tensorboard, wandb, trackio, several with commas, or jsonl for none (default: tensorboard "
        "where it is installed)",
        free=True,
    )
    dry_run: bool = setting(
        False, "build model and first batches, print what they hold, draw a sample, and train nothing", free=True
    )

    def __post_init__(self):
        if self.train_data is None:
            object.__setattr__(self, "train_data", ROOT / "dataset" / TASKS[self.task].train_file)
        object.__setattr__(self, "precision", full_name(self.precision))
        check_least(self)
        check_together(self)

    @property
    def rows_per_step(self) -> int:
        """Samples or packs in an optimizer step, of all processes together."""
        return self.batch_size * self.accumulation

    @property
    def annotations(self) -> list[Path]:
        """All files of training samples."""
        return [self.train_data, *(self.more_data or ())]

    def overrides(self, saved: dict) -> dict[str, Any]:
        """What is asked of the checkpoint, see Settings.resolve; text_sink and text_window change its policy of KEEP.

        Args:
            saved: what the checkpoint says of itself.
        Raises:
            UserError: that policy has no such options.
        """
        overrides = {name: getattr(self, name) for name in OVERRIDES}
        variant = self.variant or saved.get("variant")
        given = {name: number for name in TEXT_KEPT if (number := getattr(self, name)) is not None}
        if given and variant in TURNS:
            own = parse_keep(self.keep or saved.get("keep") or systems.get(variant).keep)
            if unknown := given.keys() - vars(own).keys():
                raise UserError(f"{min(unknown)} is no option of keep {own}: leave it out")
            overrides["keep"] = with_numbers(own, None, given)
        return overrides

    def fixed(self) -> dict:
        """What a continued run must have in common with its beginning, as JSON values."""
        values = {}
        own = {"precision": "auto"}  # what runs of before called the default
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            unknown = "since" in field.metadata and value == field.default
            if not field.metadata.get("free") and not unknown:
                values[field.name] = _as_json(own.get(field.name) if value is None else value)
        return values


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value
