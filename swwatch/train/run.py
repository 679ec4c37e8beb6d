"""A training run, stage by stage; what its processes do together is said here."""

import contextlib
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.trainer_utils import set_seed
from transformers.utils import logging as transformers_logging

from swwatch.data.samples import Skip
from swwatch.launch.signals import PREEMPTED, handled_by
from swwatch.train import distributed
from swwatch.train.arrange import THREADS, Arrangement, arrange
from swwatch.train.banner import banner
from swwatch.train.checkpoints import FINISHED, LOG, SKIPPED, write_json
from swwatch.train.dry_run import dry_run
from swwatch.train.folder import Beginning, check_records, check_shared, clean_up, take
from swwatch.train.frames import drop_frames, fill, keep_frames
from swwatch.train.held_out import HeldOut
from swwatch.train.machine import settle
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Data, Setup, clips_of, records_of, set_up
from swwatch.train.skips import SkipList
from swwatch.train.trackers import choose_trackers, start_trackers
from swwatch.train.trainer import WatchTrainer, num_steps


def run(read: Callable[[], TrainSettings]) -> int:
    """Train, or continue, or find that all is done.

    Args:
        read: gives the settings that were asked for; every process calls it.
    Returns:
        Exit code: 0, or 75 when a signal stopped the run after a checkpoint.
    Raises:
        UserError: data, model, settings or an existing output folder that do not fit.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which accelerate imports, remarks on it
    transformers_logging.set_verbosity_error()
    with distributed.processes(), contextlib.ExitStack() as held:
        settings, records = distributed.together(lambda: settled(read))
        if settings.dry_run:
            return rehearse(settings, records)
        beginning = distributed.on_main(lambda: take(settings, records, held))
        if beginning.finished is not None:
            print(f"{settings.output_dir} holds the finished run ({beginning.finished['steps']} steps): nothing to do")
            return 0
        set_seed(settings.seed)
        cache_gb = settings.cache_frames_gb
        setup = distributed.together(lambda: set_up(settings, records, beginning.checkpoint, cache_gb))
        transformers_logging.disable_progress_bar()  # of saving, in the middle of ours
        distributed.on_main(lambda: clean_up(settings, beginning))
        distributed.together(lambda: check_shared(settings.output_dir))
        arranged = distributed.main_first(lambda: arrange(settings, setup.clips, settings.output_dir))
        epochs = num_steps(settings, len(arranged.order)) * settings.rows_per_step / len(arranged.order)
        frames = distributed.together(lambda: keep_frames(settings, setup, epochs))
        if settings.fill_cache:
            counts = distributed.gather(distributed.together(lambda: fill(settings, setup.clips)))
            entries, size = setup.clips.frame_cache.held()
            print(f"{sum(counts):,} of {len(setup.clips):,} clips were read; their frames are {frames}")
            print(f"it holds {entries:,} entries, {size / 1e9:.3g} GB; what found no room is decoded in training")
            return 0
        trainer = trainer_of(settings, setup, arranged, beginning, frames)
        return train(trainer, settings.output_dir)


def settled(read: Callable[[], TrainSettings]) -> tuple[TrainSettings, Data]:
    """The settings with all that is left open filled, and the records of the annotation files."""
    with contextlib.ExitStack() as stack:
        if distributed.rank() > 0:  # the main process tells what is wrong with the flags
            stack.enter_context(contextlib.redirect_stderr(None))
        settings = settle(read())
    records = records_of(settings, settings.annotations)
    if settings.eval_data:
        records_of(settings, settings.eval_data)
    return settings, records


def rehearse(settings: TrainSettings, records: Data) -> int:
    """--dry-run: everything up to the first step, by the main process; writes one picture."""
    if distributed.rank() > 0:
        return 0
    check_records(settings, records)
    setup = set_up(settings, records, None, cache_gb=0.0)
    with tempfile.TemporaryDirectory() as folder:
        arranged = arrange(settings, setup.clips, Path(folder))
    steps = num_steps(settings, len(arranged.order))
    print(banner(settings, setup, arranged, steps, more={}))
    tell_skips(arranged.skips)
    dry_run(settings, arranged, setup, steps)
    return 0


def trainer_of(
    settings: TrainSettings, setup: Setup, arranged: Arrangement, beginning: Beginning, frames: str | None
) -> WatchTrainer:
    """Say what is about to be done, and make what does it.

    Args:
        frames: where decoded frames are kept, for the banner.
    Raises:
        UserError: too many records cannot be used, or a tracker does not start.
    """
    out, main = settings.output_dir, distributed.rank() == 0
    steps = num_steps(settings, len(arranged.order))
    held_out = distributed.together(lambda: held_out_of(settings, setup))
    begin = beginning.checkpoint
    more = {
        "clips": frames,
        "held out": held_out and f"{', '.join(map(str, settings.eval_data))}, {held_out}",
        "logs": ", ".join([LOG, *choose_trackers(settings.log_to)]),
        "continues": begin and f"from step {beginning.step:,} ({begin.name})",
    }
    print(banner(settings, setup, arranged, steps, more=more), flush=True)
    tell_skips(arranged.skips)
    skip_list = SkipList(out / SKIPPED, len(setup.clips), settings.max_bad_fraction, writes=main)
    with distributed.alike():
        skip_list.add(list(arranged.skips))
        skip_list.judge(len(arranged.skips), arranged.num_looked)
    names = choose_trackers(settings.log_to) if main else []
    trackers = distributed.together(lambda: start_trackers(names, out, beginning.run, beginning.step + 1))
    return WatchTrainer(settings, setup, arranged, steps, begin, skip_list, held_out, trackers)


def held_out_of(settings: TrainSettings, setup: Setup) -> HeldOut | None:
    if not settings.eval_data:
        return None
    clips = clips_of(settings, records_of(settings, settings.eval_data), settings.eval_data[0], setup.loaded, 0.0)
    how = {"count": settings.eval_samples, "every": settings.eval_steps, "batch_size": settings.batch_size}
    return HeldOut(clips, setup.collator, **how, threads=min(THREADS, os.cpu_count() or 1))


def train(trainer: WatchTrainer, out: Path) -> int:
    """Train to the last step and write the model, or up to a signal.

    Returns:
        Exit code.
    """
    start = time.monotonic()
    with handled_by(trainer.stop.note):
        step, steps = trainer.learn(out), trainer.args.max_steps
        if step < steps:
            print(
                f"stopped by a signal after step {step:,} of {steps:,}: the same command continues from there",
                flush=True,
            )
        distributed.barrier()
    if step < steps:
        return PREEMPTED
    skip_list = trainer.skip_list
    if distributed.rank() == 0:
        drop_frames(out)
        write_json(out / FINISHED, {"steps": steps, "skipped": len(skip_list)})
    print(f"trained in {time.monotonic() - start:.0f} s; the model is in {out}")
    if len(skip_list):
        print(f"{len(skip_list)} records were skipped: see {skip_list.path}")
    return 0


def tell_skips(skips: tuple[Skip, ...], most: int = 5) -> None:
    """Say how many records cannot be used, by reason, where that is known before the first step."""
    if not skips:
        return
    print(f"{len(skips):,} records cannot be used:")
    reasons = Counter(re.sub(r"has \d+ tokens, ", "has ", skip.reason) for skip in skips)
    for reason, count in reasons.most_common(most):
        print(f"  {count:,}: {reason}")
    for skip in skips[:most]:
        print(f"  {skip.path}: {skip.reason}")
