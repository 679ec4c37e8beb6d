"""What a model's numbers are: as asked for, by default, or, for "auto", what the device computes in fastest."""

import sys

import torch

from swwatch.model.checks import check_dtype, full_name

BF16_UNITS = ("amx_bf16", "avx512_bf16")  # of x86: without one, bfloat16 is slower than float32


def bf16_units() -> list[str]:
    """By which of its units this CPU multiplies bfloat16; none: it only stores it."""
    has = torch.cpu.get_capabilities()
    return [unit for unit in BF16_UNITS if has.get(unit)]


def fastest_dtype(device: str) -> tuple[torch.dtype, str]:
    """bfloat16 where the device multiplies in it, else float32; and why, in words."""
    if device.startswith("cuda"):
        units = ["tensor cores"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    else:
        units = bf16_units() if device == "cpu" else []
    if units:
        return torch.bfloat16, f"which this {device} multiplies by its {' and '.join(units)}"
    return torch.float32, f"for this {device} is not known to multiply bfloat16"


def dtype_of(choice: torch.dtype | str | None, device: str) -> torch.dtype:
    """The dtype of a model that is loaded to a device. What "auto" comes to is told on stderr.

    Args:
        choice: a name of model.checks.DTYPES, or None: bfloat16 on cuda, else float32.
    Raises:
        UserError: no such name.
    """
    if isinstance(choice, torch.dtype):
        return choice
    check_dtype(choice)
    if choice == "auto":
        dtype, why = fastest_dtype(device)
        print(f"dtype auto: {str(dtype).removeprefix('torch.')}, {why}", file=sys.stderr)
        return dtype
    return getattr(torch, full_name(choice or ("bfloat16" if device.startswith("cuda") else "float32")))
