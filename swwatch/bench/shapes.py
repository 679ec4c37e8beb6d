"""Qwen2.5-VL in a given size with random weights, made where it is used: nothing is downloaded or read."""

from dataclasses import asdict

import torch
from transformers import Qwen2_5_VLConfig

from swwatch.model.attention import BACKENDS, check_attention
from swwatch.model.dummy import MARKUP
from swwatch.model.modeling import WatchingQwen2_5_VL
from swwatch.model.settings import Settings
from swwatch.toy.checkpoint import mrope_section

SHAPES = {  # text, vision: 3b and 7b as the released checkpoints' config.json
    "toy": (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": True},
        {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "fullatt_block_indexes": [1]},
    ),
    "0.2b": (
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12}
        | {"num_key_value_heads": 4, "vocab_size": 32768, "tie_word_embeddings": True},
        {"depth": 8, "hidden_size": 512, "intermediate_size": 1536, "num_heads": 8, "fullatt_block_indexes": [3, 7]},
    ),
    "3b": (
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {"fullatt_block_indexes": [7, 15, 23, 31]},
    ),
    "7b": (
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
        {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        | {"fullatt_block_indexes": [7, 15, 23, 31]},
    ),
}


def shape_config(shape: str, variant: str) -> Qwen2_5_VLConfig:
    """The configuration of a shape, annotated as a checkpoint of the variant is."""
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
    config.swwatch = Settings.resolve(None, variant=variant).as_dict() | {"markup": asdict(MARKUP)}
    return config


def random_model(config: Qwen2_5_VLConfig, attention: str, device: str, dtype: torch.dtype, seed: int):
    """A WatchingQwen2_5_VL whose weights are drawn on the device, in the dtype: there is no copy of them elsewhere.

    Raises:
        UserError: the backend cannot execute the variant's mask.
    """
    check_attention(config.swwatch["variant"], attention)
    torch.manual_seed(seed)
    with torch.device(device):
        model = WatchingQwen2_5_VL._from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.config.text_config._attn_implementation = BACKENDS[attention]
    return model
