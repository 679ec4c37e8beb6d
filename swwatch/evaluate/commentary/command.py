"""Live commentary on sports: Inf-Streams-Eval (hours of a game) and LiveSports-3K CC (short events).

`generate` lets a model that streams in turns comment; `judge` lets a language model compare two such runs, or a run
with another model's file in the same form.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from swwatch.data.annotations import resolve_video
from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.evaluate.commentary.events import Event, Wording, read_events
from swwatch.evaluate.commentary.games import START_S, Game, merged, read_games, tidy_games
from swwatch.evaluate.commentary.judging import add_judge_flags, judge
from swwatch.evaluate.commentary.speaking import (
    SAVE_EVERY_S,
    Plan,
    Speaker,
    comment_event,
    comment_game,
    with_first_frames,
)
from swwatch.evaluate.commentary.store import Store
from swwatch.launch.ranks import Alone, join
from swwatch.launch.signals import stops_at_once
from swwatch.policies.choose import Choosing, Greedy, Sampling, parse_choose
from swwatch.rules.systems import SYSTEMS, System, get
from swwatch.rules.variants import TURNS

TASKS = ("inf-streams", "livesports-cc")
# (task, system) -> (how tokens are chosen, frames of the first turn) where the benchmarks' own runs differ
# from live streaming.
# LiveCC's run of its events does not tell how it draws: the likeliest token is taken
RECIPES: dict[tuple[str, str], tuple[Choosing, int | None]] = {
    ("inf-streams", "livecc"): (Sampling(0.7, penalty=1.05, max_new_tokens=20), 2),
    ("livesports-cc", "livecc"): (Greedy(1.15, 32), None),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch commentary", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True, metavar="generate | judge")
    making = programs.add_parser("generate", help="let a model comment", description=generate.__doc__)
    judging = programs.add_parser("judge", help="compare runs", description="Compare a run with others.")
    for each in (making, judging):
        each.add_argument("--task", required=True, choices=TASKS)
    add_judge_flags(judging)
    making.add_argument("--model", required=True, help="checkpoint folder or hub id")
    making.add_argument("--system", choices=list(SYSTEMS), help="needed where the checkpoint does not name one")
    making.add_argument("--data", type=Path, required=True, help="the benchmark's annotation file")
    making.add_argument("--videos", type=Path, help="folder of the videos (default: as the annotations' paths say)")
    making.add_argument("--output", type=Path, required=True, help="jsonl file of what is said")
    making.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    making.add_argument("--begin", dest="start", type=float, help=f"inf-streams: first second ({START_S:g})")
    making.add_argument("--end", type=float, help="inf-streams: last second (default: the video's)")
    making.add_argument("--chunk", type=int, help="inf-streams: begin anew every so many seconds, such as 100")
    making.add_argument("--query", help="inf-streams: what is asked (default: the system's own)")
    making.add_argument(
        "--save-every", type=int, default=SAVE_EVERY_S, help="inf-streams: seconds between two rows (%(default)s)"
    )
    making.add_argument("--max-count", type=int, help="only the first games or events")
    making.add_argument("--sample", action=argparse.BooleanOptionalAction, help="draw tokens, or take the likeliest")
    making.add_argument("--temperature", type=float)
    making.add_argument("--repetition-penalty", type=float, help="1 is off")
    making.add_argument("--max-new-tokens", type=int, help="of a turn")
    making.add_argument("--seed", type=int, default=42, help="of the draws of every stream (%(default)s)")
    making.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    making.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    making.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    if args.program == "judge":
        return judge({name: value for name, value in vars(args).items() if name != "program"})
    if args.task != "inf-streams" and any(v is not None for v in (args.start, args.end, args.chunk, args.query)):
        raise UserError(f"--begin, --end, --chunk and --query go with inf-streams: leave them out for {args.task}")
    with stops_at_once(), join(os.environ) as ranks:
        return generate(args, ranks)


def generate(args: argparse.Namespace, ranks: Alone) -> int:
    """Let a model comment, alone or with other processes (torchrun). Goes on where an earlier run was killed."""
    work = (Games if args.task == "inf-streams" else Events)(args)
    speaker, settings = _speaker(args, ranks)
    settings |= {"task": args.task, "data_sha256": hashlib.sha256(args.data.read_bytes()).hexdigest(), **work.facts}
    with Store(args.output, settings, ranks, work.tidy, restart=args.restart) as store:
        before: dict[str, list[dict]] = {}
        for row in store.rows:
            before.setdefault(work.key_of(row), []).append(row)
        if not ranks.rank:
            done = f", {len(before)} of them begun or done before" if before else ""
            print(f"{args.task}: {len(work.jobs)} {work.noun}{done} -> {args.output}", flush=True)
        while (number := ranks.add("next") - 1) < len(work.jobs):
            job = work.jobs[number]
            try:
                path = _find(job.video, args)
                for row in work.rows(speaker, job, path, before.get(job.key, []), store.state_path(job.key)):
                    store.add(row)
                    print(f"{number + 1} of {len(work.jobs)}: {job.key}{work.reached(row)}", flush=True)
            except VideoError as error:
                ranks.add("bad")
                print(f"left out: {job.key}: {error}", file=sys.stderr)
        if ranks.rank:
            ranks.leave()
            return 0
        ranks.wait_for_all()
        place = {job.key: number for number, job in enumerate(work.jobs)}
        rows = store.complete(
            lambda rows: sorted(work.finish(rows), key=lambda row: place.get(work.key_of(row), len(place)))
        )
    if not rows:
        raise UserError(f"nothing could be commented on: all {len(work.jobs)} videos were left out, see above")
    num_bad = ranks.add("bad", 0)
    bad = f"; {num_bad} left out for their video, see above: they lose in `judge`" if num_bad else ""
    print(f"{len(rows)} rows in {args.output}{bad}")
    return 0


class Games:
    """The work of inf-streams."""

    noun, tidy, finish = "games", staticmethod(tidy_games), staticmethod(merged)

    def __init__(self, args: argparse.Namespace):
        self.jobs = read_games(args.data)[: args.max_count]
        start_s = START_S if args.start is None else args.start
        self.plan = Plan(start_s, args.end, args.chunk, args.query, args.save_every)
        self.facts = {name: getattr(self.plan, name) for name in ("start_s", "end_s", "chunk_s", "query")}

    def key_of(self, row: dict) -> str:
        return row["video"]

    def reached(self, row: dict) -> str:
        return f" up to {row['chunk_end']:g} s"

    def rows(self, speaker: Speaker, job: Game, path: Path, before: list[dict], state: Path) -> Iterable[dict]:
        return comment_game(speaker, job, path, self.plan, before, state)


class Events:
    """The work of livesports-cc."""

    noun = "events"

    def __init__(self, args: argparse.Namespace):
        self.jobs, self.wording = read_events(args.data)[: args.max_count], Wording.load()
        self.facts = {"wording": asdict(self.wording)}

    def key_of(self, row: dict) -> str:
        return f"{row['video_id']}_{row['event_id']}"

    def reached(self, row: dict) -> str:
        return ""  # an event is one row

    def tidy(self, rows: Iterable[dict]) -> list[dict]:
        return list({self.key_of(row): row for row in rows}.values())

    finish = tidy

    def rows(self, speaker: Speaker, job: Event, path: Path, before: list[dict], state: Path) -> Iterable[dict]:
        if not before:
            yield comment_event(speaker, job, path, self.wording)


def _find(video: str, args: argparse.Namespace) -> Path:
    """Raises: VideoError: there is no such file, which is one video less, and no reason to stop."""
    try:
        return resolve_video(video, args.data, args.videos)
    except UserError as error:
        raise VideoError(video, str(error)) from error


def _speaker(args: argparse.Namespace, ranks: Alone) -> tuple[Speaker, dict]:
    """The model as the flags, the task's recipe and the system's row want it, and what its words depend on."""
    from swwatch.evaluate.caption.command import device_of, fingerprint
    from swwatch.model.checks import saved_settings
    from swwatch.model.loading import load

    if args.system is None and not saved_settings(args.model):
        raise UserError(f"{args.model} does not say how it streams: give --system {' or '.join(SYSTEMS)}")
    where = {"device": device_of(args.device, ranks), "dtype": args.dtype, "attention": args.attention}
    loaded = load(args.model, variant=args.system, **where)
    name = loaded.settings.variant
    if name not in TURNS:
        raise UserError(f"{args.model} is trained as {name!r}, which does not stream in turns: give --system")
    system: System = get(name)
    choose, first_frames = RECIPES.get((args.task, name), (parse_choose(system.choose), None))
    asked = {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "penalty": args.repetition_penalty,
        "seed": args.seed,
    }
    if args.sample is not None and args.sample != choose.draws:
        choose = replace(choose.drawing(True), temperature=1.0) if args.sample else choose.drawing(False)
    asked = {key: value for key, value in asked.items() if value is not None and key in vars(choose)}
    choose = replace(choose, **asked)
    speaker = Speaker(loaded, with_first_frames(system, first_frames), choose)
    return speaker, {
        "system": name,
        "choose": str(choose),
        "pixel_budget": loaded.settings.pixel_budget,
        "model_fingerprint": fingerprint(args.model, loaded),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
