"""Pictures of one sample: its positions, who may attend to whom, and which tokens count in the loss."""

from itertools import pairwise
from pathlib import Path

import torch
from torch.nn.functional import max_pool2d

from swwatch.paths import make_folder, whole_file
from swwatch.rules.layout import KINDS, Kind, Layout
from swwatch.rules.variants import Speaks, Variant, get

COLOURS = {  # colour-blind safe (Okabe and Ito), one per kind of token
    Kind.PROMPT: "#999999",
    Kind.VIDEO: "#0072B2",
    Kind.SUFFIX: "#56B4E9",
    Kind.HEADER: "#E69F00",
    Kind.ANSWER: "#D55E00",
    Kind.AROUND: "#009E73",
    Kind.NOTE: "#F0E442",
    Kind.THOUGHT: "#CC79A7",
}
FEW = 400  # tokens that can be told apart in a picture; with more, grid and names are left out
SHORT = {Kind.VIDEO: "V", Kind.ANSWER: "A", Kind.THOUGHT: "C"}  # and the number of the step
NAMES = 45  # of stretches that find room along a mask; others that are shorter go without
CELLS = 1000  # of a mask's side at most: longer ones are drawn in blocks, coloured where any token sees any


def arrival_order(name: str, tokens: Layout) -> torch.Tensor:
    """Index that sorts tokens by when they arrive: step by step, what is watched before what is said."""
    if get(name).speaks is not Speaks.PARALLEL:
        return torch.arange(len(tokens))
    kind = tokens.kind_ids.clone()
    step = torch.where(tokens.where(Kind.PROMPT), -1, tokens.step)
    return torch.tensor(sorted(range(len(tokens)), key=lambda i: (int(step[i]), int(kind[i]), i)))


def draw(
    name: str,
    tokens: Layout,
    path: Path,
    title: str,
    counts: torch.Tensor | None = None,
    visible: torch.Tensor | None = None,
) -> None:
    """Write one picture: temporal positions by arrival on the left, the mask on the right.

    Args:
        counts: (L,) bool, the tokens with a label; drawn as a strip along the mask.
        visible: (L, L) bool, the mask; by default that of the tokens as one sample.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6.6), width_ratios=(1, 1))
    _draw_positions(left, name, tokens)
    _draw_mask(right, tokens, tokens.visible() if visible is None else visible, counts)
    handles = [Patch(color=c, label=k) for k, c in COLOURS.items() if bool(tokens.where(k).any())]
    if counts is not None:
        handles.append(Patch(color="black", label="counts in the loss (strip on the left of the mask)"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles))
    variant = get(name)
    figure.suptitle(f"{name} ({variant.paper}): speaks {variant.speaks.value}. {title}")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    make_folder(path.parent)
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)


def _draw_positions(axes, name: str, tokens: Layout) -> None:
    """The temporal axis, and the span of rows and columns of a patch behind it."""
    order = arrival_order(name, tokens)
    kinds, shown, step = tokens.kind_ids[order], tokens.position_ids[:, order].clone(), tokens.step[order]
    gaps = _closed_up(shown, get(name))
    few = len(order) <= FEW
    for number, kind in enumerate(KINDS):
        x = (kinds == number).nonzero()[:, 0]
        if len(x):
            axes.vlines(x, shown[:, x].amin(0), shown[:, x].amax(0), color=COLOURS[kind], lw=2, alpha=0.35)
            axes.plot(x, shown[0, x], "s", color=COLOURS[kind], ms=6 if few else 2)
    video = kinds == KINDS.index(Kind.VIDEO)
    begins = video[1:] & (~video[:-1] | (step[1:] != step[:-1]))
    for x in begins.nonzero()[:, 0].tolist():
        axes.axvline(x + 0.5, color="#cccccc", lw=0.8, zorder=0)
    if gaps:
        every, ticks = 5 if few else max(5, int(shown.max()) // 12), {}
        for (base, first), (end, _) in pairwise([(0, 0), *gaps, (int(shown.max()) + 3, 0)]):
            ticks |= {t: str(first + t - base) for t in range(base, end - 2, every)}
            axes.axhline(base - 2, color="#888888", lw=1 if base else 0, ls="--")
        axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set(xlabel="token, in order of arrival", ylabel="position id (square: t; bar: span of t, h, w)")
    axes.set_title("positions")


def _closed_up(shown: torch.Tensor, variant: Variant) -> list[tuple[int, int]]:
    """Close the gaps before axes that begin far away, in place, which would flatten everything else.

    Args:
        shown: (3, L) positions.
    Returns:
        Where each of these begins in the picture, and the position that it is.
    """
    gaps, moved = [], 0
    for first in sorted({variant.positions.first_thought, variant.positions.first} - {0}):
        far = shown >= first - moved
        if bool(far.any()) and bool((~far).any()):
            base = int(shown[~far].max()) + 4
            shown[far] -= first - moved - base
            moved = first - base
            gaps.append((base, first))
    return gaps


def _draw_mask(axes, tokens: Layout, visible: torch.Tensor, counts: torch.Tensor | None) -> None:
    """In training order, coloured by the kind of the token that is seen."""
    from matplotlib.colors import ListedColormap, to_rgb

    length = len(tokens)
    picture = torch.where(visible, tokens.kind_ids + 1, 0)
    if length > CELLS:
        size = -(-length // CELLS)
        picture = max_pool2d(picture[None].float(), size, ceil_mode=True)[0]
    palette = ListedColormap(["#ffffff", *(to_rgb(COLOURS[kind]) for kind in KINDS)])
    extent = (-0.5, length - 0.5, length - 0.5, -0.5)
    axes.imshow(picture.numpy(), cmap=palette, vmin=0, vmax=len(KINDS), interpolation="nearest", extent=extent)
    if length <= FEW:
        for edge in range(length + 1):
            axes.axhline(edge - 0.5, color="#e8e8e8", lw=0.3)
            axes.axvline(edge - 0.5, color="#e8e8e8", lw=0.3)
        _name_stretches(axes, tokens)
    if counts is not None:
        width = length / 40
        rows = counts.nonzero()[:, 0]
        axes.barh(rows, [width] * len(rows), height=1.0, left=-0.5 - width, color="black")
        axes.set_xlim(-0.5 - width, length - 0.5)
    axes.set(xlabel="key: the token that is seen", ylabel="query: the row of a token")
    axes.set_title("who may attend to whom (training order)")


def _name_stretches(axes, tokens: Layout) -> None:
    marks = [i for i in range(len(tokens)) if i == 0 or _label(tokens, i) != _label(tokens, i - 1)]
    for mark in marks[1:]:
        axes.axhline(mark - 0.5, color="#777777", lw=0.8)
        axes.axvline(mark - 0.5, color="#777777", lw=0.8)
    ends = marks[1:] + [len(tokens)]
    named = [
        (a, b)
        for a, b in zip(marks, ends, strict=True)
        if KINDS[tokens.kind_ids[a]] in SHORT or b - a >= len(tokens) / NAMES
    ]
    middles = [(a + b - 1) / 2 for a, b in named]
    names = [_label(tokens, i) for i, _ in named]
    axes.set_xticks(middles, names, rotation=90, fontsize=8)
    axes.set_yticks(middles, names, fontsize=8)


def _label(tokens: Layout, i: int) -> str:
    kind = KINDS[int(tokens.kind_ids[i])]
    return f"{SHORT[kind]}{int(tokens.step[i]) + 1}" if kind in SHORT else str(kind)
