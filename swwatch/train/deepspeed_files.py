"""The names that `parallel` may have, and DeepSpeed's JSON files behind some of them. Nothing here imports torch."""

import importlib.util
import json
from pathlib import Path

from swwatch.errors import UserError
from swwatch.paths import CONFIGS

DEEPSPEED_FOLDER = CONFIGS / "deepspeed"
ZERO = ("zero2", "zero3", "zero3_offload")
NAMES = ("ddp", *ZERO, "fsdp2")
# what the settings decide; a DeepSpeed file may say "auto" or leave it out
OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
)


def deepspeed_settings(parallel: str) -> dict | None:
    """What DeepSpeed is told for a name or a path to a JSON file of its own; None without DeepSpeed.

    Raises:
        UserError: no such name or file, a file that contradicts the settings, or DeepSpeed is not installed.
    """
    if parallel in ("ddp", "fsdp2"):
        return None
    path = DEEPSPEED_FOLDER / f"{parallel}.json" if parallel in ZERO else Path(parallel).expanduser()
    if path.suffix != ".json":
        raise UserError(f"parallel {parallel!r} is none of {', '.join(NAMES)}, nor a DeepSpeed .json file")
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"parallel {parallel} needs DeepSpeed: pip install deepspeed, or use ddp or fsdp2")
    return _read(path)


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the DeepSpeed file {path}: {error}") from error
    zero = content.get("zero_optimization") if isinstance(content, dict) else None
    if not isinstance(zero, dict) or zero.get("stage") not in (0, 1, 2, 3):
        raise UserError(f"{path}: zero_optimization.stage must be 0, 1, 2 or 3")
    taken = [key for key in OURS if content.get(key, "auto") != "auto"]
    if taken:
        raise UserError(f'{path}: {", ".join(taken)} come from the settings; write "auto" or leave them out')
    if zero["stage"] == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(f"{path}: stage 3 needs stage3_gather_16bit_weights_on_model_save, or no model can be saved")
    return {key: "auto" for key in OURS[:4]} | content
