"""Work off the parts of a split, survive a kill, and put the result together.

Records go through the filter of `pe_video.py` part by part (see `sources.py`). What a part gave is written beside the
output at once, so a run that was killed goes on where it was; a part's state is found again by a hash of everything
that decides it, so a changed setting or input never meets old results. Clips from shards wait in a staging folder
until the end, when those that the output names are moved into place.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from swwatch.data.annotations import encode_line, is_there, video_places, write_atomic
from swwatch.data.prepare import pe_video_rules as pe_video
from swwatch.data.prepare import sources
from swwatch.data.prepare.sample import Sampler
from swwatch.data.prepare.shared import SplitFiles, shown_path
from swwatch.errors import UserError
from swwatch.paths import LOCK, is_locked, make_folder, only_one, writing

STATE_VERSION = 1  # raise it when the meaning of a part's state changes
CountTokens = Callable[[list[str]], list[int]]


def digest(*things) -> str:
    return hashlib.sha256(repr(things).encode("utf-8", "surrogateescape")).hexdigest()[:24]


@dataclass(frozen=True)
class PeVideoSplit(SplitFiles):
    """One split to prepare."""

    split: str
    output: Path
    parts: list
    folder: Path  # <dataset root>/PE-Video
    shown_folder: str  # the same, as it is written in video_path
    tokenizer: str  # what decides the token counts
    sample: int | None = None
    seed: int = 0

    @property
    def videos(self) -> Path:
        return self.folder / "videos" / self.split

    @property
    def incoming(self) -> Path:
        """Staging for clips: on the file system of the videos, apart for each output."""
        return self.videos / f".incoming-{digest(str(self.output.absolute()))}"

    def key(self, part) -> str:
        settings = (STATE_VERSION, asdict(pe_video.LIMITS), self.tokenizer, self.split)
        return digest(settings, str(self.videos.absolute()), type(part).__name__, part.identity)

    def state_file(self, part) -> Path:
        return self.states / f"{self.key(part)}.json"

    def load(self, part) -> dict:
        return json.loads(self.state_file(part).read_text(encoding="utf-8"))

    def staged(self, part, name: str) -> Path:
        return self.incoming / self.key(part) / name

    def shown(self, video: Path) -> str:
        return shown_path(video, self.folder.parent, str(PurePosixPath(self.shown_folder).parent))


def process_part(job: PeVideoSplit, part, count_tokens: CountTokens) -> dict:
    """Filter one part, stage its clips, and write its state; returns the state."""
    scratch = job.incoming / job.key(part)
    shutil.rmtree(scratch, ignore_errors=True)  # left by a kill
    reasons, rejects, accepted, candidates, num_entries = Counter(), [], [], [], 0

    def drop(entry: sources.Entry, reason: str, detail: str = "") -> None:
        reasons[reason] += 1
        if reason in pe_video.MALFORMED:
            rejects.append({"where": entry.where, "reason": reason, "detail": detail})

    if part.has_clips:
        make_folder(scratch)
    with writing(job.videos), part.open(scratch) as (entries, extract):
        for entry in entries:
            num_entries += 1
            record, reason, detail = entry.parse()
            reason = reason or pe_video.check_text(record)
            if reason:
                drop(entry, reason, detail)
            else:
                candidates.append((entry, record))
        counts = count_tokens([pe_video.caption_of(record) for _, record in candidates])
        seen = set()
        for (entry, record), num_tokens in zip(candidates, counts, strict=True):
            reason = pe_video.check_record(record, num_tokens)
            video_id = record.get("video_id")
            name = pe_video.clip_name(pe_video.id_from_stem(entry.stem) if video_id is None else video_id)
            if reason is None and name is None:
                reason, video_id = "video_id_bad", repr(video_id)
            if reason is None and name in seen:
                reason = "duplicate_video_id"
            if reason:
                drop(entry, reason, str(video_id) if reason in pe_video.MALFORMED else "")
                continue
            seen.add(name)
            item = {"name": name, "where": entry.where, "stem": entry.stem, "record": record}
            if extract:
                extract(entry, scratch / name)
                item["bytes"] = (scratch / name).stat().st_size
            accepted.append(item)
    state = {"num_entries": num_entries, "reasons": reasons, "rejects": rejects, "kept": accepted}
    write_atomic(job.state_file(part), [json.dumps(state)])
    return state


def choose(job: PeVideoSplit, parts: list) -> tuple[dict[str, str], set[str]]:
    """Over finished parts in order: which part owns each clip name (the first to hold it), and which are chosen."""
    owner, sampler = {}, Sampler(job.sample, job.seed) if job.sample is not None else None
    for part in parts:
        for item in job.load(part)["kept"]:
            if item["name"] not in owner:
                owner[item["name"]] = job.key(part)
                if sampler:
                    sampler.offer(item["name"])
    return owner, {name for _, name in sampler.heap} if sampler else set(owner)


def has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def finished_parts(job: PeVideoSplit) -> list:
    """The parts whose state can be used: all the clips that the output would name are there."""
    parts = [part for part in job.parts if job.state_file(part).is_file()]
    owner, chosen = choose(job, parts)
    usable = []
    for part in parts:
        state, key = job.load(part), job.key(part)
        clips = [item for item in state["kept"] if "bytes" in item and item["name"] in chosen]
        # a disk error or a missing permission may be mended by now
        readable = not {"unreadable", "unreadable_shard"} & set(state["reasons"])
        if readable and all(
            owner[item["name"]] != key
            or has_size(job.staged(part, item["name"]), item["bytes"])
            or has_size(job.videos / item["name"], item["bytes"])
            for item in clips
        ):
            usable.append(part)
    return usable


class Staging:
    """Deletes staged clips as soon as the sample has no room for them, so that the disk holds `sample` clips."""

    def __init__(self, job: PeVideoSplit, finished: list):
        self.job = job
        self.sampler = Sampler(job.sample, job.seed) if job.sample is not None else None
        self.staged: dict[str, list[Path]] = {}
        for part in finished if self.sampler else []:
            self.add(part, job.load(part))

    def add(self, part, state: dict) -> None:
        if not self.sampler or not part.has_clips:
            return
        for item in state["kept"]:
            name = item["name"]
            known = name in self.staged
            self.staged.setdefault(name, []).append(self.job.staged(part, name))
            out = None if known else self.sampler.offer(name)
            for path in self.staged[out] if out else []:
                path.unlink(missing_ok=True)


def run_parts(jobs: list[PeVideoSplit], count_tokens: CountTokens, workers: int) -> None:
    """Work off all parts that are not finished, with one progress bar over all of them."""
    staging, todo, num_done = {}, [], 0
    for job in jobs:
        finished = finished_parts(job)
        staging[job.split] = Staging(job, finished)
        keys = {job.key(part) for part in finished}
        todo += [(job, part) for part in job.parts if job.key(part) not in keys]
        num_done += len(finished)
    total = sum(part.size for job in jobs for part in job.parts)
    left = sum(part.size for _, part in todo)
    if num_done:
        print(f"{num_done} of {num_done + len(todo)} parts were finished before and are kept")
    with (
        tqdm(total=total, initial=total - left, unit="B", unit_scale=True, desc="prepare") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        running = {}
        while todo or running:
            while todo and len(running) < workers:
                job, part = todo.pop(0)
                running[pool.submit(process_part, job, part, count_tokens)] = job, part
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, part = running.pop(future)
                staging[job.split].add(part, future.result())
                bar.update(part.size)


def finish(job: PeVideoSplit) -> dict:
    """Put the chosen clips in place and write rejects, report and output; returns the report."""
    owner, chosen = choose(job, job.parts)
    if job.sample is not None and len(chosen) < job.sample:
        raise UserError(
            f"--sample {job.sample}: only {len(chosen)} {job.split} records pass; ask for fewer (nothing is lost)"
        )
    totals, reasons, missing = Counter(), Counter(), 0
    rejects: list[dict] = []

    def lines() -> Iterator[str]:
        nonlocal missing
        for part in job.parts:
            state, key = job.load(part), job.key(part)
            totals["entries"] += state["num_entries"]
            reasons.update(state["reasons"])
            rejects.extend(state["rejects"])
            for item in state["kept"]:
                if owner[item["name"]] != key:
                    reasons["duplicate_video_id"] += 1
                    detail = str(item["record"]["video_id"])
                    rejects.append({"where": item["where"], "reason": "duplicate_video_id", "detail": detail})
                    continue
                totals["kept"] += 1
                if item["name"] in chosen:
                    totals["written"] += 1
                    missing += not place_clip(job, part, item)
                    yield encode_line(item["record"])

    def report() -> dict:
        return {
            "split": job.split,
            "output": job.output.name,
            "limits": asdict(pe_video.LIMITS),
            "sample": None if job.sample is None else {"size": job.sample, "seed": job.seed},
            "entries": totals["entries"],
            "kept": totals["kept"],
            "written": totals["written"],
            "written_without_video_file": missing,
            "dropped": dict(sorted(reasons.items())),
            "malformed": len(rejects),
        }

    write_atomic(job.output, lines())
    write_atomic(job.side_file("rejects.jsonl"), map(encode_line, rejects))
    write_atomic(job.side_file("report.json"), [json.dumps(report(), indent=1) + "\n"])
    shutil.rmtree(job.incoming, ignore_errors=True)
    current = {job.state_file(part) for part in job.parts}
    for stale in set(job.states.iterdir()) - current - {job.states / LOCK}:
        stale.unlink()
    return report()


def place_clip(job: PeVideoSplit, part, item: dict) -> bool:
    """Bring a record and its video together; returns whether the video is there."""
    record, stem, target = item["record"], item["stem"], job.videos / item["name"]
    if "bytes" in item:
        staged = job.staged(part, item["name"])
        if staged.is_file():
            os.replace(staged, target)
        record["video_path"] = job.shown(target)
    elif not record.get("video_path"):
        found = next((place for place in (target, part.folder / f"{stem}.mp4") if place.is_file()), None)
        if found:
            record["video_path"] = job.shown(found)
        else:
            pe_video.fill_video_path(record, job.split, stem, job.shown_folder)
    if record.get("video_id") is None:
        record["video_id"] = pe_video.id_from_stem(stem)
    path = record.get("video_path")
    return bool(path) and isinstance(path, str) and any(map(is_there, video_places(path, job.output)))


def refuse_held(job: PeVideoSplit, locks: str, besides: str | None = None) -> None:
    """See that nobody else works on a split.

    Args:
        locks: pattern of the locks' names; besides: how those end that may be held.
    Raises:
        UserError: one is held.
    """
    for path in job.states.glob(locks):
        if (besides is None or not path.name.endswith(besides)) and is_locked(path):
            raise UserError(f"another run is writing {job.output} ({path.name}); wait for it, or stop it")


def prepare(jobs: list[PeVideoSplit], count_tokens: CountTokens, workers: int = 1) -> list[dict]:
    """Prepare all splits; returns their reports. A second call after a kill goes on; after success it is quick."""
    with ExitStack() as stack:
        for job in jobs:
            stack.enter_context(only_one(job.states, str(job.output)))
            refuse_held(job, ".slice-*.lock")
        run_parts(jobs, count_tokens, workers)
        return [finish(job) for job in jobs]
