"""What the vision tower's features change of a batch that was laid out before: a SEE policy that decides late drops
rows of patches (policies.see), a KEEP policy that carries puts a row behind each (policies.memory.carrier).

Legend: B batch, L sequence, L' sequence as it is then, K video tokens, W as in streaming.
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from swwatch.data.batch import COLUMNS
from swwatch.data.pixels import merged_grids
from swwatch.data.prompt import IGNORED
from swwatch.errors import UserError
from swwatch.model.attention import BLOCK, FAR
from swwatch.policies.see.seen import kept_features, look_at_video
from swwatch.rules.layout import with_carriers
from swwatch.rules.variants import TURNS
from swwatch.rules.visibility import CARRIER, PATCH

Rows = dict[str, torch.Tensor | None]  # of a batch: what ROWS names, of which some may be None
# and what they are at padding
ROWS = {"input_ids": 0, "position_ids": 0, "columns": 0, "labels": IGNORED, "decisions": 0, "weights": 0}


def look(
    model, rows: Rows, pixel_values: torch.Tensor, grids_thw: torch.Tensor, kept: torch.Tensor | None
) -> tuple[Rows, dict]:
    """Look at the videos of a batch.

    Args:
        model: a Watching; the others as of its `forward`.
    Returns:
        The rows that the LLM is given, padded on the right, and its inputs in place of ids and pixels.
    Raises:
        UserError: the sequences hold another number of video tokens, or nothing says who may attend to whom.
    """
    settings = model.settings
    if settings.changes_rows and rows["columns"] is None:
        why = f"keep {settings.keep} adds" if settings.carriers is not None else f"see {settings.see} strikes out"
        raise UserError(f"{why} rows: pass columns, or leave positions to it")
    if settings.see.decides_late:
        rows, features = strike_out(model, rows, pixel_values, grids_thw)
    else:
        features = model.features(pixel_values, grids_thw)
        if kept is not None:
            features = features[torch.as_tensor(kept, dtype=torch.int64, device=features.device)]
        if (count := int((rows["input_ids"] == model.markup.video).sum())) != len(features):
            raise UserError(f"{count} video tokens in the sequences against {len(features)} that are kept")
    if settings.carriers is not None:
        rows, features = put_carriers(model, rows, features, grids_thw)
    places = rows["input_ids"] == model.markup.video
    inputs = {"input_ids": None, "pixel_values_videos": None}
    return rows, inputs | model.embed_video(rows["input_ids"], places, features)


def strike_out(model, rows: Rows, pixel_values: torch.Tensor, grids_thw: torch.Tensor) -> tuple[Rows, torch.Tensor]:
    """Look at the videos of a batch, and take out the rows of what is dropped.

    Args:
        model: a Watching; the others as of its `forward`. The sequences hold a placeholder for every video token.
    Returns:
        Rows of length L', padded on the right, and the features (K, W) of what is left. What a row decided that is
        gone, the last one left of its step decides.
    Raises:
        UserError: another number of placeholders.
    """
    features, patches = _look(model, pixel_values, grids_thw)
    video, num_arrived = rows["input_ids"] == model.markup.video, sum(patch.num_arrived for patch in patches)
    if int(video.sum()) != num_arrived:
        raise UserError(f"{int(video.sum())} video tokens in the sequences against {num_arrived} in the grids")
    indices = kept_features(patches)
    left = torch.ones(num_arrived, dtype=torch.bool)
    if indices is not None:
        left[:] = False
        left[indices] = True
    stays = (~video).masked_scatter(video, left.to(video.device))  # (B, L)
    if rows["decisions"] is not None:
        rows = rows | {"decisions": _moved(rows["decisions"], rows["columns"], stays)}
    lengths = stays.sum(1)
    length = min(_length(model, int(lengths.max())), stays.shape[1])
    index = (~stays).int().argsort(dim=1, stable=True)[:, :length]  # (B, L')
    return _taken(rows, index, lengths), features


def put_carriers(model, rows: Rows, features: torch.Tensor, grids_thw: torch.Tensor) -> tuple[Rows, torch.Tensor]:
    """Put a carrier behind each patch of a batch: where its last token stands, and of no label.

    Args:
        model, grids_thw: as of `look`; rows: of length L; features: (K, W) of all video tokens in them.
    Returns:
        Rows of length L', padded on the right, and features in which the mean of each patch follows it.
    """
    columns = rows["columns"]
    sample, patch = (columns[:, COLUMNS.index(name)] for name in ("sample", "step"))
    video = rows["input_ids"] == model.markup.video
    if model.settings.variant in TURNS:  # whose steps are turns of several patches, all whole
        sizes = torch.tensor(
            [r * c for r, c in merged_grids(grids_thw, model.config.vision_config.spatial_merge_size)]
        )
        numbers = torch.arange(len(sizes)).repeat_interleave(sizes)
        patch = torch.zeros_like(patch).masked_scatter(video, numbers.to(patch.device))
    placed = [with_carriers(*row) for row in zip(video, sample * FAR + patch, strict=True)]
    index, carrier = (pad_sequence(part, batch_first=True) for part in zip(*placed, strict=True))  # (B, L')
    lengths = torch.tensor([len(row) for row, _ in placed], device=video.device)
    more = _length(model, index.shape[1]) - index.shape[1]
    index, carrier = (torch.nn.functional.pad(part, (0, more)) for part in (index, carrier))
    marks = torch.where(carrier, CARRIER, torch.where(video.gather(1, index), PATCH, 0))
    rows = _taken(rows, index, lengths)
    marks = marks.masked_fill(_padding(index, lengths), 0)
    rows["columns"][:, COLUMNS.index("stream")] += marks
    for name in ("labels", "decisions"):
        if rows[name] is not None:
            rows[name] = rows[name].masked_fill(carrier, ROWS[name])
    ends = carrier[marks > 0].nonzero()[:, 0]
    sizes = torch.cat([ends[:1], ends.diff() - 1]).tolist()  # tokens of each patch
    parts = [torch.cat([patch, patch.mean(0, keepdim=True)]) for patch in features.split(sizes)]
    return rows, torch.cat(parts) if parts else features


def _length(model, longest: int) -> int:
    """Tokens that rows are padded to."""
    return -(-longest // BLOCK) * BLOCK if model.attention == "flex" else longest  # its kernels are compiled for each


def _padding(index: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(B, L') bool, true behind the end of a row."""
    return torch.arange(index.shape[1], device=index.device) >= lengths[:, None]


def _taken(rows: Rows, index: torch.Tensor, lengths: torch.Tensor) -> Rows:
    """The tokens of `index` (B, L'), of which the first `lengths` (B,) of each row count, of all that is said of
    them."""
    padding, taken = _padding(index, lengths), {}
    for name, values in rows.items():
        if values is None:
            taken[name] = None
            continue
        before = {"position_ids": (None,), "columns": (slice(None), None)}.get(name, ())
        at = index[before].expand(*values.shape[:-1], -1)
        taken[name] = values.gather(-1, at).masked_fill(padding[before], ROWS[name])
    columns = taken["columns"]
    filling = torch.zeros_like(columns)  # one more sample, as in data.batch
    filling[:, 0], filling[:, 2] = columns[:, 0].max() + 1, torch.arange(index.shape[1], device=index.device)
    taken["columns"] = torch.where(padding[:, None], filling, columns)
    return taken


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
