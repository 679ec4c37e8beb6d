"""What the host says to a device without waiting for it: which rows it chooses, masks, positions.

A mask on a device gives a shape that the host must wait for, and a plain copy from pageable memory is waited for too.
On CUDA the bytes are taken along before a copy returns that is not waited for; other devices do not promise that.
"""

from collections.abc import Sequence

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device."""
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


def chosen(which: torch.Tensor | Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers (K,) or flags (n,) of the host -> int64 numbers (K,) on a device."""
    which = torch.as_tensor(which)
    return sent(which.nonzero()[:, 0] if which.dtype == torch.bool else which.long(), device)
