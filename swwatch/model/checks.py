"""What can be told of a model's name, device and type before torch is imported."""

import json
import re
from pathlib import Path

from swwatch.errors import UserError

ADAPTER = "adapter_config.json"  # peft's file; a folder that holds it is an adapter, not a whole model
DTYPES = ("float32", "bfloat16", "float16", "float64")
QUANTISED = ("int8", "int4", "fp8")
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def check_device(device: str | None) -> None:
    """Raises UserError: it is not the name of a device."""
    if device is not None and not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise UserError(f"no device {device!r}: choose cpu, cuda or cuda:0")


def check_dtype(dtype: str | None) -> None:
    """Raises UserError: it is not the name of a type that models have."""
    if dtype not in (None, "auto") and full_name(dtype) not in DTYPES:
        raise UserError(f"no dtype {dtype!r}: choose auto, or float32, bfloat16, float16 (fp32, bf16, fp16)")


def full_name(dtype: str | None) -> str | None:
    """torch's own name of a type."""
    return SHORT.get(dtype, dtype)


def check_checkpoint(path: str | Path, base: str | Path | None = None) -> None:
    """Look whether there may be a model: a folder with its files, or the form of a hub id.

    Args:
        base: of an adapter.
    Raises:
        UserError: there is none.
    """
    path = str(path)
    folder = Path(path)
    if (folder / ADAPTER).exists():
        return
    if base is not None:
        raise UserError(f"{path} is no adapter: it has no base model")
    if folder.is_dir() and not (folder / "config.json").exists():
        raise UserError(f"{path} holds no config.json: give a checkpoint folder (has the training finished?)")
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~", "output/")) and not folder.parent.is_dir()
    if not folder.exists() and not is_hub_id:
        raise UserError(f"no checkpoint at {path}: make one with `swwatch toy model` or `bash scripts/sft.sh`")


def saved_settings(path: str | Path) -> dict:
    """What a checkpoint says of itself, under "swwatch" in its config.json; empty for a plain Qwen2.5-VL. Args, errors
    as `saved_config`."""
    return saved_config(path).get("swwatch") or {}


def saved_config(path: str | Path) -> dict:
    """What is in a checkpoint's config.json.

    Args:
        path: a checkpoint's or adapter's folder, which costs no import of torch, or a hub id, which does.
    Raises:
        UserError: there is no checkpoint, or its config.json cannot be read.
    """
    check_checkpoint(path)
    folder = Path(path)
    try:
        if folder.is_dir():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        else:
            from transformers import PretrainedConfig

            config, _ = PretrainedConfig.get_config_dict(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the config.json of {path}: {error}") from error
    return config


def check_quantize(kind: str | None, device: str | None) -> None:
    """Raises UserError: there are no such weights, or not on this device, as far as is known without torch."""
    if kind is None:
        return
    if kind not in QUANTISED:
        raise UserError(f"no weights {kind!r}: choose int8, or on cuda int4 or fp8")
    if device == "cpu" and kind != "int8":
        raise UserError(
            f"--quantize {kind} on a CPU: int8 is the only kind that gains there (prompts took 16 times as long with "
            "int4, words 6 times as long with fp8): use --quantize int8"
        )
    if device is not None and not device.startswith(("auto", "cpu", "cuda")):
        raise UserError(f"--quantize: no weights of fewer bits on {device}: use --device cpu, or leave it out")


def check_pack(pack: str, device: str | None, quantize: str | None) -> None:
    """Raises UserError: there is nothing to pack, as far as is known by then."""
    if pack not in ("off", "auto"):
        raise UserError(f"no packing {pack!r}: choose off or auto")
    if pack == "auto" and device not in (None, "auto", "cpu"):
        raise UserError(f"--pack auto is for a CPU, and not for {device}: leave it out")
    if pack == "auto" and quantize is not None:
        raise UserError(f"--pack auto packs floats, and --quantize {quantize} leaves none: give one of them")
