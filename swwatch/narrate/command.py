"""Narrate one video while watching it: live text in the terminal, one JSON object per token with --jsonl.

Lines of --jsonl with a `token_id` are tokens; others name their `event`, watched or asked.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch

from swwatch.data.prompt import load_prompts
from swwatch.data.video import FRAMES_PER_STEP, iter_steps
from swwatch.engine.choose import AUTO, ENGINES, choose, open_watcher
from swwatch.engine.endless import Window
from swwatch.engine.requests import drive
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.narrate.latency import show_lag
from swwatch.narrate.words import Token, narration, quicken
from swwatch.policies.speak import parse_schedule
from swwatch.rules.variants import VARIANTS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch stream", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--video", required=True, help="a video file")
    parser.add_argument("--variant", choices=list(VARIANTS), help="needed where the checkpoint does not name one")
    parser.add_argument("--schedule", help="wait-k:3, random:3:seed=0 (default: the checkpoint's own)")
    parser.add_argument(
        "--engine", default=AUTO, choices=[AUTO, *ENGINES], help="who watches while words are said (default: auto)"
    )
    parser.add_argument("--question", help="what to ask (default: the evaluation question of configs/prompts.yaml)")
    parser.add_argument("--pixel-budget", help="declared or release (default: the checkpoint's own, else declared)")
    parser.add_argument(
        "--max-new-tokens", type=int, help="limit of the whole answer (default: 300, with --window none)"
    )
    parser.add_argument("--repetition-penalty", type=float, default=1.15, help="1 is off")
    parser.add_argument(
        "--stop-early", action="store_true", help="let <|im_end|> end the answer before the last second"
    )
    parser.add_argument(
        "--max-frames", type=int, default=60, help="longest video accepted without --window, in frames at 2 fps"
    )
    parser.add_argument(
        "--window", type=int, metavar="SECONDS", help="for streams without end: keep the newest seconds of video"
    )
    parser.add_argument("--text-sink", type=int, default=512, help="first answer tokens that stay with --window (512)")
    parser.add_argument("--text-window", type=int, default=512, help="last answer tokens that stay with it (512)")
    parser.add_argument("--jsonl", type=Path, help="write one JSON object per token here")
    parser.add_argument("--realtime", action="store_true", help="play the file at its own pace, and show every lag")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument(
        "--attention",
        help="sdpa, eager or flash_attention_2 (default: the fastest that is exact; on cuda recorded forwards)",
    )
    return parser


def show(events: Iterable, out=None) -> Iterator:
    """Print text as it is spoken, one line for each second that has words; pass all events on.

    A line tells the newest second that had been seen, how far behind its arrival the first word came, and the words.
    """
    out = out or sys.stdout
    step = None
    for event in events:
        if isinstance(event, Token):
            if event.step != step:
                step, lag = event.step, event.t_emit_s - event.t_frame_s
                start = "" if event.text.startswith(" ") else " "
                seen = f"0-{event.newest_visible_step + 1} s"
                print(f"\nseen {seen:<7} lag {lag:5.2f} s |{start}", end="", file=out)
            print(event.text.replace("\n", " "), end="", file=out, flush=True)
        yield event
    print(file=out, flush=True)


def as_json(event) -> str:
    """A line of --jsonl."""
    kind = {} if isinstance(event, Token) else {"event": type(event).__name__.lower()}
    return json.dumps(kind | asdict(event), ensure_ascii=False)


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.jsonl and args.jsonl.resolve() == Path(args.video).resolve():
        raise UserError("--jsonl names the video itself: choose another file")
    window = Window(args.window, args.text_sink, args.text_window) if args.window is not None else None
    if window is None and args.max_new_tokens is None:
        args.max_new_tokens = 300
    steps = iter_steps(args.video, max_frames=args.max_frames if window is None else None)
    first = next(steps)  # an unreadable file is told before a model is loaded, and so is one that cannot be written
    try:
        jsonl = open(args.jsonl, "a", encoding="utf-8") if args.jsonl else nullcontext()
    except OSError as error:
        raise UserError(f"--jsonl {args.jsonl} cannot be written: {error.strerror}") from error
    loaded = load(
        args.model,
        variant=args.variant,
        pixel_budget=args.pixel_budget,
        device=args.device,
        dtype=args.dtype,
        attention=args.attention,
    )
    prompts, model = load_prompts(), loaded.model
    question = args.question or prompts.eval_question
    schedule = parse_schedule(args.schedule or loaded.settings.schedule)
    num_devices = torch.cuda.device_count() if model.device.type == "cuda" else 1
    engine, why = choose(args.engine, loaded.settings.variant, model.device, num_devices)
    watcher = open_watcher(engine, model)
    if model.device.type == "cuda" and not args.attention and window is None:
        num_steps = (first.num_frames or args.max_frames) // FRAMES_PER_STEP
        asked = {"question": question, "system": prompts.system, "max_new_tokens": args.max_new_tokens}
        loaded = quicken(loaded, first, **asked, num_steps=num_steps, warm=args.realtime)
    print(f"{args.video} | {loaded.settings.variant}, {schedule} | {question}\nengine {engine}: {why}", end="")
    events = drive(
        loaded.model,
        narration(
            loaded,
            chain([first], steps),
            question=question,
            system=prompts.system,
            schedule=schedule,
            max_new_tokens=args.max_new_tokens,
            repetition_penalty=args.repetition_penalty,
            stop_early=args.stop_early,
            clip_key=Path(args.video).stem,
            clock=RealTimeClock() if args.realtime else SimulatedClock(),
            engine=engine,
            watcher=watcher,
            window=window,
        ),
    )
    with watcher or nullcontext(), jsonl as out:
        if out:
            out.truncate(0)  # not sooner: a mistake in another flag should not cost the tokens of an earlier run
        for event in (show_lag if args.realtime else show)(events):
            if out:
                print(as_json(event), file=out, flush=True)
    return 0
