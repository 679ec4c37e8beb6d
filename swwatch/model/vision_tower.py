"""The vision tower for steps whose grid comes again and again: nothing waits for the device, one launch a step.

What depends on the grid alone (positions, windows, borders of chunks) is computed on the host once, and from then on
the tower has nothing to ask the device for. With CUDA graphs the step of one session is recorded for its grid.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from swwatch.data.pixels import merged_grids
from swwatch.model.cuda_graphs import CudaGraphs
from swwatch.model.vision_attention import Chunks
from swwatch.model.vision_blocks import with_blocks_run_by
from swwatch.policies.see.policy import TowerState
from swwatch.rules.chosen import chosen, sent

MAX_RECORDED = 16  # grids; a source that changes its resolution for ever must not fill the memory
MAX_LAYOUTS = 64

Grids = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class VideoFeatures:
    """Embeddings (merged tokens, W), see model.streaming, that may not be there yet.

    Attributes:
        kept: which of them are wanted; None: all.
    """

    embeds: torch.Tensor
    done: torch.cuda.Event | None = None
    kept: tuple[int, ...] | None = None

    @property
    def ready(self) -> bool:
        """Whether they are there."""
        return self.done is None or self.done.query()

    def take(self) -> torch.Tensor:
        """The embeddings, for work that the current CUDA stream does from now on. The host does not wait."""
        if self.done is not None:
            here = torch.cuda.current_stream(self.embeds.device)
            here.wait_event(self.done)
            self.embeds.record_stream(here)  # or their memory could be given away while this stream reads
        return self.embeds if self.kept is None else self.embeds[chosen(self.kept, self.embeds.device)]


class VisionTower:
    """A model's vision tower with merger."""

    def __init__(self, model, device: torch.device, graphs: bool):
        self._model, self._visual, self._device = model, model.model.visual, device
        self._layouts: OrderedDict[Grids, dict] = OrderedDict()
        self._pixels: dict[Grids, torch.Tensor] = {}  # where recorded steps find theirs
        self._graphs = CudaGraphs(device) if graphs else None
        self._stream = torch.cuda.Stream(device) if graphs else None

    @property
    def num_graphs(self) -> int:
        return len(self._graphs or ())

    @torch.no_grad()
    def look(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> VideoFeatures:
        """Pixels (patches, D) of one or more steps to embeddings, on a CUDA stream of its own where graphs are.

        Args:
            grid_thw: (n, 3) on the CPU, patches before the merge.
        """
        grids = tuple(map(tuple, grid_thw.tolist()))
        if self._stream is None:
            return VideoFeatures(self._run(pixel_values, grids))
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # the pixels may still be in the making
        with torch.cuda.stream(self._stream):
            embeds = self._run(pixel_values, grids)
            done = torch.cuda.Event()
            done.record()
        if pixel_values.is_cuda:
            pixel_values.record_stream(self._stream)
        return VideoFeatures(embeds, done)

    @torch.no_grad()
    def warm_up(self, grid_thw: torch.Tensor) -> None:
        """Prepare for steps of this grid (1, 3)."""
        first = self._visual.patch_embed.proj
        width = first.in_channels * first.kernel_size[0] * first.kernel_size[1] * first.kernel_size[2]
        self.look(torch.zeros((int(grid_thw.prod()), width)), grid_thw)

    def _run(self, pixel_values: torch.Tensor, grids: Grids) -> torch.Tensor:
        recorded = len(grids) == 1 and (grids in self._pixels or len(self._pixels) < MAX_RECORDED)
        if self._graphs is None or not recorded:
            pixels = pixel_values.to(self._device, self._visual.dtype, non_blocking=True)
            return self._compute(pixels, grids, self._layout(grids))
        if grids not in self._pixels:
            self._pixels[grids] = torch.zeros(pixel_values.shape, dtype=self._visual.dtype, device=self._device)
        pixels, layout = self._pixels[grids], self._layout(grids)
        pixels.copy_(pixel_values, non_blocking=True)
        return self._graphs.run(grids, lambda: self._compute(pixels, grids, layout)).clone()

    def _compute(self, pixels: torch.Tensor, grids: Grids, layout: dict) -> torch.Tensor:
        return seen_by(self._model, pixels, torch.tensor(grids), layout)

    def _layout(self, grids: Grids) -> dict:
        if grids not in self._layouts:
            while len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.popitem(last=False)
            self._layouts[grids] = layout_of(self._model, torch.tensor(grids), self._device)
        self._layouts.move_to_end(grids)
        return self._layouts[grids]


def layout_of(model, grid_thw: torch.Tensor, device: torch.device) -> dict:
    """What transformers' tower would ask a grid for, and wait for on a device, under the names by which it takes it
    ready made. Computed on the host.

    Args:
        model: a Watching whose tower attends with "sdpa".
        grid_thw: (n, 3) on the CPU, patches before the merge.
    """
    visual, family = model.model.visual, model.family
    layout = {
        "position_ids": get_vision_position_ids(grid_thw, visual.spatial_merge_size),
        "cu_seqlens": Chunks.of(get_vision_cu_seqlens(grid_thw), device),
        "max_seqlen": 0,  # flash-attention's backend would compute it from the borders; nobody reads it here
    }
    if family.resampled:
        how = {"mode": visual.interpolation_mode, "align_corners": visual.interpolation_align_corners}
        how |= {"num_grid_per_side": visual.num_grid_per_side, "spatial_merge_size": visual.spatial_merge_size}
        taps, weights = get_vision_interpolation_indices_and_weights(grid_thw, **how)
        layout |= {"interp_indices": taps, "interp_weights": weights}
    if family.windows:
        sizes = {"spatial_merge_size": visual.spatial_merge_size, "patch_size": visual.patch_size}
        index, borders = get_vision_window_index(grid_thw, window_size=visual.window_size, **sizes)
        layout |= {"window_index": index, "cu_window_seqlens": Chunks.of(borders, device), "max_window_seqlen": 0}
    here = {name: part for name, part in layout.items() if isinstance(part, torch.Tensor)}
    return layout | {name: sent(part, device) for name, part in here.items()}


def seen_by(
    model, pixels: torch.Tensor, grid_thw: torch.Tensor, layout: dict, reuse: TowerState | None = None
) -> torch.Tensor:
    """Pixels (patches, D) in the tower's dtype -> embeddings (merged tokens, W). Nothing waits for the device.

    Args:
        grid_thw, layout: see `layout_of`.
        reuse: runs the tower's blocks, for one patch; None: they run as they are.
    Raises:
        UserError: `reuse` needs another tower.
    """
    visual = model.model.visual
    if reuse is not None:
        reuse.policy.check_tower(model.family.windows, "this model")
        (grid,) = merged_grids(grid_thw, visual.spatial_merge_size)
        reuse.enter(*grid)
        visual = with_blocks_run_by(reuse, visual)
    seen = visual(pixels, grid_thw=grid_thw, **layout)
    deep = seen.deepstack_features if model.num_deep else []
    return torch.cat([seen.pooler_output, *deep], dim=-1) if deep else seen.pooler_output
