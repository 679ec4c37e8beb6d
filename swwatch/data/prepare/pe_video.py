"""Build the training and test annotations from PE-Video: `python mani_data.py` or `swwatch prepare`."""

import argparse
import os
from pathlib import Path

from swwatch.data.prepare import sources
from swwatch.data.prepare.parts import Job, digest, prepare
from swwatch.data.prepare.shared import DEFAULT_TOKENIZER, load_counter, path_prefix
from swwatch.data.tasks import TASKS
from swwatch.errors import UserError

SPLITS = ("train", "test")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="mani_data.py",
        description="Filter PE-Video records by caption and tokens per second into one jsonl for each split.",
    )
    p.add_argument("--task", choices=TASKS, default="pe-video", help="--task funqa --help tells FunQA's own flags")
    p.add_argument("--dataset-root", type=Path, help="folder of all data (default: dataset)")
    p.add_argument("--dataset-name", default="facebook/PE-Video", help="data set; its last part names the folder")
    p.add_argument("--train-dir", type=Path, help="JSON files or tar shards (default: ROOT/PE-Video/train)")
    p.add_argument("--test-dir", type=Path, help="JSON files or tar shards (default: ROOT/PE-Video/test)")
    p.add_argument("--output-dir", type=Path, help="where the jsonl files go (default: ROOT)")
    p.add_argument("--train-output-name", default="train_3_5.jsonl", help="file name (default: %(default)s)")
    p.add_argument("--test-output-name", default="test_3_5.jsonl", help="file name (default: %(default)s)")
    p.add_argument(
        "--tokenizer-model-id",
        default=DEFAULT_TOKENIZER,
        help="hub id or folder of the tokenizer that counts (default: %(default)s)",
    )
    p.add_argument(
        "--source",
        choices=("auto", "json", "shards", "hub"),
        default="auto",
        help="where records come from; auto: what the folders hold, else the hub",
    )
    p.add_argument("--hub-id", help="data set to fetch from the hub (default: --dataset-name)")
    p.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="which splits (default: both)")
    p.add_argument("--sample", type=int, help="keep a random sample of this many training records")
    p.add_argument("--seed", type=int, default=0, help="seed of --sample (default: 0)")
    p.add_argument("--limit-shards", type=int, help="read only the first shards of each split")
    p.add_argument(
        "--workers",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="parts worked off at once; from the hub, also the shards on disk at once (default: %(default)s)",
    )
    return p


def choose_source(args: argparse.Namespace, folders: dict[str, Path]) -> str:
    """What `--source auto` means for these folders."""
    if args.source != "auto":
        return args.source
    kinds = {split: sources.local_kind(folder) for split, folder in folders.items()}
    if len(set(kinds.values())) > 1:
        lying = "; ".join(f"{folders[split]}: {kind or 'no *.json or *.tar'}" for split, kind in kinds.items())
        raise UserError(f"the splits differ ({lying}); mend the folders, or name --splits or --source")
    kind = next(iter(kinds.values()))
    mistyped = args.dataset_root is not None and not args.dataset_root.exists()
    if kind is None and (args.train_dir or args.test_dir or mistyped):
        looked = ", ".join(str(folder) for folder in folders.values())
        raise UserError(f"no *.json or *.tar in {looked}: mend the path, or give --source hub to fetch the data set")
    return kind or "hub"


def plan(args: argparse.Namespace, home: Path, tokenizer: str) -> list[Job]:
    """What there is to do, one job for each split.

    Raises:
        UserError: no input, or flags that cannot be honoured together.
    """
    root = args.dataset_root or home / "dataset"
    folder = root / Path(args.dataset_name).name
    output_dir = args.output_dir or root
    shown = path_prefix(args.dataset_root or Path("dataset"), root, output_dir, args.dataset_root is None)
    folders = {split: getattr(args, f"{split}_dir") or folder / split for split in args.splits}
    source = choose_source(args, folders)
    hub_id = args.hub_id or args.dataset_name
    if args.limit_shards is not None and source == "json":
        raise UserError("--limit-shards goes with shards or the hub; these are JSON folders")
    jobs = []
    for split in args.splits:
        if source == "hub":
            print(f"{split}: from the hub data set {hub_id}")
            parts = sources.hub_parts(hub_id, split)
        else:
            print(f"{split}: {source} of {folders[split]}")
            parts = sources.json_parts(folders[split]) if source == "json" else sources.shard_parts(folders[split])
        jobs.append(
            Job(
                split,
                output_dir / getattr(args, f"{split}_output_name"),
                parts[: args.limit_shards],
                folder,
                f"{shown}/{folder.name}",
                tokenizer,
                args.sample if split == "train" else None,
                args.seed,
            )
        )
    return jobs


def check_flags(args: argparse.Namespace) -> None:
    for name in ("sample", "limit_shards", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} has to be 1 or more")
    if args.sample is not None and "train" not in args.splits:
        raise UserError("--sample is for the train split, which --splits leaves out")
    if args.train_output_name == args.test_output_name:
        raise UserError("--train-output-name and --test-output-name have to differ")
    if args.source == "hub" and (args.train_dir or args.test_dir):
        raise UserError("--train-dir and --test-dir have no use with --source hub; leave them out")
    if args.hub_id and args.source in ("json", "shards"):
        raise UserError(f"--hub-id has no use with --source {args.source}; leave one out")


def tell(job: Job, report: dict) -> None:
    """Print what became of a split."""
    print(f"{job.split}: {report['entries']} records, {report['kept']} pass, {report['written']} in {job.output}")
    for reason, count in sorted(report["dropped"].items(), key=lambda item: -item[1]):
        print(f"  {count:9} {reason}")
    if report["malformed"]:
        print(f"  {report['malformed']} malformed records are listed in {job.side_file('rejects.jsonl')}")
    if report["written_without_video_file"]:
        print(f"  warning: {report['written_without_video_file']} records have no video file yet under {job.videos}")
    if not report["written"]:
        print("  warning: nothing passed the filter; is this the right folder, and the right tokenizer?")


def run(argv: list[str], home: Path) -> int:
    """Prepare PE-Video. `home` is the folder whose `dataset` is the default root."""
    args = parser().parse_args(argv)
    check_flags(args)
    count_tokens = load_counter(args.tokenizer_model_id)
    jobs = plan(args, home, tokenizer=digest(count_tokens.description))
    for job, report in zip(jobs, prepare(jobs, count_tokens, args.workers), strict=True):
        tell(job, report)
    return 0
