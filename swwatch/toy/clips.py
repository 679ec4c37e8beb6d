"""Writes the toy world to disk as real mp4 files in PE-Video's schema and on-disk forms.

Under the data set's root, for each split:
    json form:  PE-Video/<split>/<id>.json  and  PE-Video/videos/<split>/<id>.mp4
    tar form:   PE-Video/<split>/000000.tar, ...  with <id>.mp4 and <id>.json side by side (WebDataset)
A record has PE-Video's `video_id`, `human_caption`, `video_duration_in_s`, `level` and `events` (see
world.SceneEvent), and `thoughts`, what happened when, for models that think (see policies.think).
"""

import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from swwatch.errors import UserError
from swwatch.launch.signals import die_with_parent
from swwatch.paths import only_one
from swwatch.toy.levels import MIXTURES, SCENES
from swwatch.toy.recipe import FORMS, DataRecipe, was_made
from swwatch.toy.world import OPENING, SPLITS, Scene, make_scene, render

FRAME_RATES = (10, 25)  # clips take turns
CLIPS_PER_SHARD = 250
CLIPS_PER_PORTION = 25  # json form: what a worker process is given at once
RECIPE = "toy.json"  # in the data set's root: what it was asked to hold
NAME = "PE-Video"


@dataclass(frozen=True)
class Recipe(DataRecipe):
    """Everything that decides the bytes of a toy data set."""

    level: str = "single"
    form: str = "json"
    noise: float = 0.0  # share of records that the data filter must drop

    def __post_init__(self):
        super().__post_init__()
        if self.level not in {**SCENES, **MIXTURES}:
            raise UserError(f"no level {self.level!r}: choose one of {', '.join([*SCENES, *MIXTURES])}")
        if self.form not in FORMS:
            raise UserError(f"no form {self.form!r}: choose one of {', '.join(FORMS)}")


@dataclass(frozen=True)
class Portion:
    """Clips `start` to `stop` of a split: what one worker makes in one go; in tar form one shard."""

    recipe: Recipe
    root: Path
    split: str
    start: int
    stop: int

    @property
    def shard(self) -> Path:
        return self.root / NAME / self.split / f"{self.start // CLIPS_PER_SHARD:06d}.tar"

    def paths(self, index: int) -> tuple[Path, Path]:
        """(video, record) of a clip in json form."""
        name = clip_id(self.split, index)
        folder = self.root / NAME
        return folder / "videos" / self.split / f"{name}.mp4", folder / self.split / f"{name}.json"

    def missing(self) -> list[int]:
        """Clips that are still to be made. A record is written after its video, a shard at once when it is full."""
        indices = range(self.start, self.stop)
        if self.recipe.form == "tar":
            return [] if self.shard.exists() else list(indices)
        return [index for index in indices if not all(path.exists() for path in self.paths(index))]


def write_dataset(root: Path, recipe: Recipe, *, workers: int = 1) -> int:
    """Make a toy data set, or what is missing of it after an interruption; shows a progress bar on stderr.

    The same recipe gives the same bytes, whatever the number of worker processes.

    Returns:
        How many clips were made; the others were there.
    Raises:
        UserError: `root` holds something else, or a toy data set of another recipe.
    """
    root = Path(root)
    if workers < 1:
        raise UserError(f"workers {workers} must be at least 1")
    with claimed(root, recipe):
        return _make_missing(root, recipe, workers)


def _make_missing(root: Path, recipe: Recipe, workers: int) -> int:
    portions = list(_portions(root, recipe))
    for split in {portion.split for portion in portions}:
        (root / NAME / split).mkdir(parents=True, exist_ok=True)
        if recipe.form == "json":
            (root / NAME / "videos" / split).mkdir(parents=True, exist_ok=True)
    num_missing = {portion: len(portion.missing()) for portion in portions}
    todo = [portion for portion in portions if num_missing[portion]]
    total = sum(recipe.num_clips(split) for split in SPLITS)
    num_new = sum(num_missing.values())
    with tqdm(total=total, initial=total - num_new, desc="toy clips", unit="clip", disable=not num_new) as bar:
        if workers == 1 or len(todo) <= 1:
            for portion in todo:
                bar.update(make_portion(portion))
        else:
            # spawn: a forked child may inherit locks of the threads that numpy or torch run in the parent
            context = multiprocessing.get_context("spawn")
            ends = {"initializer": die_with_parent, "initargs": (os.getpid(),)}  # a killed parent closes no queue
            with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, **ends) as pool:
                try:
                    for done in as_completed([pool.submit(make_portion, portion) for portion in todo]):
                        bar.update(done.result())
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
    return num_new


@contextmanager
def claimed(root: Path, recipe: DataRecipe) -> Iterator[None]:
    """Hold `root`: empty ones get the recipe, those with the same recipe are continued, others are refused."""
    is_there = was_made(root, RECIPE, asdict(recipe))
    with only_one(root, str(root)):
        if not is_there:
            write_whole(root / RECIPE, json.dumps(asdict(recipe), indent=2).encode() + b"\n")
        yield


def _portions(root: Path, recipe: Recipe) -> Iterator[Portion]:
    size = CLIPS_PER_SHARD if recipe.form == "tar" else CLIPS_PER_PORTION
    for split in SPLITS:
        num_clips = recipe.num_clips(split)
        for start in range(0, num_clips, size):
            yield Portion(recipe, root, split, start, min(start + size, num_clips))


def make_portion(portion: Portion) -> int:
    """Make the missing clips of a portion; returns their number."""
    missing = portion.missing()
    if portion.recipe.form == "tar":
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for index in missing:
                video, record = make_clip(portion.recipe, portion.split, index)
                for suffix, data in ((".json", record), (".mp4", video)):
                    member = tarfile.TarInfo(clip_id(portion.split, index) + suffix)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        if missing:
            write_whole(portion.shard, shard.getvalue())
    else:
        for index in missing:
            for path, data in zip(portion.paths(index), make_clip(portion.recipe, portion.split, index), strict=True):
                write_whole(path, data)
    return len(missing)


def clips_of(root: Path, split: str) -> Iterator[tuple[dict, str]]:
    """(record, its video's place under `root`) of the clips of a split in json form, in order."""
    for path in sorted((root / NAME / split).glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8")), f"{NAME}/videos/{split}/{path.stem}.mp4"


def clip_id(split: str, index: int) -> str:
    return f"{split}_{index:06d}"


def make_clip(recipe: Recipe, split: str, index: int) -> tuple[bytes, bytes]:
    """The mp4 file and the JSON record of a clip."""
    scene = make_scene(recipe.seed, index, level=recipe.level, split=split)
    record = {
        "video_id": clip_id(split, index),
        "human_caption": _caption(scene, recipe, split, index),
        "video_duration_in_s": scene.duration_s,
        "level": scene.level,
        "events": scene.record(),
        "thoughts": scene.notes(),
    }
    return encode(scene, FRAME_RATES[index % len(FRAME_RATES)]), json.dumps(record, indent=2).encode() + b"\n"


def _caption(scene: Scene, recipe: Recipe, split: str, index: int) -> str | None:
    """The scene's caption; for a share of `noise` clips none, or everything said twice: 6 tokens a second or more."""
    rng = np.random.default_rng([recipe.seed, index, SPLITS.index(split), 1_000_000])
    if rng.random() >= recipe.noise:
        return scene.caption
    if rng.random() < 0.5:
        return None
    return f"{scene.caption[:-1]}, {scene.caption[len(OPENING) + 1 :]}"


def encode(scene: Scene, frame_rate: int) -> bytes:
    """The scene as an mp4 file: H.264 where PyAV was built with it, else MPEG-4."""
    import av  # here: it takes a third of the time of --help

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # One thread, for the same bytes on any number of cores. Without mbtree, whose vector code lets about one file in
    # forty of this small size differ (x264 in PyAV 18.1: 26 of 1000; 0 of 1000 without).
    x264 = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    options = x264 if codec == "libx264" else {"qscale": "3", "threads": "1"}
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=frame_rate, options=options)
        stream.height, stream.width = scene.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, frame_rate)
        for i in range(round(scene.duration_s * frame_rate)):
            frame = av.VideoFrame.from_ndarray(render(scene, i / frame_rate), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, frame_rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is whole whenever it exists."""
    part = path.with_name(path.name + ".tmp")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)  # what a full disk took of it
        raise
