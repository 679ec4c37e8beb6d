"""Checkpoint folders in the shape of Qwen2.5-VL-3B whose weights are a hole in a file: nothing is on the disk."""

import json
import struct
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from swwatch.bench.shapes import SHAPES
from tests.helpers.tiny import make_tiny

ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}


def make_3b(folder: Path, layers: int) -> Path:
    """A checkpoint of zeros in bfloat16 with a toy's tokenizer; so many layers, and blocks of the tower."""
    make_tiny(folder)
    text, vision = SHAPES["3b"]
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text | {"num_hidden_layers": layers, "layer_types": None, "rope_parameters": ROPE}
    config["vision_config"] |= vision | {"out_hidden_size": text["hidden_size"], "depth": layers}
    config["vision_config"]["fullatt_block_indexes"] = [layers - 1]
    config |= {"tie_word_embeddings": text["tie_word_embeddings"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder))
    _write_hole(folder / "model.safetensors", {name: p.shape for name, p in model.named_parameters()})
    return folder


def _write_hole(path: Path, shapes: dict[str, torch.Size]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * shape.numel()
        saved = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        header[saved] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
