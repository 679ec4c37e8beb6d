"""Samples in rows, several behind one another or one alone, as the columns that every mask is made from."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from swwatch.rules.layout import Layout

COLUMNS = ("sample", "stream", "order", "sees", "step")  # of (B, 5, L) tensors, see Layout and visibility.py


def stack_rows(
    rows: Sequence[Sequence[Layout]], length: int | None = None, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and columns of a batch whose rows hold samples behind one another.

    A token sees nothing of another sample: `sample` counts the samples of a row from 0. Padding is one more sample,
    plain causal, so that each of its rows has a key: a row without any would give NaN in a softmax.

    Args:
        rows: B rows of layouts.
        length: padded length L, by default the longest row's.
        left: pad on the left instead of the right.
    Returns:
        position_ids (3, B, L) int64, zeros at padding; columns (B, 5, L) int64, in the order of COLUMNS.
    """
    length = length or max(sum(map(len, row)) for row in rows)
    positions, columns = [], []
    for row in rows:
        tokens = Layout.cat(list(row))
        sample = torch.arange(len(row)).repeat_interleave(torch.tensor([len(layout) for layout in row]))
        real = torch.stack([sample, tokens.stream, tokens.order, tokens.sees, tokens.step])
        free = length - len(tokens)
        padding = torch.zeros((len(COLUMNS), free), dtype=torch.int64)
        padding[0], padding[2] = len(row), torch.arange(free)
        columns.append(torch.cat([padding, real] if left else [real, padding], dim=1))
        positions.append(pad(tokens.position_ids, (free, 0) if left else (0, free)))
    return torch.stack(positions, dim=1), torch.stack(columns)
