"""Write a checkpoint folder anew for the transformers of 2025 (4.50 to 4.52), which the public programs pin.

The weights are copied as they are. config.json gets its text model's keys back beside the others and `rope_scaling` of
the type mrope; processor and tokenizer get the files of that time (preprocessor_config.json, vocab.json, merges.txt,
the chat template inside tokenizer_config.json). What a checkpoint knows of itself under "swwatch" stays.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.errors import UserError
from swwatch.model.checks import ADAPTER, check_checkpoint
from swwatch.paths import need_room, whole_folder
from swwatch.rules.families import FAMILIES

VERSION = "4.50.0"
NEW_IN_TEXT = ("layer_types", "rope_parameters", "model_type", "dtype", "pad_token_id")  # keys of later releases
LATER = ("qwen3_vl",)  # families that came later
NEW_NAMES = ("model.language_model.", "model.visual.")  # of weights, which 4.50 does not know
IMAGES = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "Qwen2VLImageProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
}
IMAGE_KEYS = ("image_mean", "image_std", "patch_size", "temporal_patch_size", "merge_size")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of `swwatch export`."""

    folder: Path = setting(REQUIRED, "checkpoint folder, such as a training run's output", positional=True)
    out: Path = setting(REQUIRED, "folder to write; must not exist", positional=True)
    target: Literal["transformers-4.5x"] = setting("transformers-4.5x", "whose files to write", also="for")


def main(argv: list[str]) -> int:
    settings = read_settings(ExportSettings, argv, program="swwatch export", about=__doc__)
    export(settings.folder, settings.out)
    print(f"{settings.out} holds the checkpoint with the files of {settings.target}")
    return 0


def export(folder: Path, out: Path) -> None:
    """Write the folder anew; `out` appears when all of it is written.

    Raises:
        UserError: no checkpoint of a known family, an adapter, `out` is taken, or something that 4.50 cannot do.
    """
    check_checkpoint(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: download the checkpoint first")
    if (folder / ADAPTER).exists():
        raise UserError(f"{folder} is an adapter: put it into its base model with `swwatch merge` first")
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} holds no *.safetensors")
    config = _read(folder / "config.json")
    written = {"config.json": old_config(config)}
    for path in weights:
        _check_names(path)
    written |= _tokenizer(folder, FAMILIES[config["model_type"]].processor)
    written["preprocessor_config.json"] = _images(folder, FAMILIES[config["model_type"]].processor)
    if (folder / "generation_config.json").exists():
        chosen = _read(folder / "generation_config.json")
        written["generation_config.json"] = chosen | {"transformers_version": VERSION}

    with whole_folder(out) as partial:
        need_room(out.parent, sum(path.stat().st_size for path in weights), str(out))
        for path in [*weights, *folder.glob("*.safetensors.index.json"), folder / "tokenizer.json"]:
            shutil.copy(path, partial)
        merges = written.pop("merges")
        (partial / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        for name, content in written.items():
            text = json.dumps(content, ensure_ascii=False, indent=2)
            (partial / name).write_text(text + "\n", encoding="utf-8")


def old_config(config: dict) -> dict:
    """config.json as transformers 4.50 wrote it.

    Args:
        config: as this transformers writes it, or as that one did, which stays but for the version.
    Raises:
        UserError: a family that is not known here, or rotary positions of a kind that 4.50 does not combine with 3-D.
    """
    if config.get("model_type") not in FAMILIES:
        raise UserError(f"no model of the type {config.get('model_type')!r}: known are {', '.join(FAMILIES)}")
    if config["model_type"] in LATER:
        raise UserError(
            f"{FAMILIES[config['model_type']].upstream} came with transformers 4.57: there is no export to 4.50"
        )
    old = {key: value for key, value in config.items() if key not in ("text_config", "vision_config", "dtype")}
    text, vision = config.get("text_config", {}), dict(config["vision_config"])
    old |= {key: value for key, value in text.items() if key not in NEW_IN_TEXT}
    if rope := text.get("rope_parameters"):
        if rope.get("rope_type", "default") not in ("default", "mrope"):
            raise UserError(f"rotary positions of the type {rope['rope_type']!r}: transformers 4.50 has none in 3-D")
        old["rope_theta"] = rope["rope_theta"]
        old["rope_scaling"] = {"type": "mrope", "mrope_section": list(rope["mrope_section"])}
    if old.get("sliding_window") is None:
        old["sliding_window"] = old["max_position_embeddings"]  # it wants a number, also where it is not used

    vision.pop("rope_parameters", None)
    vision.pop("dtype", None)
    vision["model_type"] = config["model_type"]
    vision["in_chans"] = vision["in_channels"] = vision.get("in_channels", 3)
    vision["spatial_patch_size"] = vision["patch_size"]
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return old | {"vision_config": vision, "torch_dtype": dtype, "transformers_version": VERSION}


def _images(folder: Path, processor: str) -> dict:
    """preprocessor_config.json, from that of any release or from what processor_config.json holds in later ones."""
    path = folder / "preprocessor_config.json"
    read = _read(path) if path.exists() else _read(folder / "processor_config.json").get("image_processor", {})
    size = read.get("size") or {}
    least, most = (
        read.get("min_pixels") or size.get("shortest_edge"),
        read.get("max_pixels") or size.get("longest_edge"),
    )
    if least is None or most is None or not all(key in read for key in IMAGE_KEYS):
        raise UserError(f"{folder}: its processor names no sizes of pictures; is it one of Qwen2-VL or Qwen2.5-VL?")
    fields = IMAGES | {key: read[key] for key in IMAGE_KEYS} | {"min_pixels": least, "max_pixels": most}
    return fields | {"size": {"shortest_edge": least, "longest_edge": most}, "processor_class": processor}


def _tokenizer(folder: Path, processor: str) -> dict:
    """File name -> content of the tokenizer's files; "merges": lines of merges.txt."""
    whole, config = _read(folder / "tokenizer.json"), _read(folder / "tokenizer_config.json")
    template = config.get("chat_template")
    if (path := folder / "chat_template.jinja").exists():
        template = path.read_text(encoding="utf-8")
    elif (path := folder / "chat_template.json").exists():
        template = _read(path)["chat_template"]
    if template is None:
        raise UserError(f"{folder} holds no chat template: is it a checkpoint with its processor?")
    added = {row["content"]: row for row in whole["added_tokens"]}
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    named = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    special = [token for token, row in added.items() if row["special"] and token != named["pad_token"]]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in whole["model"]["merges"]]
    return {
        "vocab.json": {token: i for token, i in whole["model"]["vocab"].items() if token not in added},
        "merges": merges,
        "added_tokens.json": {token: row["id"] for token, row in added.items()},
        "special_tokens_map.json": {"additional_special_tokens": special}
        | {name: token for name, token in named.items() if token is not None},
        "chat_template.json": {"chat_template": template},
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(row["id"]): {key: row[key] for key in flags} for row in added.values()},
            "additional_special_tokens": special,
            "chat_template": template,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "extra_special_tokens": {},
            "model_max_length": config.get("model_max_length", 32_768),
            "processor_class": processor,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
        }
        | named,
    }


def _check_names(path: Path) -> None:
    """Of a file's weights, which its header tells."""
    with path.open("rb") as file:
        names = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if wrong := next((name for name in names if name.startswith(NEW_NAMES)), None):
        raise UserError(f"{path} calls a weight {wrong}, which transformers 4.50 does not know: save it with swwatch")


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
