"""Learning rates of their own for merger and vision tower."""

from torch import nn
from torch.optim import Optimizer

from swwatch.errors import UserError
from swwatch.train.parts import parts
from swwatch.train.settings import TrainSettings


def part_rates(settings: TrainSettings) -> dict[str, float]:
    """Part of the model -> peak learning rate, where it is not that of the LLM."""
    rates = {"merger": settings.merger_learning_rate, "vision tower": settings.vision_learning_rate}
    return {name: rate for name, rate in rates.items() if rate is not None}


def split_groups(optimizer: Optimizer, model: nn.Module, rates: dict[str, float]) -> None:
    """Give parts of the model a learning rate of their own: split the optimizer's groups before its first step.

    The LLM's groups stay in front: the learning rate that is logged is theirs. A schedule made afterwards scales every
    group alike. Everything else of a group, such as its weight decay, stays.

    Args:
        model: the one whose parameters the optimizer has, without wrappers.
        rates: from `part_rates`.
    Raises:
        UserError: nothing of a part learns.
    """
    if not rates:
        return
    owner = {id(parameter): name for name, parameters in parts(model).items() for parameter in parameters}
    found = {owner[id(p)] for group in optimizer.param_groups for p in group["params"]}
    if idle := rates.keys() - found:
        raise UserError(f"a learning rate is set for the {min(idle)}, but nothing of it learns")
    split = []
    for name in ("LLM", "merger", "vision tower"):
        for group in optimizer.param_groups:
            chosen = [p for p in group["params"] if owner[id(p)] == name]
            if chosen:
                split.append(group | {"params": chosen, "lr": rates.get(name, group["lr"])})
    optimizer.param_groups[:] = split
