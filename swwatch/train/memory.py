"""What training a recipe takes on each GPU, from the model's shapes alone: nothing is downloaded but config.json.

    python -m swwatch.train.memory --config configs/train/qwen3_vl_4b.yaml [--model-path FOLDER] [--gpus 4]

Model and adapters are made on torch's meta device, frozen as the recipe says, and counted. Weights are bfloat16. With
gradients (2 bytes), a float32 copy (4) and AdamW's two moments (8) a trained weight takes 14 bytes more: ZeRO-2 shares
these among the GPUs, ZeRO-3 the weights, too. Adapters and the mergers beside them are float32, 16 bytes a weight.
Kept by gradient checkpointing is what goes into each layer, for the longest row. ESTIMATED, not measured: what one
layer at a time takes, the loss, and CUDA itself come on top, some 4 GB.
"""

import sys
from dataclasses import asdict, dataclass

import torch
from transformers import AutoConfig, PretrainedConfig

from swwatch.config import read_settings, setting
from swwatch.errors import UserError
from swwatch.model.dummy import MARKUP
from swwatch.model.families import model_class
from swwatch.model.settings import Settings
from swwatch.train.adapters import adapt
from swwatch.train.parts import count, set_trainable
from swwatch.train.settings import TrainSettings

GB = 1e9


@dataclass(frozen=True)
class MemorySettings(TrainSettings):
    """A recipe, and on what."""

    gpus: int = setting(4, "that share what ZeRO shares", least=1)


def main(argv: list[str]) -> int:
    settings = read_settings(MemorySettings, argv, program="python -m swwatch.train.memory", about=__doc__)
    try:
        config = AutoConfig.from_pretrained(settings.model_path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the config.json of {settings.model_path}: {error}") from error
    found = estimate(config, settings, settings.gpus)
    for name, (trained, everything) in found["parts"].items():
        print(f"{name:14} {trained / GB:.2f} of {everything / GB:.2f} G weights learn")
    for name, gigabytes in found["gigabytes"].items():
        print(f"{name:14} {gigabytes:.1f} GB a GPU, {settings.gpus} of them")
    print(f"{'kept':14} {found['kept']:.1f} GB for the longest row")
    return 0


def estimate(config: PretrainedConfig, settings: TrainSettings, gpus: int) -> dict:
    """Weights by part (those that learn, all), gigabytes of weights and what belongs to them by engine, and `kept`.

    Args:
        config: of the model to start from, as upstream's; settings: of the run.
    """
    variant = settings.variant or "group"
    config.swwatch = Settings.resolve(None, variant=variant).as_dict() | {"markup": asdict(MARKUP)}
    with torch.device("meta"):
        model = model_class(config.model_type)._from_config(config, dtype=torch.bfloat16)
        counts = set_trainable(
            model, vision=settings.train_vision, merger=settings.train_merger, llm=settings.train_llm
        )
        trained, everything = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
        gigabytes = {
            "ddp": 2 * everything + 14 * trained,
            "zero2": 2 * everything + 14 * trained / gpus,
            "zero3": (2 * everything + 14 * trained) / gpus,
        }
        if settings.adapter != "none":
            adapted = adapt(model, settings, None)
            counts = count(adapted)
            gigabytes = {settings.adapter: 2 * everything + 16 * sum(trained for trained, _ in counts.values())}
    text = config.text_config
    row = settings.pack_tokens or settings.max_length * settings.batch_size
    return {
        "parts": counts,
        "gigabytes": {name: size / GB for name, size in gigabytes.items()},
        "kept": 2 * row * text.hidden_size * text.num_hidden_layers / GB,
    }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
