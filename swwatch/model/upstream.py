"""What models use of transformers and torch beyond what these promise, in one place; train/upstream.py has what
training uses.

Checked on transformers 5.17.0 and 5.23.0. Where a release differs, these functions say so instead of going on;
tests/model/test_upstream.py takes each thing away and looks for that message.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.functional import linear
from transformers import PretrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from swwatch.errors import UserError

CHECKED = "5.17.0 and 5.23.0"
CHECKED_TORCH = "2.11.0"


def changed(what: str) -> UserError:
    """The error that says transformers is no longer what this was written for."""
    return UserError(
        f"{what}: transformers {transformers.__version__} is not what swwatch was checked with, {CHECKED}; "
        "install the versions of requirements.lock"
    )


def private(owner: Any, name: str) -> Any:
    """A private attribute of an object or a class of transformers.

    Raises:
        UserError: it has none of this name.
    """
    if not hasattr(owner, name):
        raise changed(f"{owner.__name__ if isinstance(owner, type) else type(owner).__name__} has no {name}")
    return getattr(owner, name)


def from_config(family: type, config: PretrainedConfig, **options) -> nn.Module:
    """A model of a class with the weights that it begins with; the public way knows transformers' own classes alone.

    Args:
        options: dtype and attn_implementation, as of from_pretrained.
    """
    return private(family, "_from_config")(config, **options)


def swap_class(module: nn.Module, ours: type) -> None:
    """Let a module of transformers run by our class, which derives from its own: same parameters, another forward.

    Raises:
        UserError: it is not of the very class that ours derives from.
    """
    theirs = ours.__bases__[-1]
    if type(module) is not theirs:
        raise changed(f"expected a {theirs.__name__} and found a {type(module).__name__}")
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
        raise changed(f"there is no renaming of stored weights for {theirs}")
    register_checkpoint_conversion_mapping(ours.__name__, renaming, overwrite=True)


def mask_as_it_is(config: PretrainedConfig, mask: Any) -> dict:
    """What makes transformers hand `mask` to every layer's attention as it is.

    A dict by kind of layer counts as masks that are ready made; anything else it would take for one dense mask.

    Args:
        config: of the LLM.
    """
    return dict.fromkeys(private(config, "layer_types"), mask)


def attention_of(config: PretrainedConfig) -> str:
    """transformers' name of the attention backend that a part of a model runs with."""
    return private(config, "_attn_implementation")


def set_attention(config: PretrainedConfig, backend: str) -> None:
    """Have one part of a model run with another backend; the public way sets all parts."""
    private(config, "_attn_implementation")
    config._attn_implementation = backend


def torch_operator(name: str) -> Callable:
    """A private operator of torch, by its name below `torch`.

    Raises:
        UserError: there is none.
    """
    try:
        return attrgetter(name)(torch)
    except AttributeError as error:
        raise changed_torch(f"there is no torch.{name}") from error


def changed_torch(what: str) -> UserError:
    """The error that says torch is no longer what this was written for."""
    return UserError(
        f"{what}: torch {torch.__version__} is not what swwatch was checked with, {CHECKED_TORCH}; install the "
        "versions of requirements.lock, or leave --quantize and --pack out"
    )


def int8_product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(M, K) bfloat16 rows by (N, K) int8 weights with (N,) bfloat16 scales -> (M, N), on a CPU.

    The kernel reads beyond its input where K is no multiple of 16 or N none of 4.
    """
    return torch._weight_int8pack_mm(x, weight, scale)


def check_int8_product() -> None:
    """Raises UserError: torch's operator is gone or computes something else."""
    torch_operator("_weight_int8pack_mm")
    x, scale = torch.linspace(-1, 1, 32).view(2, 16).bfloat16(), torch.full((16,), 0.5).bfloat16()
    weight = torch.arange(-128, 128).view(16, 16).to(torch.int8)
    wanted = x.float() @ weight.float().T * 0.5
    if not torch.allclose(int8_product(x, weight, scale).float(), wanted, rtol=0.02, atol=0.5):
        raise changed_torch("torch._weight_int8pack_mm computes something else")


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """(N, K) weights of a linear layer on a CPU -> the same, laid out for oneDNN and opaque to everybody else."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, 1)


def packed_product(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., K) rows by weights of `pack_weight` -> (..., N)."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def check_packed_product() -> None:
    """Raises UserError: torch's operators are gone or compute something else."""
    for name in ("_reorder_linear_weight", "_linear_pointwise"):
        torch_operator(f"ops.mkldnn.{name}")
    x, weight, bias = (torch.linspace(-1, 1, n).view(size) for n, size in ((32, (2, 16)), (128, (8, 16)), (8, (8,))))
    if not torch.allclose(packed_product(x, pack_weight(weight), bias), linear(x, weight, bias), rtol=1e-4, atol=1e-5):
        raise changed_torch("torch.ops.mkldnn._linear_pointwise computes something else")
