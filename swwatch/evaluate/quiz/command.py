"""Ask a model the multiple choice questions of a video benchmark and count right answers, by option logits.

Continues where an earlier run was killed; under torchrun or Slurm several processes share the questions.
"""

import argparse
import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from swwatch.data.annotations import write_atomic
from swwatch.data.budget import BUDGETS, PixelBudget
from swwatch.errors import UserError
from swwatch.evaluate.caption.command import device_of, fingerprint
from swwatch.evaluate.caption.scoring import write_metrics
from swwatch.evaluate.predictions import read_object
from swwatch.evaluate.quiz import recorded, tasks
from swwatch.evaluate.quiz.asking import Plain, Streaming
from swwatch.evaluate.quiz.report import describe, summarize
from swwatch.evaluate.quiz.runner import run
from swwatch.evaluate.quiz.tasks import TASKS, Task
from swwatch.evaluate.quiz.wording import Wording, read_wording
from swwatch.evaluate.results import Part, beside, read_lines
from swwatch.evaluate.sharing import shared
from swwatch.launch.place import place_of
from swwatch.launch.ranks import Alone, join
from swwatch.launch.signals import stops_at_once
from swwatch.model.checks import saved_settings
from swwatch.model.loading import Loaded, load
from swwatch.paths import CONFIGS, ROOT
from swwatch.policies import keep as evict
from swwatch.rules import turn_positions as positions

# LiveCC's evaluation: 24k merged tokens for the pixels of a clip
BUDGET = PixelBudget("quiz", min_pixels=78_400, total_pixels=19_267_584)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch quiz", description=__doc__)
    parser.add_argument("task", choices=list(TASKS), help="the benchmark")
    parser.add_argument("--data", type=Path, help="its annotation file; for mvbench the folder of its json files")
    parser.add_argument("--videos", type=Path, help="folder of its videos (default: that of --data)")
    parser.add_argument(
        "--subtitles", type=Path, help="videomme: folder of the srt files (default: without subtitles)"
    )
    parser.add_argument("--model", help="checkpoint folder or hub id")
    parser.add_argument("--variant", help="if the checkpoint names none (default: origin, one causal stream)")
    parser.add_argument("--streaming", action="store_true", help="watch turn by turn and ask on the state")
    parser.add_argument("--positions", choices=list(positions.POLICIES), help="flat_1d for LiveCC's released weights")
    parser.add_argument("--eviction", choices=list(evict.POLICIES), help="of --streaming (default: the system's own)")
    parser.add_argument("--max-frames", type=int, help="of a clip, at 2 a second (default: the benchmark's)")
    parser.add_argument("--min-pixels", type=int, default=BUDGET.min_pixels, help="of a frame (%(default)s)")
    parser.add_argument(
        "--total-pixels", type=int, default=BUDGET.total_pixels, help="of a clip, a patch counted once (%(default)s)"
    )
    parser.add_argument("--wording", type=Path, default=CONFIGS / "quiz.yaml", help="of the questions (%(default)s)")
    parser.add_argument("--max-count", type=int, help="ask the first so many questions")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01, help="stop at more skipped ones (%(default)s)")
    parser.add_argument(
        "--output-dir", type=Path, default=ROOT / "output" / "quiz", help="of the results (%(default)s)"
    )
    parser.add_argument("--output-file", help="predictions (default: TASK.jsonl, TASK_streaming.jsonl, ...)")
    parser.add_argument("--restart", action="store_true", help="delete earlier results of the same name first")
    parser.add_argument("--report", action="store_true", help="count the answers that are there; no model")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, ... (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--attention", help="sdpa, eager or flash_attention_2 (default: the fastest that is exact)")
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    check(args)
    path = predictions_path(args)
    if args.report:
        return redraw(tasks.get(args.task), path) if place_of(os.environ).rank == 0 else 0
    with stops_at_once(), join(os.environ) as ranks:
        return quiz(args, path, ranks)


def check(args: argparse.Namespace) -> None:
    """Raises:
    UserError: flags that are missing or do not go together.
    """
    missing = [f"--{name}" for name in ("data", "model") if not args.report and getattr(args, name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given, unless --report counts answers that are there")
    if args.streaming and args.max_frames is not None:
        raise UserError("--streaming leaves no frame out: leave --max-frames out")
    if args.eviction and not args.streaming:
        raise UserError("--eviction goes with --streaming: a single clip is never forgotten")
    if args.max_frames is not None and args.max_frames < 2:
        raise UserError(f"--max-frames {args.max_frames}: two frames at least")
    if args.max_count is not None and args.max_count < 1:
        raise UserError(f"--max-count {args.max_count}: one question at least")
    if not 0 <= args.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {args.max_bad_fraction}: a fraction from 0 to 1 is wanted")
    if not 0 < args.min_pixels <= args.total_pixels:
        raise UserError("--min-pixels must be above 0 and not above --total-pixels")


def predictions_path(args: argparse.Namespace) -> Path:
    how = "_subtitles" * bool(args.subtitles) + "_streaming" * args.streaming
    path = Path(args.output_file or f"{args.task}{how}.jsonl")
    return args.output_dir / path if path.name == str(path) else path


def quiz(args: argparse.Namespace, path: Path, ranks: Alone) -> int:
    """Ask the questions, alone or with other ranks, and count at rank 0."""
    task, wording = tasks.get(args.task), read_wording(args.wording)
    items = task.items(args.data, wording, args.subtitles)[: args.max_count]
    videos = args.videos or (args.data if args.data.is_dir() else args.data.parent)
    if not videos.is_dir():
        raise UserError(f"there is no folder {videos}: --videos wants that of the videos")
    if ranks.rank:
        transformers.utils.logging.disable_progress_bar()
    loaded = open_model(args, ranks)
    asker = open_asker(args, task, loaded)

    def work(results: Part) -> None:
        where = {"asker": asker, "locate": lambda item: recorded.locate(item, videos)}
        run(items, results, **where, ranks=ranks, max_bad_fraction=args.max_bad_fraction)

    facts = describe_run(args, loaded, asker, wording)
    facts["about"] |= {"num_processes": ranks.size, "num_items": len(items)}
    keys, label = [item.key for item in items], f"{args.task}{', streaming' * args.streaming}"
    with shared(path, facts, keys, work, ranks, restart=args.restart, label=label, noun="questions") as results:
        if results is None:
            return 0
        count(task, path, len(items), results.num_skipped, results.facts)
    return 0


def redraw(task: Task, path: Path) -> int:
    """Count the answers of a file that is there, complete or not."""
    if not path.is_file():
        raise UserError(
            f"there are no answers {path}: leave --report out, or name them by --output-dir, --output-file"
        )
    facts = read_object(beside(path, "run.json"))
    if facts.get("settings", {}).get("task", task.name) != task.name:
        raise UserError(f"{path} holds answers of {facts['settings']['task']}, not of {task.name}")
    num_skipped, num_done = len(read_lines(beside(path, "skipped.jsonl"))), len(read_lines(path))
    count(task, path, facts.get("about", {}).get("num_items", num_done + num_skipped), num_skipped, facts)
    return 0


def count(task: Task, path: Path, num_items: int, num_skipped: int, facts: dict) -> None:
    """Write the summary and the table beside the answers, and show the table."""
    report = summarize([row for _, row in read_lines(path).values()], task, num_items, num_skipped)
    report["how"] = facts.get("settings", {}).get("how", "")
    write_metrics(beside(path, "metrics.json"), {**facts, **report})
    table = describe(report)
    write_atomic(path.with_suffix(".md"), [table])
    print(table)
    print(f"summary in {beside(path, 'metrics.json')}, table in {path.with_suffix('.md')}")


def open_model(args: argparse.Namespace, ranks: Alone) -> Loaded:
    """The checkpoint; one that names no variant is a plain causal model, unless it is to stream."""
    variant = args.variant
    where = {"device": device_of(args.device, ranks), "dtype": args.dtype, "attention": args.attention}
    if variant is None and not saved_settings(args.model):
        if args.streaming:
            raise UserError(f"{args.model} does not say how it streams: give --variant streamingvlm or livecc")
        variant = "origin"
    return load(args.model, variant=variant, **where)


def open_asker(args: argparse.Namespace, task: Task, loaded: Loaded) -> Plain | Streaming:
    if args.streaming:
        options = {"policy": args.positions, "eviction": args.eviction}
        return Streaming(loaded, task, BUDGETS[loaded.settings.pixel_budget], **options)
    budget = PixelBudget("quiz", min_pixels=args.min_pixels, total_pixels=args.total_pixels)
    return Plain(loaded, task, budget, args.positions or "mrope_full", args.max_frames)


def describe_run(args: argparse.Namespace, loaded: Loaded, asker: Plain | Streaming, wording: Wording) -> dict:
    """What the answers depend on, and where things lay; as evaluate.command has it."""
    files = sorted(args.data.glob("*.json")) if args.data.is_dir() else [args.data]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    if isinstance(asker, Streaming):
        system = asker.system
        shown = {"positions": args.positions or system.positions, "eviction": args.eviction or system.eviction}
        how = f"streaming as {system.name} ({shown['eviction']}, {shown['positions']})"
    else:
        shown = {"positions": asker.policy.name, "max_frames": asker.max_frames}
        how = f"whole clips ({shown['positions']})" + ", with subtitles" * bool(args.subtitles)
    return {
        "settings": {
            "task": args.task,
            "how": how,
            "streaming": args.streaming,
            **shown,
            "subtitles": bool(args.subtitles),
            "pixels": asdict(asker.encoder.budget),
            "model_fingerprint": fingerprint(args.model, loaded),
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "data_sha256": digest.hexdigest(),
            "wording": asdict(wording),
        },
        "about": {
            "model": args.model,
            "data": str(args.data),
            "videos": None if args.videos is None else str(args.videos),
            "device": str(loaded.model.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
