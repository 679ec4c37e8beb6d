"""Samples side by side: padded positions and the 4-D mask of their layouts."""

import torch
from torch.nn.functional import pad

from swwatch.layout import Layout


def stack_layouts(layouts: list[Layout], length: int | None = None, left: bool = False) -> tuple[torch.Tensor, ...]:
    """Positions and mask of a padded batch.

    Args:
        layouts: one per sample, L_i tokens each.
        length: padded length L, by default the longest L_i.
        left: pad on the left instead of the right.
    Returns:
        position_ids (3, B, L) int64, zeros at padding; mask (B, 1, L, L) bool, true where a row may attend. A padding
        row attends to itself alone: a row without any key would give NaN in a softmax.
    """
    length = length or max(map(len, layouts))
    positions, masks = [], []
    for tokens in layouts:
        free = length - len(tokens)
        before, after = (free, 0) if left else (0, free)
        positions.append(pad(tokens.position_ids, (before, after)))
        mask = pad(tokens.visible(), (before, after, before, after))
        padding = pad(torch.zeros(len(tokens), dtype=torch.bool), (before, after), value=True)
        masks.append(mask | torch.diag(padding))
    return torch.stack(positions, dim=1), torch.stack(masks)[:, None]
