"""Fine-tune Qwen2.5-VL in one of the variants, or to stream in turns (also: bash scripts/sft.sh).

Settings come from flags, then the environment, then --config, then the defaults above. A run that was interrupted
continues from its last complete checkpoint when it is started again with the same settings.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from transformers.trainer_utils import set_seed
from transformers.utils import logging as transformers_logging

from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import no_file
from swwatch.data.collator import Collator
from swwatch.data.dataset import Skip, missing_videos
from swwatch.data.tasks import TASKS
from swwatch.errors import UserError
from swwatch.launch.signals import PREEMPTED, handled_by
from swwatch.model.attention import BLOCK
from swwatch.model.checks import check_checkpoint, saved_settings
from swwatch.model.loading import Loaded
from swwatch.paths import only_one
from swwatch.rules.variants import TURNS, VARIANTS
from swwatch.train import distributed
from swwatch.train.arrange import CLIP_SIZES, THREADS, arrange
from swwatch.train.banner import banner
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
from swwatch.train.dry_run import dry_run
from swwatch.train.engines import Engine, share
from swwatch.train.held_out import HeldOut
from swwatch.train.optimizer import part_rates
from swwatch.train.precision import bf16, check_precision
from swwatch.train.settings import ROOT, TrainSettings
from swwatch.train.setup import (
    Data,
    attention_for,
    check_data_settings,
    choose_what_learns,
    clips_of,
    load_model,
    loss_for,
    records_of,
    why_attention,
)
from swwatch.train.skips import SkipList
from swwatch.train.trackers import choose_trackers, start_trackers
from swwatch.train.trainer import WatchTrainer, num_steps, training_arguments


def build_parser() -> argparse.ArgumentParser:
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="swwatch train", description=summary, epilog=details)
    parser.add_argument("--config", type=Path, help="YAML file of these settings, such as configs/train/toy.yaml")
    text = "build model and first batches, print what they hold, draw a sample, and train nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)
    add_flags(parser, TrainSettings)
    return parser


def main(argv: list[str]) -> int:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which accelerate imports, remarks on it
    transformers_logging.set_verbosity_error()
    with distributed.processes(), contextlib.ExitStack() as held:
        settings, records, dry = distributed.together(lambda: read(argv))
        return rehearse(settings, records) if dry else train(settings, records, held)


def several(argv: list[str]) -> bool:
    """For `launch.torchrun`: tell what is wrong with the flags; several processes are always of use."""
    asked(argv)
    return True


def asked(argv: list[str]) -> tuple[TrainSettings, bool]:
    """The settings of flags, environment and file, and --dry-run.

    Raises:
        UserError: settings that cannot be, or a data file that is not there.
    """
    flags = vars(build_parser().parse_args(argv))
    dry = flags.pop("dry_run")
    settings = load_settings(TrainSettings, yaml_path=flags.pop("config"), env=os.environ, flags=flags)
    # before the model: a wrong path should not cost the minutes it takes
    for path in filter(None, (settings.train_data, *(settings.more_data or ()), settings.eval_data)):
        if not path.is_file():
            raise no_file(path)
    return settings, dry


def read(argv: list[str]) -> tuple[TrainSettings, Data, bool]:
    """The settings, settled, the records of the annotation file, and --dry-run."""
    with contextlib.ExitStack() as stack:
        if distributed.rank() > 0:  # the main process tells what is wrong with the flags
            stack.enter_context(contextlib.redirect_stderr(None))
        settings, dry = asked(argv)
    Engine.of(settings.parallel)
    share(settings.accumulation, settings.batch_size)
    settings = settle(settings)
    records = records_of(settings, settings.train_data, settings.more_data or ())
    if settings.eval_data is not None:
        records_of(settings, settings.eval_data)
    return settings, records, dry


def settle(settings: TrainSettings) -> TrainSettings:
    """Fill what depends on checkpoint and machine: variant, attention, output folder, workers; make paths absolute.

    Raises:
        UserError: nobody names a variant, or bfloat16 or flex is asked for where it cannot be computed.
    """
    model = Path(settings.model_path).expanduser()
    model_path = str(model.resolve()) if model.exists() else settings.model_path
    check_checkpoint(model_path)
    variant = settings.variant or saved_settings(model_path).get("variant")
    if variant is None:
        raise UserError(f"which variant? Set QWEN2_5_VL_VARIANT or --variant to one of {', '.join(VARIANTS | TURNS)}")
    check_data_settings(settings, variant)
    check_precision(settings)
    choose_trackers(settings.log_to)
    if settings.attention == "flex" and not torch.cuda.is_available():
        raise UserError("FlexAttention has no backward pass on a CPU: use --attention sdpa")
    attention = attention_for(settings, variant)[0] if settings.attention == "auto" else settings.attention
    workers = settings.num_workers
    if workers is None:
        cores = (os.cpu_count() or 1) // distributed.processes_per_node()
        workers = max(1, min(8, cores)) if torch.cuda.is_available() else 0
    output = settings.output_dir or ROOT / "output" / f"qwen2_5vl-{TASKS[settings.task].label}-{variant}"
    return replace(
        settings,
        variant=variant,
        attention=attention,
        output_dir=output.resolve(),
        num_workers=workers,
        train_data=settings.train_data.resolve(),
        more_data=settings.more_data and [path.resolve() for path in settings.more_data],
        eval_data=settings.eval_data and settings.eval_data.resolve(),
        video_root=settings.video_root and settings.video_root.resolve(),
        frames_cache_dir=settings.frames_cache_dir and settings.frames_cache_dir.resolve(),
        model_path=model_path,
    )


def train(settings: TrainSettings, records: Data, held: contextlib.ExitStack) -> int:
    """Train, or continue, or find that all is done.

    Args:
        settings: from `settle`.
        records: of settings.train_data.
        held: closed at the end; the main process holds the output folder in it.
    Returns:
        Exit code: 0, or 75 when a signal stopped the run after a checkpoint.
    Raises:
        UserError: data, model, settings or an existing output folder that do not fit.
    """
    out, engine = settings.output_dir, Engine.of(settings.parallel)
    set_seed(settings.seed)
    # 1) is there something to do, and can it be done?
    run, done, begin = distributed.on_main(lambda: _look(settings, records, engine, held))
    if done is not None:
        print(f"{out} holds the finished run ({done['steps']} steps): nothing to do")
        return 0
    loaded = distributed.together(lambda: load_model(settings, begin, engine))
    transformers_logging.disable_progress_bar()  # of saving, in the middle of ours
    in_memory = settings.cache_frames_gb
    dataset = distributed.together(lambda: clips_of(settings, records, settings.train_data, loaded, in_memory))
    # 2) what learns, and from where
    model, counts = distributed.together(lambda: choose_what_learns(settings, loaded, begin))
    loss_way = distributed.together(lambda: loss_for(settings, loaded, engine))
    distributed.on_main(lambda: _begin_folder(settings, run, begin))
    distributed.together(lambda: _check_shared(out))
    distributed.on_main(lambda: arrange(settings, dataset, out).summary)  # the others find what it measured
    arranged = distributed.together(lambda: arrange(settings, dataset, out))
    steps = num_steps(settings, len(arranged.order))
    collator = collator_of(settings, loaded)
    held_out = distributed.together(lambda: _held_out(settings, loaded, collator))
    main = distributed.rank() == 0
    skip_list = SkipList(out / SKIPPED, len(dataset), settings.max_bad_fraction, writes=main)
    more = {"held out": held_out and str(held_out), "logs": ", ".join([LOG, *choose_trackers(settings.log_to)])}
    more["continues"] = begin and f"from step {step_of(begin):,} ({begin.name})"
    reasons = {"attention": why_attention(settings), "loss": f"{loss_way[0]} ({loss_way[1]})"}
    print(
        banner(settings, loaded, counts, arranged, steps, num_samples=len(dataset), reasons=reasons, more=more),
        flush=True,
    )
    tell_skips(arranged.skips)
    with distributed.alike():
        skip_list.add(list(arranged.skips))
        skip_list.judge(len(arranged.skips), arranged.num_looked)
    names = choose_trackers(settings.log_to) if main else []
    first_step = 1 + (step_of(begin) if begin else 0)
    trackers = distributed.together(lambda: start_trackers(names, out, run, first_step))
    # 3) train
    loaded.model.loss_way = loss_way[0]
    stop = distributed.StopSignals()
    trainer = WatchTrainer(
        model,
        training_arguments(settings, out, bf16=bf16(settings), max_steps=steps, engine=engine),
        dataset=arranged.dataset,
        order=arranged.order,
        collator=collator,
        processor=loaded.processor,
        skip_list=skip_list,
        save_total_limit=settings.save_total_limit,
        begin=begin,
        engine=engine,
        stop=stop,
        rates=part_rates(settings),
        held_out=held_out,
        trackers=trackers,
    )
    start = time.monotonic()
    if begin is None or step_of(begin) < steps:  # else it was interrupted while the model was written
        with handled_by(stop.note):
            trainer.train(resume_from_checkpoint=str(begin) if begin else None)
            if (step := trainer.state.global_step) < steps:
                print(
                    f"stopped by a signal after step {step:,} of {steps:,}: the same command continues from there",
                    flush=True,
                )
                distributed.barrier()
                return PREEMPTED
            trainer.save_model(str(out))
    elif distributed.rank() == 0:
        trainer._save(str(out))  # the engine has not been set up: the weights are whole
    distributed.barrier()
    if distributed.rank() == 0:
        write_json(out / FINISHED, {"steps": steps, "skipped": len(skip_list)})
    print(f"trained in {time.monotonic() - start:.0f} s; the model is in {out}")
    if len(skip_list):
        print(f"{len(skip_list)} records were skipped: see {skip_list.path}")
    return 0


def rehearse(settings: TrainSettings, records: Data) -> int:
    """--dry-run: everything up to the first step, by the main process; writes one picture.

    Raises:
        UserError: as `train`, but for what the output folder holds.
    """
    if distributed.rank() > 0:
        return 0
    engine = Engine.of(settings.parallel)
    records.check(settings.max_bad_fraction)
    _check_videos(settings, records)
    loaded = load_model(settings, None, engine)
    clips = clips_of(settings, records, settings.train_data, loaded, 0.0)
    counts = choose_what_learns(settings, loaded, None)[1]
    loss_way = loss_for(settings, loaded, engine)
    with tempfile.TemporaryDirectory() as folder:
        arranged = arrange(settings, clips, Path(folder))
    steps = num_steps(settings, len(arranged.order))
    reasons = {"attention": why_attention(settings), "loss": f"{loss_way[0]} ({loss_way[1]})"}
    print(banner(settings, loaded, counts, arranged, steps, num_samples=len(clips), reasons=reasons, more={}))
    tell_skips(arranged.skips)
    dry_run(settings, arranged, collator_of(settings, loaded), loaded.tokenizer, steps)
    return 0


def collator_of(settings: TrainSettings, loaded: Loaded) -> Collator:
    return Collator(loaded.tokenizer.pad_token_id, multiple=BLOCK if settings.attention == "flex" else 1)


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


def _held_out(settings: TrainSettings, loaded: Loaded, collator: Collator) -> HeldOut | None:
    if settings.eval_data is None:
        return None
    clips = clips_of(settings, records_of(settings, settings.eval_data), settings.eval_data, loaded, 0.0)
    how = {"count": settings.eval_samples, "every": settings.eval_steps, "batch_size": settings.batch_size}
    return HeldOut(clips, collator, **how, threads=min(THREADS, os.cpu_count() or 1))


def _look(
    settings: TrainSettings, records: Data, engine: Engine, held: contextlib.ExitStack
) -> tuple[dict, dict | None, Path | None]:
    """What the run is, what is in finished.json, and the checkpoint to continue from."""
    out = settings.output_dir
    held.enter_context(only_one(out, str(out)))
    run = settings.fixed() | engine.fixed() | {"train_data_sha256": records.sha256}
    check_same_run(out, run)
    done = read_json(out / FINISHED)
    if done is None:
        records.check(settings.max_bad_fraction)
        _check_videos(settings, records)
    return run, done, newest_complete(out)


def _begin_folder(settings: TrainSettings, run: dict, begin: Path | None) -> None:
    _clean_up(settings.output_dir, begin, settings.save_total_limit)
    write_json(settings.output_dir / RUN, run)


def _check_shared(out: Path) -> None:
    if not (out / RUN).exists():
        raise UserError(f"{out} is not the same folder on every node: choose an --output-dir on a shared file system")


def _clean_up(out: Path, begin: Path | None, save_total_limit: int) -> None:
    """Remove what an interrupted run left half done after the checkpoint `begin`."""
    for folder in checkpoints(out):
        if begin is None or step_of(folder) > step_of(begin):
            print(f"{folder} was not written completely: it is removed", file=sys.stderr)
    keep_newest(out, save_total_limit)
    for name in (LOG, TIMING):
        truncate_log(out / name, step_of(begin) if begin else 0)
    if begin is None:
        for name in (SKIPPED, CLIP_SIZES):
            (out / name).unlink(missing_ok=True)


def _check_videos(settings: TrainSettings, records: Data) -> None:
    looked_for, missing = missing_videos(records, settings.train_data, settings.video_root)
    if len(missing) > settings.max_bad_fraction * looked_for:
        raise UserError(
            f"{len(missing)} of {looked_for} videos that were looked for are missing, more than max_bad_fraction "
            f"{settings.max_bad_fraction:g}. {missing[0].reason}"
        )
