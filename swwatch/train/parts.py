"""The three parts of the model that learn or stay as they are."""

from peft import PeftModel
from torch import nn

from swwatch.errors import UserError


def parts(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of vision tower, merger and LLM (with the output head); together all of the model's."""
    if isinstance(model, PeftModel):
        model = model.get_base_model()
    visual = model.model.visual
    merger = [p for name in model.mergers for p in model.get_submodule(name).parameters()]
    in_visual = {id(p) for p in visual.parameters()}
    in_merger = {id(p) for p in merger}
    return {
        "vision tower": [p for p in visual.parameters() if id(p) not in in_merger],
        "merger": merger,
        "LLM": [p for p in model.parameters() if id(p) not in in_visual],
    }


def set_trainable(model: nn.Module, *, vision: bool, merger: bool, llm: bool) -> dict[str, tuple[int, int]]:
    """Freeze or free each part.

    Returns:
        part -> (trainable parameters, all parameters).
    Raises:
        UserError: nothing would be trained.
    """
    for parameters, trainable in zip(parts(model).values(), (vision, merger, llm), strict=True):
        for parameter in parameters:
            parameter.requires_grad_(trainable)
    counts = count(model)
    if not any(trainable for trainable, _ in counts.values()):
        raise UserError("nothing to train: set train_vision, train_merger or train_llm")
    return counts


def count(model: nn.Module) -> dict[str, tuple[int, int]]:
    """part -> (trainable parameters, all parameters)."""
    return {
        name: (sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters))
        for name, parameters in parts(model).items()
    }
