"""Comment on a video in chat turns, for as long as it lasts, as StreamingVLM and LiveCC do."""

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from swwatch.data.video import iter_steps
from swwatch.engine.requests import drive
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.engine.turns import default_windows
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.narrate.turns import Turn, turn_narration
from swwatch.narrate.words import Token
from swwatch.policies import keep as evict
from swwatch.policies.choose import Choosing
from swwatch.rules import turn_positions as positions
from swwatch.rules.systems import SYSTEMS, get
from swwatch.rules.variants import TURNS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch turns", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--video", required=True, help="a video file of any length")
    parser.add_argument("--system", choices=list(SYSTEMS), help="needed where the checkpoint does not name one")
    parser.add_argument("--query", help="what is asked in the first turn (default: the system's own)")
    parser.add_argument("--previous", default="", help="what was said before (systems that keep previous text)")
    parser.add_argument("--eviction", choices=list(evict.POLICIES), help="what is forgotten (default: the system's)")
    parser.add_argument("--positions", choices=list(positions.POLICIES), help="where tokens stand (likewise)")
    parser.add_argument("--vision-seconds", type=float, help="seconds of video that stay in view")
    parser.add_argument("--turns-seconds", type=float, help="seconds for which answers stay turns of their own")
    parser.add_argument("--text-sink", type=int, help="first tokens of the previous text that stay")
    parser.add_argument("--text-window", type=int, help="last tokens of it that stay")
    parser.add_argument("--flush-seconds", type=float, help="all video goes when there is so much of it")
    parser.add_argument("--steps-per-turn", type=int, default=1, help="seconds in a turn (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, help="of a turn")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token instead of drawing one")
    parser.add_argument("--temperature", type=float, help="of draws (default: the system's, else the checkpoint's)")
    parser.add_argument("--top-k", type=int, help="draw among so many; 0 is off (default: the checkpoint's, else 50)")
    parser.add_argument("--top-p", type=float, help="draw among so much; 1 is off (default: the checkpoint's, else 1)")
    parser.add_argument("--repetition-penalty", type=float, help="1 is off")
    parser.add_argument(
        "--threshold", type=float, help='" ..." must be likelier than this: higher talks more (LiveCC)'
    )
    parser.add_argument("--threshold-step", type=float, default=0.0, help="added to it with every token of a turn")
    parser.add_argument("--seed", type=int, default=42, help="of the draws (%(default)s)")
    parser.add_argument("--realtime", action="store_true", help="play the file at its own pace")
    parser.add_argument("--jsonl", type=Path, help="write one JSON object per turn here")
    parser.add_argument("--vtt", type=Path, help="write subtitles (WebVTT) here")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    return parser


USES = {  # flags that have a use only where something is forgotten so, or words are drawn
    "slides": ("vision_seconds", "turns_seconds", "text_sink", "text_window"),
    "restarts": ("vision_seconds",),
    "flushes": ("flush_seconds",),
    "draws": ("temperature", "top_k", "top_p"),
}


def session_options(args: argparse.Namespace, system: str) -> dict:
    """What the flags ask of a session; what they leave out is the system's own.

    Raises:
        UserError: numbers that make no sense.
    """
    row = get(system)
    names = {"vision_s": "vision_seconds", "turns_s": "turns_seconds", "flush_s": "flush_seconds"}
    names |= {"text_sink": "text_sink", "text_window": "text_window"}
    windows = {key: getattr(args, flag) for key, flag in names.items() if getattr(args, flag) is not None}
    asked = {key: getattr(args, key) for key in ("max_new_tokens", "temperature", "repetition_penalty")}
    sampling = replace(row.sampling, **{key: value for key, value in asked.items() if value is not None})
    if args.greedy:
        sampling = replace(sampling, do_sample=False)
    if args.steps_per_turn < 1:
        raise UserError(f"--steps-per-turn must be at least 1, not {args.steps_per_turn}")
    windows = replace(default_windows(row), **windows)
    check_use(args, evict.get(args.eviction or row.eviction), windows)
    return {
        "query": args.query,
        "previous": args.previous,
        "eviction": args.eviction,
        "policy": args.positions,
        "windows": windows,
        "steps_per_turn": args.steps_per_turn,
        "choosing": Choosing(sampling, args.top_k, args.top_p, args.threshold, args.threshold_step, args.seed),
    }


def check_use(args: argparse.Namespace, eviction: evict.Eviction, windows: evict.Windows) -> None:
    """Refuse flags that would change nothing, and a way to forget that would forget nothing.

    Raises:
        UserError: there is one.
    """
    used = {flag for how, flags in USES.items() if how != "draws" and getattr(eviction, how) for flag in flags}
    used |= set() if args.greedy else set(USES["draws"])
    for flag in dict.fromkeys(flag for flags in USES.values() for flag in flags):
        if getattr(args, flag) is not None and flag not in used:
            why = "--greedy" if flag in USES["draws"] else f"--eviction {eviction.name}"
            raise UserError(f"--{flag.replace('_', '-')} has no use with {why}: leave one of them out")
    if args.threshold is None and args.threshold_step:
        raise UserError("--threshold-step is added to --threshold: give both")
    held = {"vision_seconds": windows.vision_s} if eviction.slides or eviction.restarts else {}
    held |= {"flush_seconds": windows.flush_s} if eviction.flushes else {}
    for flag, value in held.items():
        if value is None:
            raise UserError(f"--eviction {eviction.name} would keep all video here: give --{flag.replace('_', '-')}")


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    steps = iter_steps(args.video, max_frames=None)  # an unreadable file is told before a model is loaded
    where = {"device": args.device, "dtype": args.dtype, "attention": args.attention}
    loaded = load(args.model, variant=args.system, **where)
    system = loaded.settings.variant
    if system not in TURNS:
        raise UserError(f"{args.model} is trained as {system!r}, which does not stream in turns: use swwatch stream")
    options = session_options(args, system)
    print(f"{args.video} | {system} | {args.query or get(system).query}")
    clock = RealTimeClock() if args.realtime else SimulatedClock()
    with ExitStack() as stack:
        jsonl, vtt = (_open(stack, path) for path in (args.jsonl, args.vtt))
        if vtt:
            print("WEBVTT", file=vtt)
        begun = False
        for event in drive(loaded.model, turn_narration(loaded, steps, clock=clock, **options)):
            if isinstance(event, Token):
                if not begun:
                    print(f"{event.t_frame_s + 0.5:8.1f} s |", end="")
                    begun = True
                print(event.text.replace("\n", " "), end="", flush=True)
            elif isinstance(event, Turn):
                print()
                begun = False
                if jsonl:
                    print(json.dumps({"type": "segment"} | asdict(event), ensure_ascii=False), file=jsonl, flush=True)
                if vtt and event.text:
                    print(cue(event), file=vtt, flush=True)
    return 0


def cue(turn: Turn) -> str:
    """A turn as a WebVTT cue, with the blank line before it."""
    text = turn.text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return f"\n{_stamp(turn.start_s)} --> {_stamp(turn.end_s)}\n{text}"


def _stamp(seconds: float) -> str:
    minutes, left = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left // 1000:02}.{left % 1000:03}"


def _open(stack: ExitStack, path: Path | None):
    if path is None:
        return None
    try:
        return stack.enter_context(open(path, "w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
