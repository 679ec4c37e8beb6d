"""Draw the positions and the mask of a variant, as the paper's figures 2 and 3 do; or print them as text."""

import argparse
from pathlib import Path

import torch

from swwatch.errors import UserError
from swwatch.layout import KINDS, Kind, Layout
from swwatch.paths import make_folder
from swwatch.schedule import parse_schedule
from swwatch.variants import GAP, VARIANTS, Speaks, get, layout

COLOURS = {  # colour-blind safe (Okabe and Ito), one per kind of token
    Kind.PROMPT: "#999999",
    Kind.VIDEO: "#0072B2",
    Kind.SUFFIX: "#56B4E9",
    Kind.HEADER: "#E69F00",
    Kind.ANSWER: "#D55E00",
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch inspect", description=__doc__)
    parser.add_argument("--variant", default="all", choices=["all", *VARIANTS], help="one variant, or all six")
    parser.add_argument("--out", type=Path, default=Path("output/inspect"), help="folder for <variant>.png")
    parser.add_argument("--prompt-len", type=int, default=4, help="tokens before the video")
    parser.add_argument("--steps", type=int, default=4, help="video steps (seconds)")
    parser.add_argument("--grid", default="2x2", help="merged rows x columns of a step's patch")
    parser.add_argument("--answer-len", type=int, default=13, help="spoken tokens, <|im_end|> included")
    parser.add_argument("--schedule", default="wait-k:3", help="wait-k:3, random:3:seed=0")
    parser.add_argument("--text", action="store_true", help="print a table of tokens instead of drawing")
    return parser


def arrival_order(name: str, tokens: Layout) -> torch.Tensor:
    """Index that sorts tokens by when they arrive: step by step, what is watched before what is said."""
    if get(name).speaks is not Speaks.PARALLEL:
        return torch.arange(len(tokens))
    kind = tokens.kind_ids.clone()
    step = torch.where(tokens.where(Kind.PROMPT), -1, tokens.step)
    return torch.tensor(sorted(range(len(tokens)), key=lambda i: (int(step[i]), int(kind[i]), i)))


def table(tokens: Layout) -> str:
    """One line a token: index, kind, step, t, h, w, number of visible tokens."""
    lines = [f"{'i':>4} {'kind':7} {'step':>4} {'t':>6} {'h':>6} {'w':>6} {'sees':>5}"]
    counts = tokens.visible().sum(1).tolist()
    for i, (kind, step) in enumerate(zip(tokens.kind, tokens.step.tolist(), strict=True)):
        t, h, w = tokens.position_ids[:, i].tolist()
        lines.append(f"{i:>4} {kind:7} {step:>4} {t:>6} {h:>6} {w:>6} {counts[i]:>5}")
    return "\n".join(lines)


def draw(name: str, tokens: Layout, path: Path, title: str) -> None:
    """Write one picture: temporal positions by arrival on the left, the mask on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap, to_rgb
    from matplotlib.patches import Patch

    variant = get(name)
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 6.6), width_ratios=(1, 1))
    # 1) positions: the temporal axis, and the span of rows and columns of a patch behind it
    order = arrival_order(name, tokens)
    kinds, pos = [tokens.kind[i] for i in order], tokens.position_ids[:, order]
    shown = pos.clone()
    far = shown >= GAP  # the gap would flatten everything else
    base = int(pos[~far].max()) + 4 if bool(far.any()) and bool((~far).any()) else 0
    shown[far] = shown[far] - GAP + base
    for x, kind in enumerate(kinds):
        left.plot([x, x], [int(shown[:, x].min()), int(shown[:, x].max())], color=COLOURS[kind], lw=2, alpha=0.35)
        left.plot(x, int(shown[0, x]), "s", color=COLOURS[kind], ms=6)
    new_step = [x for x in range(1, len(kinds)) if kinds[x] == Kind.VIDEO and kinds[x - 1] != Kind.VIDEO]
    new_step += [
        x
        for x in range(1, len(kinds))
        if kinds[x] == kinds[x - 1] == Kind.VIDEO and tokens.step[order[x]] != tokens.step[order[x - 1]]
    ]
    for x in new_step:
        left.axvline(x - 0.5, color="#cccccc", lw=0.8, zorder=0)
    if base:
        left.axhline(base - 2, color="#888888", lw=1, ls="--")
        ticks = [t for t in left.get_yticks() if 0 <= t < base - 2] + [
            base + t for t in range(0, int(shown.max()) - base + 1, 5)
        ]
        left.set_yticks(ticks, [str(int(t)) if t < base else f"{GAP + int(t) - base}" for t in ticks])
    left.set(xlabel="token, in order of arrival", ylabel="position id (square: t; bar: span of t, h, w)")
    left.set_title("positions")
    # 2) mask: in training order, coloured by the kind of the token that is seen
    visible = tokens.visible()
    picture = torch.where(visible, tokens.kind_ids + 1, 0)
    palette = ListedColormap(["#ffffff", *(to_rgb(COLOURS[kind]) for kind in KINDS)])
    right.imshow(picture.numpy(), cmap=palette, vmin=0, vmax=len(KINDS), interpolation="nearest")
    for edge in range(len(tokens) + 1):
        right.axhline(edge - 0.5, color="#e8e8e8", lw=0.3)
        right.axvline(edge - 0.5, color="#e8e8e8", lw=0.3)
    marks = [i for i in range(len(tokens)) if i == 0 or _label(tokens, i) != _label(tokens, i - 1)]
    for mark in marks[1:]:
        right.axhline(mark - 0.5, color="#777777", lw=0.8)
        right.axvline(mark - 0.5, color="#777777", lw=0.8)
    ends = marks[1:] + [len(tokens)]
    middles = [(a + b - 1) / 2 for a, b in zip(marks, ends, strict=True)]
    names = [_label(tokens, i) for i in marks]
    right.set_xticks(middles, names, rotation=90, fontsize=8)
    right.set_yticks(middles, names, fontsize=8)
    right.set(xlabel="key: the token that is seen", ylabel="query: the row of a token")
    right.set_title("who may attend to whom (training order)")
    figure.legend(handles=[Patch(color=c, label=k) for k, c in COLOURS.items()], loc="lower center", ncols=5)
    figure.suptitle(f"{name} ({variant.paper}): speaks {variant.speaks.value}. {title}")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    make_folder(path.parent)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(tokens: Layout, i: int) -> str:
    kind, step = KINDS[int(tokens.kind_ids[i])], int(tokens.step[i]) + 1
    short = {Kind.VIDEO: f"V{step}", Kind.ANSWER: f"A{step}"}
    return short.get(kind, str(kind))


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    try:
        height, width = (int(n) for n in args.grid.lower().split("x"))
    except ValueError as error:
        raise UserError(f"--grid {args.grid!r} is not understood: write rows x columns, as 2x3") from error
    if min(args.steps, height, width) < 1 or min(args.prompt_len, args.answer_len) < 0:
        raise UserError("--steps and --grid must be at least 1, --prompt-len and --answer-len at least 0")
    schedule = parse_schedule(args.schedule)
    for name in VARIANTS if args.variant == "all" else [args.variant]:
        tokens = layout(name, args.prompt_len, [(height, width)] * args.steps, args.answer_len, schedule=schedule)
        if args.text:
            print(f"{name}\n{table(tokens)}")
            continue
        if len(tokens) > 400:
            raise UserError(f"{len(tokens)} tokens cannot be drawn readably: choose fewer, or --text")
        path = args.out / f"{name}.png"
        draw(name, tokens, path, f"{args.steps} steps, schedule {schedule}")
        print(path)
    return 0
