"""Sizes of models by name, as the released checkpoints' config.json has them; nothing is downloaded.

Of Qwen3-VL no copy of config.json itself was at hand for every size. 2B: widths as in pytorch/torchtitan
(experiments/qwen3_vl). 4B: as in modelscope/DiffSynth-Studio (diffsynth/models/krea2_text_encoder.py); the LLM's as
llama.cpp loads them (github.com/ggml-org/llama.cpp/issues/17345); the tower's as in timm
(github.com/huggingface/pytorch-image-models/pull/2765). 8B: as in torchtitan and in a copy of its config.json.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from swwatch.bench.shapes import SHAPES
from swwatch.config import near
from swwatch.errors import UserError
from swwatch.model.checks import check_checkpoint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SMALL = {"deepstack_visual_indexes": [5, 11, 17], "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
LARGE = {"deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
QWEN3_VL = {  # width, inner width, heads, layers of the LLM; tower; whether embedding and head are one
    "qwen3-vl-2b": (2048, 6144, 16, 28, SMALL, True),
    "qwen3-vl-4b": (2560, 9728, 32, 36, SMALL, True),
    "qwen3-vl-8b": (4096, 12288, 32, 36, LARGE, False),
}
QWEN2_5_VL = {"toy": "toy", "0.2b": "0.2b", "qwen2.5-vl-3b": "3b", "qwen2.5-vl-7b": "7b"}
NAMES = (*QWEN2_5_VL, "qwen2-vl-7b", *QWEN3_VL)


def short_name(model: str) -> str:
    """`Qwen/Qwen2.5-VL-3B-Instruct` -> `qwen2.5-vl-3b`, so that hub ids of the released models need no download."""
    return model.rpartition("/")[2].lower().removesuffix("-instruct")


def check_named(model: str) -> None:
    """Raises UserError: neither a name, nor a folder, nor the form of a hub id. Needs no torch."""
    if short_name(model) in NAMES and not Path(model).exists():
        return
    try:
        check_checkpoint(model)
    except UserError as error:
        hint = near(short_name(model), NAMES).removeprefix("; ") or f"names are {', '.join(NAMES)}"
        raise UserError(f"{error}; or name a shape: {hint}") from error


def config_of(model: str, variant: str, fps: float | None = None) -> "PretrainedConfig":
    """The configuration of a name, a folder or a hub id, for a variant.

    Raises:
        UserError: it cannot be read.
    """
    from dataclasses import asdict

    from transformers import AutoConfig

    from swwatch.bench.models import shape_config
    from swwatch.model.dummy import MARKUP
    from swwatch.model.settings import Settings

    name = short_name(model)
    if Path(model).exists() or name not in NAMES:
        try:
            config = AutoConfig.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the config.json of {model}: {error}") from error
    elif name in QWEN2_5_VL:
        config = shape_config(QWEN2_5_VL[name], variant, fps)
    else:
        config = _config_for(name)
    config.swwatch = Settings.resolve(None, variant=variant, fps=fps).as_dict() | {"markup": asdict(MARKUP)}
    return config


def _config_for(name: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    if name in QWEN3_VL:
        width, inner, heads, layers, tower, tied = QWEN3_VL[name]
        rope = {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}
        text = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936, "rope_theta": 5e6}
        text |= {"rope_scaling": rope, "hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
        text |= {"num_hidden_layers": layers, "tie_word_embeddings": tied}
        vision = tower | {"out_hidden_size": width}
        return AutoConfig.for_model("qwen3_vl", text_config=text, vision_config=vision, tie_word_embeddings=tied)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = SHAPES["7b"][0] | {"rope_parameters": rope}  # of one size with Qwen2.5-VL's
    vision = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "hidden_size": text["hidden_size"]}
    return AutoConfig.for_model("qwen2_vl", text_config=text, vision_config=vision, tie_word_embeddings=False)
