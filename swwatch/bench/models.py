"""Models to measure: Qwen2.5-VL in a given shape with random weights, made where it is used, or a checkpoint."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from transformers import Qwen2_5_VLConfig

from swwatch.bench.settings import BenchSettings
from swwatch.bench.shapes import SHAPES
from swwatch.model.attention import BACKENDS, check_attention
from swwatch.model.checks import check_pack
from swwatch.model.dummy import MARKUP
from swwatch.model.families.qwen2_5_vl import WatchingQwen2_5_VL
from swwatch.model.packed import pack
from swwatch.model.quantised import check_can_quantise, quantise
from swwatch.model.settings import Settings
from swwatch.model.upstream import from_config, set_attention
from swwatch.toy.checkpoint import mrope_section

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded


def shape_config(shape: str, variant: str, fps: float | None = None) -> Qwen2_5_VLConfig:
    """The configuration of a shape, annotated as a checkpoint of the variant is that watches at a frame rate."""
    text, vision = SHAPES[shape]
    sections = mrope_section(text["hidden_size"] // text["num_attention_heads"])
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    limits = {"max_position_embeddings": 128_000, "rms_norm_eps": 1e-6, "bos_token_id": 0}
    limits["eos_token_id"] = MARKUP.im_end
    sizes = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112}
    config = Qwen2_5_VLConfig(
        tie_word_embeddings=text["tie_word_embeddings"],
        video_token_id=MARKUP.video,
        vision_start_token_id=MARKUP.vision_start,
        text_config=text | limits | {"rope_parameters": rope},
        vision_config=vision | sizes | {"out_hidden_size": text["hidden_size"], "tokens_per_second": 2},
    )
    config.swwatch = Settings.resolve(None, variant=variant, fps=fps).as_dict() | {"markup": asdict(MARKUP)}
    return config


def random_model(config: Qwen2_5_VLConfig, attention: str, device: str, dtype: torch.dtype, seed: int):
    """A WatchingQwen2_5_VL whose weights are drawn on the device, in the dtype: there is no copy of them elsewhere.

    Raises:
        UserError: the backend cannot execute the variant's mask.
    """
    check_attention(config.swwatch["variant"], attention)
    torch.manual_seed(seed)
    with torch.device(device):
        model = from_config(WatchingQwen2_5_VL, config, dtype=dtype, attn_implementation="sdpa")
    set_attention(model.config.text_config, BACKENDS[attention])
    return model


def streaming_model(settings: BenchSettings, shape: str):
    """A model that is to stream in the settings' variant: random weights of a shape, or a checkpoint.

    Args:
        settings: settled.
        shape: of SHAPES, or the checkpoint's folder or hub id.
    """
    if shape in SHAPES:
        config = shape_config(shape, settings.variant, settings.fps)
        return random_session_model(config, settings)
    return loaded_model(settings, shape, settings.variant).model


def random_session_model(config: Qwen2_5_VLConfig, settings):
    """A random model that only streams, with the weights that the settings ask for.

    Args:
        settings: settled, of a benchmark that opens sessions.
    """
    check_pack(settings.pack, settings.device, settings.quantize)
    if settings.quantize is not None:
        check_can_quantise(settings.quantize, settings.device)
    model = random_model(config, "sdpa", settings.device, getattr(torch, settings.precision), settings.seed).eval()
    if settings.quantize is not None:
        quantise(model, settings.quantize)
    if settings.pack == "auto":
        pack(model)
    return model.requires_grad_(False)


def loaded_model(settings: BenchSettings, path: str, variant: str | None) -> "Loaded":
    """A checkpoint to measure; `variant` is needed where it names none."""
    from swwatch.model.loading import load

    dtype = getattr(torch, settings.precision)
    how = {"fps": settings.fps, "other_fps": True, "device": settings.device, "dtype": dtype}
    how |= {"quantize": settings.quantize, "pack": settings.pack}
    loaded = load(path, variant=variant, attention="sdpa", **how)
    loaded.model.requires_grad_(False)
    return loaded


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
