"""Build the training and test annotations from PE-Video: `python mani_data.py` or `swwatch prepare`."""

import importlib.util
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import read_settings, setting
from swwatch.data.prepare import sources
from swwatch.data.prepare.parts import PeVideoSplit, digest, prepare
from swwatch.data.prepare.shared import PrepareSettings, load_counter, tell_dropped
from swwatch.data.prepare.slices import Slice, join, prepare_slice
from swwatch.errors import UserError

CONNECT_S = 5.0  # to a cluster


@dataclass(frozen=True, kw_only=True)
class PeVideoSettings(PrepareSettings):
    """Filter PE-Video records by caption and tokens per second into one jsonl for each split."""

    dataset_name: str = setting("facebook/PE-Video", "data set; its last part names the folder")
    train_dir: Path | None = setting(None, "JSON files or tar shards (default: ROOT/PE-Video/train)")
    test_dir: Path | None = setting(None, "JSON files or tar shards (default: ROOT/PE-Video/test)")
    train_output_name: str = setting("train_3_5.jsonl", "file name")
    test_output_name: str = setting("test_3_5.jsonl", "file name")
    source: Literal["auto", "json", "shards", "hub"] = setting(
        "auto", "where records come from: json, shards or hub; auto: what the folders hold, else the hub"
    )
    hub_id: str | None = setting(None, "data set to fetch from the hub (default: --dataset-name)")
    splits: list[Literal["train", "test"]] = setting(["train", "test"], "which splits (default: both)", several=True)
    limit_shards: int | None = setting(None, "read only the first shards of each split", least=1)
    workers: int | None = setting(
        None,
        "parts worked off at once; from the hub, also the shards on disk at once (default: 2, of JSON files 1)",
        least=1,
    )

    part: str | None = setting(None, "slice i/n of the work, for several machines that share the folders; then --join")
    join: bool = setting(False, "write the outputs of what --part has worked off")
    cluster: str | None = setting(None, "address of a Ray cluster that works off the parts, or auto, or local")

    def __post_init__(self):
        super().__post_init__()
        ways = {"--part": self.part is not None, "--join": self.join, "--cluster": self.cluster is not None}
        if sum(ways.values()) > 1:
            raise UserError(f"{' and '.join(way for way, given in ways.items() if given)}: give one of them")
        if self.part is not None:
            Slice.parse(self.part)
        if self.cluster is not None and importlib.util.find_spec("ray") is None:
            raise UserError("--cluster needs Ray: pip install 'swwatch[cluster]', or use --part i/n and --join")
        if self.sample is not None and "train" not in self.splits:
            raise UserError("--sample is for the train split, which --splits leaves out")
        if self.train_output_name == self.test_output_name:
            raise UserError("--train-output-name and --test-output-name have to differ")
        if self.source == "hub" and (self.train_dir or self.test_dir):
            raise UserError("--train-dir and --test-dir have no use with --source hub; leave them out")
        if self.hub_id and self.source in ("json", "shards"):
            raise UserError(f"--hub-id has no use with --source {self.source}; leave one out")


def choose_source(settings: PeVideoSettings, folders: dict[str, Path]) -> str:
    """What `--source auto` means for these folders."""
    if settings.source != "auto":
        return settings.source
    kinds = {split: sources.local_kind(folder) for split, folder in folders.items()}
    if len(set(kinds.values())) > 1:
        lying = "; ".join(f"{folders[split]}: {kind or 'no *.json or *.tar'}" for split, kind in kinds.items())
        raise UserError(f"the splits differ ({lying}); mend the folders, or name --splits or --source")
    kind = next(iter(kinds.values()))
    mistyped = settings.dataset_root is not None and not settings.dataset_root.exists()
    if kind is None and (settings.train_dir or settings.test_dir or mistyped):
        looked = ", ".join(str(folder) for folder in folders.values())
        raise UserError(f"no *.json or *.tar in {looked}: mend the path, or give --source hub to fetch the data set")
    return kind or "hub"


def plan(settings: PeVideoSettings, home: Path, tokenizer: str) -> list[PeVideoSplit]:
    """What there is to do, one job for each split.

    Raises:
        UserError: no input, or flags that cannot be honoured together.
    """
    root = settings.root(home)
    folder = root / Path(settings.dataset_name).name
    output_dir = settings.output_dir or root
    folders = {split: getattr(settings, f"{split}_dir") or folder / split for split in settings.splits}
    source = choose_source(settings, folders)
    hub_id = settings.hub_id or settings.dataset_name
    if settings.limit_shards is not None and source == "json":
        raise UserError("--limit-shards goes with shards or the hub; these are JSON folders")
    jobs = []
    for split in settings.splits:
        if source == "hub":
            print(f"{split}: from the hub data set {hub_id}")
            parts = sources.hub_parts(hub_id, split)
        else:
            print(f"{split}: {source} of {folders[split]}")
            parts = sources.json_parts(folders[split]) if source == "json" else sources.shard_parts(folders[split])
        jobs.append(
            PeVideoSplit(
                split,
                output_dir / getattr(settings, f"{split}_output_name"),
                parts[: settings.limit_shards],
                folder,
                f"{settings.shown_root(home)}/{folder.name}",
                tokenizer,
                settings.sample if split == "train" else None,
                settings.seed,
            )
        )
    return jobs


def tell(job: PeVideoSplit, report: dict) -> None:
    """Print what became of a split."""
    print(f"{job.split}: {report['entries']} records, {report['kept']} pass, {report['written']} in {job.output}")
    tell_dropped(report)
    if report["malformed"]:
        print(f"  {report['malformed']} malformed records are listed in {job.side_file('rejects.jsonl')}")
    if report["written_without_video_file"]:
        print(f"  warning: {report['written_without_video_file']} records have no video file yet under {job.videos}")


def check_there(address: str) -> None:
    """Raises UserError: nobody listens at a cluster's address, which Ray itself would try for more than a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"no Ray cluster at {address} ({error}): give HOST:PORT as `ray start --head --port 6379` on its first "
            "machine tells, or auto on a machine of the cluster"
        ) from error


def run(argv: list[str], home: Path) -> int:
    """Prepare PE-Video. `home` is the folder whose `dataset` is the default root."""
    settings = read_settings(PeVideoSettings, argv, program="mani_data.py", about=PeVideoSettings.__doc__)
    if settings.cluster not in (None, "auto", "local"):
        check_there(settings.cluster)
    count_tokens = load_counter(settings.tokenizer_model_id)
    jobs = plan(settings, home, tokenizer=digest(count_tokens.description))
    # of clips there is much to write; JSON files keep the interpreter busy, which threads share
    default = min(2, os.cpu_count() or 1) if any(part.has_clips for job in jobs for part in job.parts) else 1
    workers = settings.workers or default
    if settings.part is not None:
        slice = Slice.parse(settings.part)
        prepare_slice(jobs, slice, count_tokens, workers)
        print(f"slice {slice.index} of {slice.count} is done; when all are: the same command with --join")
        return 0
    if settings.cluster is not None:
        from swwatch.data.prepare.cluster import prepare_slices

        prepare_slices(jobs, settings.cluster, settings.tokenizer_model_id)
    reports = join(jobs) if settings.join or settings.cluster else prepare(jobs, count_tokens, workers)
    for job, report in zip(jobs, reports, strict=True):
        tell(job, report)
    return 0
