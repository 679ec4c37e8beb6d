"""The tiny random checkpoint that most tests run, and models of it in every variant."""

from collections.abc import Callable
from pathlib import Path

import torch

from swwatch.model.loading import load
from swwatch.toy.checkpoint import make_checkpoint

SIZES = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}


def make_tiny(path: Path) -> Path:
    """A checkpoint folder in the real form: 2 layers, width 32, random weights."""
    return make_checkpoint(path, seed=1, **SIZES)


def tiny_loader(checkpoint: Path) -> Callable:
    """load_tiny(variant, **options) -> Loaded, its weights spread out so that a wrong position or mask shows."""
    made = {}

    def build(variant: str, **options):
        key = (variant, *sorted(options.items()))
        if key not in made:
            loaded = load(checkpoint, variant=variant, device="cpu", **options)
            spread(loaded.model)
            made[key] = loaded
        return made[key]

    return build


def spread(model: torch.nn.Module) -> None:
    """Give a model random weights, the same ones every time, that are larger than those of a fresh checkpoint."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
