"""What a KEEP policy has in view of a stream, second by second, from sessions of a real model.

A token is known again by its values in the first layer, which are made of its embedding alone, wherever it stands and
whatever was read before it. So one way of looking serves every row of the table, in narrations and in chat turns. What
further layers keep of their own is not shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.patches import Patch
from PIL import Image

from swwatch.data.prompt import ask_ids
from swwatch.engine.door import open_stream
from swwatch.engine.source import Ask
from swwatch.model.dummy import ScriptedChooser
from swwatch.model.loading import Loaded, load
from swwatch.paths import make_folder, whole_file
from swwatch.pictures.decided import SAID
from swwatch.pictures.endless import Seconds, moments
from swwatch.pictures.plots import panels, save, sheet
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import KEEP, parse_keep
from swwatch.policies.speak import WaitK
from swwatch.rules.variants import TURNS, Speaks

FIRST_WORD = 94  # ids from here on are bytes that no English prompt has; each second says one of them, again and again
QUESTION = "What was there before?"
TOLERANCE = 1e-3  # of the length of what is compared: in other company a token's last digits are others

TO_COME, GONE, ON_HOST, MERGED, IN_VIEW = range(5)
A_ROW = 3  # pictures of a sheet
COLOURS = ("#FFFFFF", "#E3E3E3", "#E69F00", "#9CCBE8", "#0072B2")
NUM_COLOURS = 32  # of the file
NAMES = ("", "forgotten", "in host memory", "as a mean", "in view")

# of the rows whose defaults let nothing go within the minute that is drawn
EXAMPLES = {
    "window": "window:12:text_sink=6:text_window=12",
    "sink_window": "sink_window:12:turns_s=16:text_sink=6:text_window=12",
    "flush": "flush:20",
    "recompute": "recompute:12:turns_s=16:text_sink=6:text_window=12",
    "key_norm": "key_norm:12",
    "rekv": "rekv:8:vision_s=12:host_mb=0.05:text_sink=6:text_window=12",
    "peak_end": "peak_end:16",
    "livevlm": "livevlm:48:vision_s=12:text_sink=6:text_window=12",
    "carrier": "carrier:24:turns_s=12:text_sink=6:text_window=12",
    "vstream": "vstream:12:detail=6:turns_s=12:text_sink=6:text_window=12",
}


@dataclass
class Noise(Seconds):
    """A source of seconds of noise, and a question in the middle of them.

    Attributes:
        loaded: whose eyes they are for.
        asked_after: seconds after which the question comes.
        seen: (C, W) what the tower makes of each second so far.
    """

    loaded: Loaded | None = None
    asked_after: int = 0

    def __post_init__(self):
        self.seen: list[torch.Tensor] = []
        self._generator = torch.Generator().manual_seed(0)

    def poll(self):
        step = super().poll()
        config = self.loaded.model.config.vision_config
        merge = config.spatial_merge_size
        grid = step.grid_thw * torch.tensor([1, merge, merge])
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        pixels = torch.randn(int(grid.prod()), width, generator=self._generator)
        self.seen.append(self.loaded.model.watch_video(pixels, grid))
        return type(step)(pixels, grid, step.arrival_s, False)

    def orders(self) -> list[Ask]:
        if self.taken != self.asked_after:
            return []
        self.asked_after = -1  # once
        return [Ask(tuple(ask_ids(self.loaded.tokenizer, QUESTION, self.loaded.markup)), QUESTION)]


@dataclass
class View:
    """What was in view as time went by.

    Attributes:
        title: variant and policy.
        video: (seconds, seconds C) at each moment, what has become of every token of video.
        words: (seconds, seconds) at each moment, the share of every second's words that is in view; nan: to come.
    """

    title: str
    video: np.ndarray
    words: np.ndarray


def view(loaded: Loaded, keep: str, seconds: int, grid: tuple[int, int], words: int) -> View:
    """Stream so many seconds, and look at the session after the words of each.

    Args:
        grid: merged rows and columns of a second.
        words: said in a second.
    Raises:
        UserError: the variant cannot be kept so.
    """
    variant, cells = loaded.settings.variant, grid[0] * grid[1]
    in_turns = variant in TURNS
    how = {"choose": Greedy(1.0, words + 2)} if in_turns else {"choose": Greedy(), "schedule": WaitK(words)}
    session = open_stream(loaded, keep=keep, **how)
    end = (*session.turns.ellipsis, session.turns.im_end) if in_turns else ()
    spoken = count()
    said = (FIRST_WORD + i // words for i in spoken)
    session.chooser = ScriptedChooser(session.chooser, words + 2 if in_turns else 1 << 40, end, said)
    source = Noise(*grid, loaded=loaded, asked_after=seconds * 2 // 3)
    shown = View(
        f"{variant}, keep {session.keep}",
        np.full((seconds, seconds * cells), TO_COME, np.uint8),
        np.full((seconds, seconds), np.nan),
    )
    for event in moments(session, source, seconds, 0 if in_turns else words):
        now = min(seconds, round(event.end_s) if in_turns else event.step + 1)
        video, share = look(session, source.seen, words)
        shown.video[now - 1, : len(video)] = video
        shown.words[now - 1, : len(share)] = share[:seconds]
    return shown


def look(session, seen: list[torch.Tensor], words: int) -> tuple[np.ndarray, np.ndarray]:
    """What has become of every token of video, (S C), and which share of each second's words is in view, (S).

    Args:
        seen: (C, W) of each of S seconds.
    """
    cells = len(seen[0])
    stores = session.cache.layers[0].stores.values()
    held = torch.cat([store[1, 0].transpose(0, 1).flatten(1) for store in stores])
    parked = [block.values[0].transpose(0, 1).flatten(1) for block in session.cache.parking.blocks]
    state = np.full(len(seen) * cells, GONE, np.uint8)
    if parked:
        state[found(session, torch.cat(seen), torch.cat(parked)).nonzero()[:, 0].numpy()] = ON_HOST
    for second, mean in means_of(session, seen):
        if bool(found(session, mean, held).any()):
            state[second * cells : (second + 1) * cells] = MERGED
    state[found(session, torch.cat(seen), held).nonzero()[:, 0].numpy()] = IN_VIEW

    said = [FIRST_WORD + second for second in range(len(seen))]
    pending = [token for ids, _ in session.pending for token in ids]  # said, and not fed yet
    fed = (distances(session, session.model.embed(said), held) < TOLERANCE).sum(1).tolist()
    counts = [number + pending.count(token) for number, token in zip(fed, said, strict=True)]
    return state, np.array(counts) / words


def means_of(session, seen: list[torch.Tensor]) -> Iterator[tuple[int, torch.Tensor]]:
    """(second, (n, W)): what may stand for a second's patch in its place."""
    if session.keep.carries:
        yield from ((second, patch.mean(0, keepdim=True)) for second, patch in enumerate(seen))
    if session.keep.merges:
        memory = session.memory if session.variant.speaks is Speaks.TURNS else session._forgetting.memory
        yield from ((round(cluster.time), cluster.mean) for cluster in memory.clusters)


def found(session, embeds: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """(n,) which of (n, W) embeddings are among (K, F) values."""
    return distances(session, embeds, held).amin(1) < TOLERANCE


def distances(session, embeds: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """(n, K) between the values that the first layer makes of embeddings (n, W), and others (K, F), in lengths of
    these."""
    layer = session.model.model.language_model.layers[0]
    values = layer.self_attn.v_proj(layer.input_layernorm(embeds))
    far = torch.cdist(values, held, compute_mode="donot_use_mm_for_euclid_dist")
    return far / held.norm(dim=-1).clamp(min=1e-9)


# ---- pictures -------------------------------------------------------------------------------------------------------


def show_kept(settings) -> int:
    """Draw one policy, or all. `settings` are command.InspectSettings."""
    seconds = 60 if settings.seconds is None else settings.seconds
    if settings.keep is None:
        path = settings.out / "keep.png"
        views = [view(loaded, keep, seconds, settings.size, 1) for loaded, keep in rows_of(settings.model)]
        draw_sheet(views, path)  # of video alone: one word a second is the least, and the fastest
    else:
        keep = parse_keep(settings.keep)
        path = settings.out / f"keep_{keep.name}.png"
        loaded = load(settings.model, variant=variant_for(keep, settings.variant), device="cpu")
        draw(view(loaded, settings.keep, seconds, settings.size, settings.words), path)
    print(path)
    return 0


def variant_for(keep, variant: str) -> str:
    """The one that was asked for, else one that can be kept so: narrations come first."""
    if variant != "all":
        return variant
    return "group" if Speaks.PARALLEL in keep.for_whom else "streamingvlm"


def rows_of(model: str) -> Iterator[tuple[Loaded, str]]:
    """Every row of KEEP that forgets, as an example, with a model that can be kept so. Rows for thoughts are left out:
    the system that they are for has no words of its own."""
    known = {}
    for name, kind in KEEP.items():
        keep = parse_keep(EXAMPLES.get(name, name))
        if kind.forgets and not kind.folds:
            variant = variant_for(keep, "all")
            known[variant] = known.get(variant) or load(model, variant=variant, device="cpu")
            yield known[variant], str(keep)


def draw(shown: View, path: Path) -> None:
    """Write one picture: what became of the video, and which words were in view."""
    figure, (left, right) = panels(1, 2, (10, 4.4))
    paint(left, shown)
    seconds = len(shown.words)
    extent = (0.5, seconds + 0.5, -0.5, seconds - 0.5)
    shares = LinearSegmentedColormap.from_list("words", [COLOURS[GONE], SAID])
    right.imshow(shown.words.T, origin="lower", extent=extent, aspect="auto", cmap=shares, vmin=0, vmax=1)
    right.grid(False)
    left.set(xlabel="seconds streamed", ylabel="second of the video", title="video")
    right.set(xlabel="seconds streamed", ylabel="second at which they were said", title="words in view")
    finish(figure, path, shown.title, top=0.86)


def draw_sheet(views: list[View], path: Path) -> None:
    """Write one picture with the video of each."""
    rows = -(-len(views) // A_ROW)
    figure, axes = sheet(len(views), A_ROW, (8.5, 1.7 * rows + 0.6))
    for axis, shown in zip(axes, views, strict=True):
        paint(axis, shown)
        axis.set_title(shown.title.partition(":text_sink")[0].partition(":top")[0], fontsize=8)
        axis.tick_params(labelsize=7)
    finish(figure, path, "across: seconds streamed; up: seconds of the video, four tokens each", top=0.93)


def paint(axis, shown: View) -> None:
    """A column for each moment, a line for each token of video."""
    seconds = len(shown.video)
    extent = (0.5, seconds + 0.5, -0.5, seconds - 0.5)
    colours = ListedColormap(COLOURS)
    how = {"cmap": colours, "vmin": 0, "vmax": len(COLOURS) - 1, "interpolation": "nearest", "aspect": "auto"}
    axis.imshow(shown.video.T, origin="lower", extent=extent, **how)
    axis.grid(False)


def finish(figure, path: Path, title: str, top: float) -> None:
    """Write a figure with what the colours are, in few bytes."""
    handles = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, NAMES, strict=True) if name]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), fontsize=8, title=title or None)
    make_folder(path.parent)
    save(figure, path, top=top)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(NUM_COLOURS)
    with whole_file(path) as part:
        few.save(part, optimize=True)
