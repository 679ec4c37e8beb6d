"""What a SEE policy leaves of a video, step by step: as a picture in which the rest is grey, and as a table."""

from collections.abc import Iterator
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
        print(table([patch for _, patch in shown], loaded.settings.fps))
        return 0
    path = settings.out / f"{loaded.settings.see.name}.png"
    draw(shown, path, f"see {loaded.settings.see}: {kept_text([patch for _, patch in shown])}", loaded.settings.fps)
    print(path)
    return 0


def seen_steps(loaded: Loaded, video: Path, most: int) -> Iterator[tuple[np.ndarray, Patch]]:
    """The first steps of a video: the second frame of each (h, w, 3) uint8, as the model gets it, and what is left."""
    model, see = loaded.model, loaded.settings.see
    encoder, stream = FrameEncoder(loaded.processor.video_processor, BUDGETS[loaded.settings.pixel_budget]), Seen(see)
    for step in islice(iter_steps(video, max_frames=None, fps=loaded.settings.fps), most):
        frames = encoder.resize(step.frames, step.num_frames)
        pixels, grid_thw = encoder.patches(frames)
        (grid,) = merged_grids(grid_thw, model.config.vision_config.spatial_merge_size)
        patch = stream.lay(pixels, grid)
        if see.decides_late:
            how = {"reuse": stream.reuse} if see.reuses else {}
            patch, _ = stream.look(model.watch_video(pixels, grid_thw, **how), grid, model.num_deep)
        yield frames[-1].permute(1, 2, 0).numpy(), patch


def num_kept(patch: Patch) -> int:
    return patch.num_arrived - patch.num_dropped


def kept_text(patches: list[Patch]) -> str:
    """In a line, how much is left."""
    return f"{sum(map(num_kept, patches))} of {sum(patch.num_arrived for patch in patches)} tokens are left"


def table(patches: list[Patch], fps: float) -> str:
    """A line a step: its second, and how many of its tokens are left."""
    lines = [f"{'second':>7} {'left':>5} {'of':>5}"]
    lines += [f"{i * 2 / fps:>7g} {num_kept(patch):>5} {patch.num_arrived:>5}" for i, patch in enumerate(patches)]
    return "\n".join([*lines, kept_text(patches)])


def veiled(frame: np.ndarray, patch: Patch) -> np.ndarray:
    """A frame (h, w, 3) uint8 with the cells grey that were dropped."""
    veil = np.full(patch.num_arrived, 0.0 if patch.kept is None else VEIL)
    veil[list(patch.kept or ())] = 0
    height, width = frame.shape[0] // patch.rows, frame.shape[1] // patch.columns
    veil = veil.reshape(patch.rows, patch.columns).repeat(height, 0).repeat(width, 1)[..., None]
    return (frame * (1 - veil) + GREY * veil).astype(np.uint8)


def draw(shown: list[tuple[np.ndarray, Patch]], path: Path, title: str, fps: float) -> None:
    """Write one picture."""
    columns = min(A_ROW, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.2 * columns, 2.3 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, (frame, patch)) in enumerate(zip(axes.flat, shown, strict=False)):
        axis.imshow(veiled(frame, patch))
        axis.set_title(f"{number * 2 / fps:g} s: {num_kept(patch)} of {patch.num_arrived}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    make_folder(path.parent)
    save(figure, path, top=0.97)
