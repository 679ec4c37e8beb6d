"""LoRA and DoRA adapters through peft: small weights beside a base model that stays as it is.

An adapter folder holds peft's files, and config.json with the variant that it was trained in, like any checkpoint.
transformers renames stored weights by class name; peft stores an adapter under the names that the modules have in
memory, so no renaming comes between saving and loading it.
"""

import copy
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from swwatch.errors import UserError

WEIGHTS = "adapter_model.safetensors"


class Adapted(PeftModel):
    """A model with adapters in place of some of its layers; saves the adapters alone, and what they are for."""

    def save_pretrained(self, save_directory, **kwargs):
        """As peft's, with config.json beside it (variant, schedule, pixel budget)."""
        super().save_pretrained(save_directory, **{"save_embedding_layers": False} | kwargs)
        config = copy.deepcopy(self.get_base_model().config)
        config.architectures = [self.get_base_model().family.upstream]
        if hasattr(config, "quantization_config"):  # how the base was held in training, not what the adapter needs
            del config.quantization_config
        config.save_pretrained(save_directory)


def attach(model: nn.Module, folder: str | Path, *, trainable: bool = False) -> Adapted:
    """Put the adapter of a folder on its base model, in place.

    Args:
        trainable: to train it on; else it is frozen.
    Raises:
        UserError: the adapter is not one for this model.
    """
    try:
        saved = load_file(Path(folder) / WEIGHTS)
        adapted = Adapted.from_pretrained(model, str(folder), is_trainable=trainable)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"the adapter {folder} cannot be put on {model.name_or_path}: {error}") from error
    # peft warns of weights that find no place, and goes on without them
    placed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wrong = sorted(saved.keys() ^ placed.keys()) or [
        name for name, value in saved.items() if not value.equal(placed[name].to("cpu", value.dtype))
    ]
    if wrong:
        raise UserError(
            f"the adapter {folder} does not fit {model.name_or_path}: {len(wrong)} weights, first {wrong[0]}"
        )
    return adapted


def merge(model: nn.Module, folder: str | Path) -> nn.Module:
    """Add the adapter of a folder into the weights of its base model.

    Returns:
        The model without adapters, in the precision it had.
    """
    return attach(model, folder).merge_and_unload()
