"""A run and its output folder: whether it is free, what is in it, and where to continue."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from swwatch.data.dataset import missing_videos
from swwatch.data.records import Unusable
from swwatch.errors import UserError
from swwatch.paths import only_one
from swwatch.train.arrange import CLIP_SIZES
from swwatch.train.checkpoints import (
    FINISHED,
    LOG,
    RUN,
    SKIPPED,
    TIMING,
    check_same_run,
    checkpoints,
    keep_newest,
    newest_complete,
    read_json,
    step_of,
    truncate_log,
    write_json,
)
from swwatch.train.parallelism import Parallelism
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Data
from swwatch.train.skips import SkipList


@dataclass(frozen=True)
class Beginning:
    """Where a run stands.

    Attributes:
        run: what a continuation must share, for run.json.
        finished: content of finished.json; None of a run that is to be done.
        checkpoint: to continue from; None at the start.
    """

    run: dict
    finished: dict | None
    checkpoint: Path | None

    @property
    def step(self) -> int:
        """Steps that were done."""
        return step_of(self.checkpoint) if self.checkpoint else 0


def take(settings: TrainSettings, records: Data, held: contextlib.ExitStack) -> Beginning:
    """Hold the folder, and see whether there is something to do, and whether it can be done.

    Args:
        held: its end sets the folder free.
    Raises:
        UserError: another run is in it, it belongs to other settings, or the data cannot be used.
    """
    out = settings.output_dir
    held.enter_context(only_one(out, str(out)))
    run = settings.fixed() | Parallelism.of(settings.parallel).fixed() | {"train_data_sha256": records.sha256}
    check_same_run(out, run)
    finished = read_json(out / FINISHED)
    if finished is None:
        try:
            check_records(settings, records)
        except Unusable as error:
            skipped = SkipList(out / SKIPPED, len(records), max_bad_fraction=1.0)
            skipped.add(list(error.skips))
            raise UserError(f"{error} All that were found are in {skipped.path}") from None
    return Beginning(run, finished, newest_complete(out))


def check_records(settings: TrainSettings, records: Data) -> None:
    """Raises Unusable: more lines or videos than max_bad_fraction cannot be used, as far as a look tells."""
    records.check(settings.max_bad_fraction)
    looked_for, missing = missing_videos(records, settings.train_data, settings.video_root)
    if len(missing) > settings.max_bad_fraction * looked_for:
        raise Unusable(
            f"{len(missing)} of {looked_for} videos that were looked for are missing, more than max_bad_fraction "
            f"{settings.max_bad_fraction:g}. {missing[0].reason}",
            missing,
        )


def clean_up(settings: TrainSettings, beginning: Beginning) -> None:
    """Remove what an interrupted run left half done after its last complete checkpoint, and note what this run is."""
    out = settings.output_dir
    for folder in checkpoints(out):
        if step_of(folder) > beginning.step:
            print(f"{folder} was not written completely: it is removed", file=sys.stderr)
    keep_newest(out, settings.save_total_limit)
    for name in (LOG, TIMING):
        truncate_log(out / name, beginning.step)
    if beginning.checkpoint is None:
        for name in (SKIPPED, CLIP_SIZES):
            (out / name).unlink(missing_ok=True)
    write_json(out / RUN, beginning.run)


def check_shared(out: Path) -> None:
    """Raises UserError: this process does not see what the main one has written."""
    if not (out / RUN).exists():
        raise UserError(f"{out} is not the same folder on every node: choose an --output-dir on a shared file system")
