"""Narrate one video while watching it: live text in the terminal, one JSON object per token with --jsonl."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from swwatch.data.prompt import load_prompts
from swwatch.data.video import iter_steps
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.narrate import Token, narrate
from swwatch.schedule import parse_schedule
from swwatch.variants import VARIANTS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch stream", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id")
    parser.add_argument("--video", required=True, help="a video file")
    parser.add_argument("--variant", choices=list(VARIANTS), help="needed where the checkpoint does not name one")
    parser.add_argument("--schedule", help="wait-k:3, random:3:seed=0 (default: the checkpoint's own)")
    parser.add_argument("--question", help="what to ask (default: the evaluation question of configs/prompts.yaml)")
    parser.add_argument("--pixel-budget", help="declared or release (default: the checkpoint's own, else declared)")
    parser.add_argument("--max-new-tokens", type=int, default=300, help="limit of the whole answer")
    parser.add_argument("--repetition-penalty", type=float, default=1.15, help="1 is off")
    parser.add_argument(
        "--stop-early", action="store_true", help="let <|im_end|> end the answer before the last second"
    )
    parser.add_argument(
        "--max-frames", type=int, default=60, help="longest video that is accepted, in frames at 2 fps"
    )
    parser.add_argument("--jsonl", type=Path, help="write one JSON object per token here")
    parser.add_argument("--realtime", action="store_true", help="play the file at its own pace")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    return parser


def show(tokens: Iterable[Token], out=None) -> Iterator[Token]:
    """Print text as it is spoken, one line for each second that has words; pass the tokens on.

    A line tells the newest second that had been seen, how far behind its arrival the first word came, and the words.
    """
    out = out or sys.stdout
    step = None
    for token in tokens:
        if token.step != step:
            step, lag = token.step, token.t_emit_s - token.t_frame_s
            start = "" if token.text.startswith(" ") else " "
            seen = f"0-{token.newest_visible_step + 1} s"
            print(f"\nseen {seen:<7} lag {lag:5.2f} s |{start}", end="", file=out)
        print(token.text.replace("\n", " "), end="", file=out, flush=True)
        yield token
    print(file=out, flush=True)


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.jsonl and args.jsonl.resolve() == Path(args.video).resolve():
        raise UserError("--jsonl names the video itself: choose another file")
    steps = iter_steps(args.video, max_frames=args.max_frames)
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
    prompts = load_prompts()
    question = args.question or prompts.eval_question
    schedule = parse_schedule(args.schedule or loaded.settings.schedule)
    print(f"{args.video} | {loaded.settings.variant}, {schedule} | {question}", end="")
    tokens = narrate(
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
    )
    with jsonl as out:
        if out:
            out.truncate(0)  # not sooner: a mistake in another flag should not cost the tokens of an earlier run
        for token in show(tokens):
            if out:
                print(json.dumps(asdict(token), ensure_ascii=False), file=out, flush=True)
    return 0
