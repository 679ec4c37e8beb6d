"""What a SEE policy that decides late leaves of a batch that was laid out whole. See policies.see.

Legend: B batch, L sequence, L' sequence without what is dropped, K video tokens that are left, W as in streaming.
"""

import torch

from swwatch.data.batch import COLUMNS
from swwatch.data.pixels import merged_grids
from swwatch.data.prompt import IGNORED
from swwatch.errors import UserError
from swwatch.model.attention import BLOCK
from swwatch.policies.see.seen import kept_features, look_at_video


def strike_out(
    model,
    input_ids: torch.Tensor,
    position_ids: torch.Tensor,
    columns: torch.Tensor,
    labels: torch.Tensor | None,
    pixel_values: torch.Tensor,
    grids_thw: torch.Tensor,
    decisions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, dict]:
    """Look at the videos of a batch, and take out the rows of what is dropped.

    Args:
        model: a Watching; the others as of its `forward`. The sequences hold a placeholder for every video token.
    Returns:
        position_ids (3, B, L'), columns (B, 5, L'), labels and decisions (B, L'), padded on the right, and the inputs
        of the LLM that replace ids and pixels. What a row decided that is gone, the last one left of its step decides.
    Raises:
        UserError: another number of placeholders.
    """
    features, patches = _look(model, pixel_values, grids_thw)
    video, num_arrived = input_ids == model.markup.video, sum(patch.num_arrived for patch in patches)
    if int(video.sum()) != num_arrived:
        raise UserError(f"{int(video.sum())} video tokens in the sequences against {num_arrived} in the grids")
    indices = kept_features(patches)
    left = torch.ones(num_arrived, dtype=torch.bool)
    if indices is not None:
        left[:] = False
        left[indices] = True
    stays = (~video).masked_scatter(video, left.to(video.device))  # (B, L)
    lengths = stays.sum(1)
    length = int(lengths.max())
    if model.attention == "flex":  # its kernels are compiled for each length
        length = min(-(-length // BLOCK) * BLOCK, stays.shape[1])
    index = (~stays).int().argsort(dim=1, stable=True)[:, :length]  # (B, L')
    place = torch.arange(length, device=index.device)
    padding = place >= lengths[:, None]
    position_ids = position_ids.gather(2, index.expand(3, -1, -1)).masked_fill(padding, 0)
    columns_before = columns
    columns = columns.gather(2, index[:, None].expand(-1, len(COLUMNS), -1))
    filling = torch.zeros_like(columns)  # one more sample, as in data.batch
    filling[:, 0], filling[:, 2] = columns[:, 0].max() + 1, place
    columns = torch.where(padding[:, None], filling, columns)
    labels = None if labels is None else labels.gather(1, index).masked_fill(padding, IGNORED)
    if decisions is not None:
        decisions = _moved(decisions, columns_before, stays).gather(1, index).masked_fill(padding, 0)
    ids = input_ids.gather(1, index)
    inputs = model.embed_video(ids, (ids == model.markup.video) & ~padding, features)
    return position_ids, columns, labels, decisions, inputs | {"input_ids": None, "pixel_values_videos": None}


def _moved(decisions: torch.Tensor, columns: torch.Tensor, stays: torch.Tensor) -> torch.Tensor:
    """Decisions (B, L) of rows that are gone, at the last row before them that stays and is of the same sample, stream
    and step; where there is none, nothing is decided."""
    moved, alike = torch.where(stays, decisions, 0), [COLUMNS.index(name) for name in ("sample", "stream", "step")]
    for row, place in ((decisions != 0) & ~stays).nonzero().tolist():
        before = columns[row, alike, : place + 1]
        left = (stays[row, : place + 1] & (before == before[:, -1:]).all(0)).nonzero()[:, 0]
        if len(left):
            moved[row, left[-1]] = decisions[row, place]
    return moved


def _look(model, pixel_values: torch.Tensor, grids_thw: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Features (K, W) of what is left of all videos, and their patches, behind one another."""
    merge, left, patches = model.config.vision_config.spatial_merge_size, [], []
    sizes = [int(grid.prod()) // merge**2 for grid in grids_thw]
    for grid, features in zip(grids_thw, model.features(pixel_values, grids_thw).split(sizes), strict=True):
        grids = merged_grids(grid[None], merge)
        seen, indices = look_at_video(model.settings.see, features, grids, model.num_deep)
        patches += seen
        left.append(indices)
    return torch.cat(left), patches
