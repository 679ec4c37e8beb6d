"""What the host chooses of the rows of a tensor, said to a device without waiting for it.

A mask on a device gives a shape that the host must wait for, and a plain copy from pageable memory is waited for too.
Without `non_blocking` that is; the bytes are taken along before the call returns either way.
"""

from collections.abc import Sequence

import torch


def chosen(which: torch.Tensor | Sequence[int], device: torch.device) -> torch.Tensor:
    """Numbers (K,) or flags (n,) of the host -> int64 numbers (K,) on a device."""
    which = torch.as_tensor(which)
    return (which.nonzero()[:, 0] if which.dtype == torch.bool else which.long()).to(device, non_blocking=True)
