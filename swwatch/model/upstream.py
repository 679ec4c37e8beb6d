"""What is used of other libraries beyond what they document, in one place, each with what it relies on.

Checked with transformers 5.17, accelerate 1.15, torch 2.11 and DeepSpeed 0.19. Where an upstream release differs,
these functions say so instead of going on; tests/model/test_upstream.py takes each thing away and looks for that.
"""

import importlib.metadata

from torch import nn
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from swwatch.errors import UserError

CHECKED = {"transformers": "5.17", "accelerate": "1.15", "torch": "2.11", "deepspeed": "0.19"}


def changed(library: str, what: str) -> UserError:
    """The error that says an upstream library is no longer what this was written for."""
    here = importlib.metadata.version(library)
    return UserError(
        f"{what}: {library} {here} is not what swwatch was checked with, {library} {CHECKED[library]}: "
        "install the versions of requirements.lock"
    )


def swap_class(module: nn.Module, ours: type) -> None:
    """Let a module of transformers run by our class, which derives from its own: same parameters, another forward.

    Raises:
        UserError: it is not of the very class that ours derives from.
    """
    theirs = ours.__bases__[-1]
    if type(module) is not theirs:
        library = theirs.__module__.partition(".")[0]
        raise changed(library, f"expected a {theirs.__name__} and found a {type(module).__name__}")
    module.__class__ = ours


def swap_back(module: nn.Module) -> None:
    """Undo `swap_class`."""
    module.__class__ = type(module).__bases__[-1]


def keep_names_of_weights(ours: type) -> None:
    """Let weights of a family be stored under upstream's names.

    transformers finds the renaming of stored weights (model.layers -> model.language_model.layers) by the name of the
    class, and would start from random weights without one.

    Raises:
        UserError: transformers has no renaming for the class that ours derives from.
    """
    theirs = ours.__bases__[-1].__name__
    renaming = get_checkpoint_conversion_mapping(theirs)
    if renaming is None:
        raise changed("transformers", f"there is no renaming of stored weights for {theirs}")
    register_checkpoint_conversion_mapping(ours.__name__, renaming, overwrite=True)
