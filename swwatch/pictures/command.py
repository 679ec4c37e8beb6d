"""Draw the positions and the mask of a variant, as the paper's figures 2 and 3 do; or print them as text.

With --seconds it is a stream without end: what is kept as time goes by, what was let go, and where the rest stands. So
for streamingvlm and livecc always.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from swwatch.engine.endless import Window
from swwatch.errors import UserError
from swwatch.pictures import endless as kept
from swwatch.pictures import endless_drawing as kept_drawing
from swwatch.pictures.sample import FEW, draw
from swwatch.policies import keep as evict
from swwatch.policies.speak import parse_schedule
from swwatch.rules import turn_positions as positions
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Layout
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import VARIANTS

LONGEST_S = 600  # of a stream that is drawn


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch inspect", description=summary, epilog=details)
    parser.add_argument("--variant", default="all", choices=["all", *VARIANTS, *SYSTEMS], help="one, or all variants")
    parser.add_argument("--out", type=Path, default=Path("output/inspect"), help="folder for <variant>.png")
    parser.add_argument("--prompt-len", type=int, default=4, help="tokens before the video")
    parser.add_argument("--steps", type=int, default=4, help="video steps (seconds)")
    parser.add_argument("--grid", default="2x2", help="merged rows x columns of a step's patch")
    parser.add_argument("--answer-len", type=int, default=13, help="spoken tokens, <|im_end|> included")
    parser.add_argument("--schedule", default="wait-k:3", help="wait-k:3, random:3:seed=0")
    parser.add_argument("--text", action="store_true", help="print a table of tokens instead of drawing")
    endless = parser.add_argument_group("streams without end", "whose defaults are small, so that something goes")
    endless.add_argument("--seconds", type=int, help="of the stream (default: 60 for streamingvlm and livecc)")
    endless.add_argument("--words", type=int, default=3, help="said a second (%(default)s)")
    endless.add_argument("--window", type=int, default=16, help="seconds of video that are kept (%(default)s)")
    endless.add_argument("--text-sink", type=int, default=12, help="first words that are kept (%(default)s)")
    endless.add_argument("--text-window", type=int, default=24, help="last words that are kept (%(default)s)")
    endless.add_argument("--flush", type=int, default=20, help="all video goes when there is so much (%(default)s s)")
    endless.add_argument("--eviction", choices=list(evict.POLICIES), help="of streamingvlm, livecc (default: theirs)")
    endless.add_argument("--positions", choices=list(positions.POLICIES), help="likewise")
    return parser


def table(tokens: Layout) -> str:
    """One line a token: index, kind, step, t, h, w, number of visible tokens."""
    lines = [f"{'i':>4} {'kind':7} {'step':>4} {'t':>6} {'h':>6} {'w':>6} {'sees':>5}"]
    counts = tokens.visible().sum(1).tolist()
    for i, (kind, step) in enumerate(zip(tokens.kind, tokens.step.tolist(), strict=True)):
        t, h, w = tokens.position_ids[:, i].tolist()
        lines.append(f"{i:>4} {kind:7} {step:>4} {t:>6} {h:>6} {w:>6} {counts[i]:>5}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    try:
        height, width = (int(n) for n in args.grid.lower().split("x"))
    except ValueError as error:
        raise UserError(f"--grid {args.grid!r} is not understood: write rows x columns, as 2x3") from error
    if min(args.steps, height, width) < 1 or min(args.prompt_len, args.answer_len) < 0:
        raise UserError("--steps and --grid must be at least 1, --prompt-len and --answer-len at least 0")
    if args.seconds is not None or args.variant in SYSTEMS:
        return draw_story(args, height, width)
    schedule = parse_schedule(args.schedule)
    for name in VARIANTS if args.variant == "all" else [args.variant]:
        tokens = layout(name, args.prompt_len, [(height, width)] * args.steps, args.answer_len, schedule=schedule)
        if args.text:
            print(f"{name}\n{table(tokens)}")
            continue
        if len(tokens) > FEW:
            raise UserError(f"{len(tokens)} tokens cannot be drawn readably: choose fewer, or --text")
        path = args.out / f"{name}.png"
        draw(name, tokens, path, f"{args.steps} steps, schedule {schedule}")
        print(path)
    return 0


def draw_story(args: argparse.Namespace, height: int, width: int) -> int:
    """A stream without end."""
    seconds = args.seconds if args.seconds is not None else 60
    if not 5 <= seconds <= LONGEST_S or args.words < 1:
        raise UserError(f"--seconds must be 5 to {LONGEST_S}, --words at least 1")
    if args.variant == "all":
        raise UserError("a stream without end is drawn of one variant: say --variant group, streamingvlm, ...")
    if args.variant in SYSTEMS:
        row = evict.default_windows(SYSTEMS[args.variant])
        asked = {"vision_s": args.window, "turns_s": args.window, "text_sink": args.text_sink}
        asked |= {"text_window": args.text_window, "flush_s": args.flush}
        eviction = evict.get(args.eviction or SYSTEMS[args.variant].eviction)
        used = ("vision_s", "turns_s", "text_sink", "text_window") if eviction.slides or eviction.restarts else ()
        used += ("flush_s",) if eviction.flushes else ()
        windows = replace(row, **{key: asked[key] for key in used})
        how = {"eviction": args.eviction, "policy": args.positions, "windows": windows}
        story = kept.turns_story(args.variant, seconds, (height, width), args.words, **how)
    elif args.eviction or args.positions:
        raise UserError("--eviction and --positions are for --variant streamingvlm and livecc")
    else:
        window = Window(args.window, args.text_sink, args.text_window)
        story = kept.endless_story(args.variant, seconds, (height, width), args.words, args.prompt_len, window)
    if args.text:
        print(f"{story.title}\n{kept_drawing.table(story)}")
        return 0
    path = args.out / f"{args.variant}_endless.png"
    kept_drawing.draw(story, height * width, path)
    print(path)
    return 0
