"""Decoded frames on disk: where a run keeps them that reads its clips more than once, and how they are made before."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from swwatch.data.frame_cache import FrameCache
from swwatch.data.samples import Sample, Samples
from swwatch.errors import UserError
from swwatch.train import distributed
from swwatch.train.loader import START, start_worker
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Setup, frames_made

FOLDER = "frames"  # in the output folder; gone when the run is finished
LEAST_GB, SHARE = 1.0, 0.5  # of the free room that a run takes for itself unasked
AT_ONCE = 4  # clips that a worker reads before it tells


def keep_frames(settings: TrainSettings, setup: Setup, epochs: float) -> str | None:
    """Give the clips, if they are read more than once, a cache of their frames, where there is room and none is given.

    Args:
        epochs: of the whole run.
    Returns:
        For the banner; None where frames are of no use a second time.
    """
    bound = f"up to {settings.frames_cache_gb:g} GB"
    if settings.frames_cache_dir is not None:
        return f"kept in {settings.frames_cache_dir}, {bound}"
    if (epochs <= 1 or settings.cache_frames_gb) and not settings.fill_cache:
        return None
    if not settings.frames_cache:
        return f"decoded anew in each of {epochs:.1f} passes"
    folder = settings.output_dir / FOLDER
    free_gb = distributed.on_main(lambda: SHARE * shutil.disk_usage(settings.output_dir).free / 1e9)
    gigabytes = min(settings.frames_cache_gb, free_gb)
    if gigabytes < LEAST_GB:
        return f"decoded anew in each of {epochs:.1f} passes: {folder} would have room for {gigabytes:.1f} GB"
    try:
        how = frames_made(settings, setup.clips.encoder, setup.loaded)
        setup.clips.frame_cache = FrameCache(folder, gigabytes, how)
    except UserError as error:  # a disk without locks, say: the run does without
        return f"decoded anew in each of {epochs:.1f} passes: {error}"
    return f"kept in {folder}, up to {gigabytes:.3g} GB, until the run is finished (--no-frames-cache: not)"


def drop_frames(out: Path) -> None:
    """Remove the frames that a finished run kept for itself."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def fill(settings: TrainSettings, clips: Samples) -> int:
    """Read all clips once, by the loader's workers and this process's share of them; returns how many gave a sample.

    Raises:
        UserError: there is no cache to fill.
    """
    if clips.frame_cache is None:
        raise UserError("fill_cache: there is no room for a cache of frames: give --frames-cache-dir")
    mine = range(distributed.rank(), len(clips), distributed.num_processes())
    how = {"num_workers": settings.num_workers, "worker_init_fn": start_worker, "batch_size": AT_ONCE}
    how["multiprocessing_context"] = START if settings.num_workers else None
    return sum(DataLoader(_Clips(clips, mine), collate_fn=sum, **how))


class _Clips(Dataset):
    """1 for each clip that gives a sample, and has its frames in the cache then."""

    def __init__(self, clips: Samples, indices: Sequence[int]):
        self.clips, self.indices = clips, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> int:
        return int(isinstance(self.clips.sample(self.indices[place], epoch=0), Sample))
