"""What a SEE policy leaves of a video, step by step: as a picture in which the rest is grey, and as a table.

Of a policy that reuses what the tower computed before, a cell is the greyer, the less of it was computed anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder, merged_grids
from swwatch.data.video import iter_steps
from swwatch.model.loading import Loaded, load
from swwatch.paths import make_folder
from swwatch.pictures.plots import pyplot, save
from swwatch.policies.see.seen import Seen
from swwatch.rules.patch import Patch

A_ROW = 6  # pictures
VEIL, GREY = 0.8, 190  # how much of what was dropped is covered, and by what


def show_seen(settings) -> int:
    """Draw it, or print it. `settings` are command.InspectSettings."""
    own = None if settings.variant == "all" else settings.variant
    loaded = load(settings.model, variant=own, see=settings.see)
    shown = list(seen_steps(loaded, settings.video, settings.steps))
    if settings.text:
        print(table(shown, loaded.settings.fps))
        return 0
    path = settings.out / f"{loaded.settings.see.name}.png"
    draw(shown, path, f"see {loaded.settings.see}: {kept_text(shown)}", loaded.settings.fps)
    print(path)
    return 0


@dataclass(frozen=True)
class SeenStep:
    """A step under a policy.

    Attributes:
        frame: its second, (h, w, 3) uint8, as the model gets it.
        patch: what is left of it.
        computed: (rows, columns), of each cell the share of its work in the tower that was done anew.
    """

    frame: np.ndarray
    patch: Patch
    computed: np.ndarray

    @property
    def num_kept(self) -> int:
        return self.patch.num_arrived - self.patch.num_dropped


def seen_steps(loaded: Loaded, video: Path, most: int) -> Iterator[SeenStep]:
    """The first steps of a video."""
    model, see = loaded.model, loaded.settings.see
    merge = model.config.vision_config.spatial_merge_size
    encoder, stream = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget]), Seen(see)
    for step in islice(iter_steps(video, max_frames=None, fps=loaded.settings.fps), most):
        frames = encoder.resize(step.frames, step.num_frames)
        pixels, grid_thw = encoder.patches(frames)
        (grid,) = merged_grids(grid_thw, merge)
        patch = stream.lay(pixels, grid)
        if see.decides_late:
            how = {"reuse": stream.reuse} if see.reuses else {}
            patch, _ = stream.look(model.watch_video(pixels, grid_thw, **how), grid, model.num_deep)
        blocks = stream.reuse.computed if see.reuses else []
        cells = [np.bincount(places.cpu().numpy() // merge**2, minlength=patch.num_arrived) for places in blocks]
        computed = np.mean(cells, axis=0) / merge**2 if cells else np.ones(patch.num_arrived)
        yield SeenStep(frames[-1].permute(1, 2, 0).numpy(), patch, computed.reshape(grid))


def kept_text(steps: list[SeenStep]) -> str:
    """In a line, how much is left, and of a policy that reuses, how much was computed."""
    left = f"{sum(step.num_kept for step in steps)} of {sum(step.patch.num_arrived for step in steps)} tokens are left"
    share = np.concatenate([step.computed.ravel() for step in steps]).mean()
    return left if share == 1 else f"{left}, {share:.0%} of the tower's places were computed"


def table(steps: list[SeenStep], fps: float) -> str:
    """A line a step: its second, and how many of its tokens are left."""
    lines = [f"{'second':>7} {'left':>5} {'of':>5}"]
    lines += [f"{i * 2 / fps:>7g} {step.num_kept:>5} {step.patch.num_arrived:>5}" for i, step in enumerate(steps)]
    return "\n".join([*lines, kept_text(steps)])


def veiled(step: SeenStep) -> np.ndarray:
    """A frame (h, w, 3) uint8 with the cells grey that were dropped, or not computed."""
    frame, patch = step.frame, step.patch
    veil = VEIL * (1 - step.computed)
    if patch.kept is not None:
        dropped = np.ones(patch.num_arrived, bool)
        dropped[list(patch.kept)] = False
        veil[dropped.reshape(veil.shape)] = VEIL
    height, width = frame.shape[0] // patch.rows, frame.shape[1] // patch.columns
    veil = veil.repeat(height, 0).repeat(width, 1)[..., None]
    return (frame * (1 - veil) + GREY * veil).astype(np.uint8)


def draw(steps: list[SeenStep], path: Path, title: str, fps: float) -> None:
    """Write one picture."""
    columns = min(A_ROW, len(steps))
    rows = -(-len(steps) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.2 * columns, 2.3 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, step) in enumerate(zip(axes.flat, steps, strict=False)):
        axis.imshow(veiled(step))
        left = f"{step.num_kept} of {step.patch.num_arrived}"
        computed = "" if step.computed.all() else f", {step.computed.mean():.0%}"
        axis.set_title(f"{number * 2 / fps:g} s: {left}{computed}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    make_folder(path.parent)
    save(figure, path, top=0.97)
