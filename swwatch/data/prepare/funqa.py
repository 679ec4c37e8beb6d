"""Build annotations from FunQA, video question answering: `python mani_data.py --task funqa`.

The annotations do not tell how long a video is, so every video that a wanted question names is opened. What was
measured is kept beside the output, and a run that was killed goes on from there.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import read_settings, setting
from swwatch.data.annotations import decode_line, encode_line, write_atomic
from swwatch.data.prepare.durations import Durations
from swwatch.data.prepare.funqa_rules import BROKEN, KINDS, LIMITS, NO_VIDEO, problem_of, record_of, video_id
from swwatch.data.prepare.parts import CountTokens, digest
from swwatch.data.prepare.pe_video_rules import FilterLimits, check_record
from swwatch.data.prepare.shared import PrepareSettings, SplitFiles, load_counter, shown_path, tell_dropped
from swwatch.data.tasks import SUBTASKS
from swwatch.data.video import VideoError
from swwatch.errors import UserError
from swwatch.paths import only_one

SPLITS = ("train", "val", "test")
NAME = "FunQA"


@dataclass(frozen=True, kw_only=True)
class FunQASettings(PrepareSettings):
    """Filter FunQA's descriptions and reasonings by duration and tokens per second, one jsonl a split."""

    funqa_dir: Path | None = setting(None, "annotation and video folders (default: ROOT/FunQA)")
    splits: list[Literal["train", "val", "test"]] = setting(
        [], "which splits: train, val, test (default: those with annotations)", several=True
    )
    min_duration_s: float = setting(LIMITS.min_duration_s, "inclusive", least=0)
    max_duration_s: float = setting(LIMITS.max_duration_s, "inclusive")
    min_tokens_per_s: float = setting(LIMITS.min_tokens_per_s, "inclusive", least=0)
    max_tokens_per_s: float = setting(LIMITS.max_tokens_per_s, "inclusive")
    max_bad_fraction: float = setting(
        0.01, "stop when more of the six tasks' questions are broken or without a usable video", least=0, most=1
    )
    workers: int = setting(os.cpu_count() or 1, "videos measured at once", least=1)

    def __post_init__(self):
        super().__post_init__()
        for what in ("duration", "tokens_per"):
            least, most = (getattr(self, f"{end}_{what}_s") for end in ("min", "max"))
            if least > most:
                name = f"{what.replace('_', '-')}-s"
                raise UserError(f"--min-{name} {least:g} and --max-{name} {most:g}: nothing lies between them")

    @property
    def limits(self) -> FilterLimits:
        durations, rates = (self.min_duration_s, self.max_duration_s), (self.min_tokens_per_s, self.max_tokens_per_s)
        return FilterLimits(*durations, *rates, LIMITS.caption_prefix)


@dataclass(frozen=True)
class FunQASplit(SplitFiles):
    """One split to prepare.

    Attributes:
        annotations: the JSON file; output: the jsonl to make.
        folder: the video folders' parent.
        root, shown_root: the dataset root, and how video_path names it.
        sample: keep so many answers; balanced: order them so that any first part holds the six tasks alike.
    """

    split: str
    annotations: Path
    output: Path
    folder: Path
    root: Path
    shown_root: str
    limits: FilterLimits
    sample: int | None = None
    seed: int = 0
    balanced: bool = False
    max_bad_fraction: float = 0.01

    def video(self, name: str) -> Path:
        """Where the video of a `visual_input` lies: unpacked side by side, or each split in a folder of its own."""
        kind = f"{self.split}_{KINDS[name[0]]}"
        places = [self.folder / above / kind / name for above in ("", self.split, "videos")]
        return next((place for place in places if place.is_file()), places[0])

    def shown(self, video: Path) -> str:
        return shown_path(video, self.root, self.shown_root)


def read_annotations(path: Path) -> list:
    """The official annotation file: a list of {instruction, visual_input, output, task, ID}.

    Raises:
        UserError: no such file, not UTF-8, not JSON, no list, or empty.
    """
    try:
        content = decode_line(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no annotation file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}: is it cut short? Download it again") from None
    if not isinstance(content, list) or not content:
        found = "empty" if content == [] else type(content).__name__
        raise UserError(f"{path}: a list of questions is wanted, this is {found}")
    return content


def select(job: FunQASplit, questions: list, count_tokens: CountTokens, workers: int) -> tuple[list[dict], list[dict]]:
    """The records that pass the filter, and everything else with its reason; both in the order of the annotations.

    Raises:
        UserError: more of the six tasks' questions than `max_bad_fraction` are broken or have no usable video.
    """
    dropped: dict[int, dict] = {}

    def drop(number: int, reason: str, detail: str = "") -> None:
        item = questions[number]
        ident = item.get("ID") if isinstance(item, dict) else None
        where = f"{job.annotations.name}, item {number}"
        dropped[number] = {"where": where, "ID": ident, "reason": reason, "detail": detail}

    # 1) the questions of the six tasks, each once
    wanted, seen = {}, set()
    for number, question in enumerate(questions):
        reason = problem_of(question)
        if reason is None:
            key = video_id(question)
            reason = "duplicate_ID" if key in seen else None
            seen.add(key)
        if reason is None:
            wanted[number] = question
        else:
            drop(number, reason)
    # 2) their videos
    videos = {name: job.video(name) for name in {question["visual_input"] for question in wanted.values()}}
    shown = {video: job.shown(video) for video in videos.values()}
    seconds = Durations(job.states / "durations.jsonl").measure((v for v in videos.values() if v.is_file()), workers)
    records = {}
    for number, question in wanted.items():
        video = videos[question["visual_input"]]
        found = seconds.get(video)
        if found is None:
            drop(number, "video_missing", str(video))
        elif isinstance(found, VideoError):
            drop(number, "video_unreadable", f"{video}: {found.reason}")
        else:
            records[number] = record_of(question, shown[video], found)
    _check_bad(job, [dropped[number] for number in sorted(dropped)], len(wanted))
    # 3) the filter
    accepted = []
    counts = count_tokens([record["human_caption"] for record in records.values()])
    for (number, record), num_tokens in zip(records.items(), counts, strict=True):
        reason = check_record(record, num_tokens, job.limits)
        if reason is None:
            accepted.append(record)
        else:
            drop(number, reason, f"{num_tokens} tokens in {record['video_duration_in_s']:g} s")
    return accepted, [dropped[number] for number in sorted(dropped)]


def _check_bad(job: FunQASplit, dropped: list[dict], num_wanted: int) -> None:
    bad = [item for item in dropped if item["reason"] in BROKEN | NO_VIDEO]
    num_broken = sum(item["reason"] in BROKEN for item in bad)
    if len(bad) > job.max_bad_fraction * (num_wanted + num_broken):
        write_atomic(job.side_file("rejects.jsonl"), map(encode_line, bad))
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(b["reason"] for b in bad).most_common())
        raise UserError(
            f"{job.split}: {len(bad)} of {num_wanted + num_broken} questions cannot be used ({reasons}), more than "
            f"--max-bad-fraction {job.max_bad_fraction:g} allows; all are listed in {job.side_file('rejects.jsonl')}. "
            f"The first: {bad[0]['where']}: {bad[0]['detail'] or bad[0]['reason']}. Mend them or raise the limit"
        )


def arrange(job: FunQASplit, accepted: list[dict]) -> list[dict]:
    """The records to write: all, a random sample, both in the order of the annotations, or all in a balanced order.

    Balanced: the tasks take turns, each in an order drawn by the seed, so that the first 400 of a test set are not
    all about humour. Both depend on nothing but the ids and the seed.
    """
    if job.sample is None and not job.balanced:
        return accepted
    rank = {record["video_id"]: digest(job.seed, record["video_id"]) for record in accepted}
    if job.sample is not None:
        if len(accepted) < job.sample:
            raise UserError(f"--sample {job.sample}: only {len(accepted)} {job.split} records pass; ask for fewer")
        chosen = set(sorted(rank, key=rank.get)[: job.sample])
        return [record for record in accepted if record["video_id"] in chosen]
    turn, place = Counter(), {}
    for record in sorted(accepted, key=lambda record: rank[record["video_id"]]):
        turn[record["task"]] += 1
        place[record["video_id"]] = turn[record["task"]], SUBTASKS.index(record["task"])
    return sorted(accepted, key=lambda record: place[record["video_id"]])


def prepare_split(job: FunQASplit, count_tokens: CountTokens, workers: int = 1) -> dict:
    """Filter a split and write output, rejects and report; returns the report. Can be killed and called again."""
    with only_one(job.states, str(job.output)):
        questions = read_annotations(job.annotations)
        accepted, dropped = select(job, questions, count_tokens, workers)
        written = arrange(job, accepted)
        report = {
            "split": job.split,
            "output": job.output.name,
            "limits": asdict(job.limits),
            "sample": None if job.sample is None else {"size": job.sample, "seed": job.seed},
            "entries": len(questions),
            "kept": len(accepted),
            "kept_by_task": _by_task(accepted),
            "written": len(written),
            "written_by_task": _by_task(written),
            "dropped": dict(sorted(Counter(item["reason"] for item in dropped).items())),
        }
        write_atomic(job.side_file("rejects.jsonl"), map(encode_line, dropped))
        write_atomic(job.side_file("report.json"), [json.dumps(report, indent=1) + "\n"])
        write_atomic(job.output, map(encode_line, written))
    return report


def _by_task(records: list[dict]) -> dict[str, int]:
    counts = Counter(record["task"] for record in records)
    return {task: counts[task] for task in SUBTASKS}


def tell(job: FunQASplit, report: dict) -> None:
    """Print what became of a split."""
    print(f"{job.split}: {report['entries']} questions, {report['kept']} pass, {report['written']} in {job.output}")
    print("  " + ", ".join(f"{task} {count}" for task, count in report["written_by_task"].items()))
    tell_dropped(report)
    if report["dropped"]:
        print(f"  those left out are listed in {job.side_file('rejects.jsonl')}")


def annotation_places(folder: Path, split: str) -> list[Path]:
    """Where the annotations of a split may lie: the official folder, or as files of the hub data set."""
    return [folder / "annotation_with_ID" / f"funqa_{split}.json", folder / f"FunQA_{split}.json"]


def plan(settings: FunQASettings, home: Path) -> list[FunQASplit]:
    """What there is to do, one job a split.

    Raises:
        UserError: no annotations, or flags that cannot be honoured together.
    """
    root = settings.root(home)
    folder, output_dir = settings.funqa_dir or root / NAME, settings.output_dir or root
    found = {split: [p for p in annotation_places(folder, split) if p.is_file()] for split in SPLITS}
    splits = settings.splits or [split for split in SPLITS if found[split]]
    missing = [str(annotation_places(folder, split)[0]) for split in splits or SPLITS if not found[split]]
    if missing:
        raise UserError(
            f"there is no {', '.join(missing)}: name FunQA's folder with --funqa-dir, see dataset/README.md"
        )
    if settings.sample is not None and "train" not in splits:
        raise UserError("--sample is for the train split, which is left out")
    if left_out := [split for split in SPLITS if split not in splits]:
        print(f"splits left out: {', '.join(left_out)}")
    return [
        FunQASplit(
            split,
            found[split][0],
            output_dir / f"funqa_{split}.jsonl",
            folder,
            root,
            settings.shown_root(home),
            settings.limits,
            sample=settings.sample if split == "train" else None,
            seed=settings.seed,
            balanced=split != "train",
            max_bad_fraction=settings.max_bad_fraction,
        )
        for split in splits
    ]


def run(argv: list[str], home: Path) -> int:
    """Prepare FunQA. `home` is the folder whose `dataset` is the default root."""
    program = "mani_data.py --task funqa"
    settings = read_settings(FunQASettings, argv, program=program, about=FunQASettings.__doc__)
    jobs = plan(settings, home)
    count_tokens = load_counter(settings.tokenizer_model_id)
    for job in jobs:
        tell(job, prepare_split(job, count_tokens, settings.workers))
    return 0
