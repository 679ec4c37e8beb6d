"""The LLM's weights in fewer bits, for models that only stream: its linear layers and its output head.

Embeddings, norms, the head of a SPEAK policy and the vision tower stay as they are: they cost little, or are bound by
computing. Weights are rounded after an adapter was added to them, so that a merged model and its adapter are the same.
On a CPU int8 is torch's own product (libraries turn weights back into floats for every token, which took three times
as long as not quantising); on CUDA all kinds are torchao's.
Legend: M rows, K inputs, N outputs.
"""

import importlib.util
import sys

import torch
from torch import nn
from torch.nn.functional import linear

from swwatch.errors import UserError
from swwatch.model.checks import check_quantize
from swwatch.model.upstream import check_int8_product, int8_product

FEW = 16  # rows: torch's product takes each as long as the first, a product of floats hardly longer
SLICE = 8192  # rows of weights that are floats at the same time
NEEDS_CAPABILITY = {"fp8": (8, 9)}


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8 with one scale for each output. Products are in bfloat16.

    Attributes:
        weight: (N', K) int8, N filled up to whole blocks of 16; scale: (N',) bfloat16.
        bias: (N,) or None.
    """

    def __init__(self, plain: nn.Linear):
        super().__init__()
        self.out_features = len(plain.weight)
        num_blocks = -(-self.out_features // 16)
        weight = plain.weight.new_zeros(16 * num_blocks, plain.in_features, dtype=torch.int8)
        scale = plain.weight.new_ones(16 * num_blocks, dtype=torch.bfloat16)
        if not plain.weight.is_meta:
            for begin in range(0, self.out_features, SLICE):
                part = plain.weight.detach()[begin : begin + SLICE].float()
                own = (part.abs().amax(1) / 127).clamp(min=1e-30).to(torch.bfloat16)
                scale[begin : begin + SLICE][: len(part)] = own
                weight[begin : begin + SLICE][: len(part)] = (part / own[:, None]).round().clamp(-127, 127)
        self.weight, self.scale = (nn.Parameter(x, requires_grad=False) for x in (weight, scale))
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., N) of the same dtype."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        if len(rows) <= FEW:
            out = int8_product(rows, self.weight, self.scale)
        else:
            parts = [linear(rows, weight.to(torch.bfloat16)) for weight in self.weight.split(SLICE)]
            out = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).mul_(self.scale)
        out = out[:, : self.out_features].to(x.dtype)
        return (out if self.bias is None else out + self.bias).view(*x.shape[:-1], self.out_features)


def check_can_quantise(kind: str, device: str) -> None:
    """Raises UserError: this device, or what is installed, has no such weights. Before any are loaded."""
    check_quantize(kind, device)
    if device == "cpu":
        check_int8_product()
        return
    if importlib.util.find_spec("torchao") is None:
        raise UserError(f"--quantize {kind} on {device} needs torchao: pip install torchao, or leave it out")
    least = NEEDS_CAPABILITY.get(kind, (0, 0))
    if (has := torch.cuda.get_device_capability(device)) < least:
        raise UserError(
            f"--quantize {kind} needs compute capability {least[0]}.{least[1]}, and {device} has {has[0]}.{has[1]}: "
            "use --quantize int8"
        )


def linear_layers(model) -> dict[str, nn.Linear]:
    """The LLM's own linear layers and the output head, by their names in the model."""
    parts = {"model.language_model.layers": model.model.language_model.layers, "lm_head": model.lm_head}
    found = {
        f"{part}.{name}" if name else part: layer
        for part, module in parts.items()
        for name, layer in module.named_modules()
    }
    return {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}


def quantise(model, kind: str) -> None:
    """Round the weights of a model, in place; what it saves is told on stderr.

    Args:
        model: a Watching on its device, in eval mode, without adapters.
        kind: checked by `check_can_quantise`.
    Raises:
        UserError: torchao refuses.
    """
    layers = linear_layers(model)
    before = _num_bytes(model)
    if model.device.type == "cpu":
        left = to_int8(model, layers)
    else:
        left = _by_torchao(model, layers, kind)
    model.quantised = kind
    line = f"quantize {kind}: {before / 2**20:,.0f} MB of weights became {_num_bytes(model) / 2**20:,.0f} MB"
    print(line + (f"; {left} layers have inputs that are no multiple of 16 and stay" if left else ""), file=sys.stderr)


def to_int8(model, layers: dict[str, nn.Linear] | None = None) -> int:
    """Swap linear layers for Int8Linear; returns how many had to stay as they are."""
    left = 0
    for name, layer in (linear_layers(model) if layers is None else layers).items():
        if layer.in_features % 16:
            left += 1
        else:
            model.set_submodule(name, Int8Linear(layer))
    model.quantised = "int8"
    return left


def _by_torchao(model, layers: dict[str, nn.Linear], kind: str) -> int:
    from torchao import quantization as ao

    config = {"int8": ao.Int8WeightOnlyConfig, "int4": ao.Int4WeightOnlyConfig, "fp8": ao.Float8WeightOnlyConfig}[kind]
    wanted = set(layers.values())
    try:
        ao.quantize_(model, config(), filter_fn=lambda module, name: module in wanted)
    except (ImportError, AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"--quantize {kind}: torchao refuses: {error}. Use another kind, or leave it out") from error
    return 0


def _num_bytes(model) -> int:
    """Of all parameters, a tied one once."""
    return sum(parameter.nbytes for parameter in model.parameters())
