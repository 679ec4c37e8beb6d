"""transformers' Trainer, where this project's data and checkpoints need more."""

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments

from swwatch.data.packing import PackedClips
from swwatch.errors import UserError
from swwatch.paths import need_room
from swwatch.train import distributed
from swwatch.train.arrange import Arrangement
from swwatch.train.checkpoints import keep_newest, mark_complete, step_of
from swwatch.train.held_out import HeldOut
from swwatch.train.loader import START, prefetch_factor, start_worker, workers_end
from swwatch.train.machine import bf16
from swwatch.train.optimizer import part_rates, split_groups
from swwatch.train.parallelism import Parallelism, share
from swwatch.train.progress import COUNTS, TrainProgress
from swwatch.train.settings import TrainSettings
from swwatch.train.setup import Setup
from swwatch.train.skips import SkipList
from swwatch.train.upstream import OpenTrainer, one_device


class WatchTrainer(OpenTrainer):
    """Trainer with a stateless data order, listed skips and checkpoints that are known to be whole.

    Args:
        setup, arranged: what it works with; the processor is saved with every checkpoint.
        steps: of the whole run, from `num_steps`.
        begin: the checkpoint to continue from, which the model was loaded from.
        skip_list: what it cannot use.
        held_out: clips whose loss is told.
        trackers: where curves go, from trackers.start_trackers.

    Attributes:
        stop: signals that end the run after the step they come in, by stop.note.
    Raises:
        UserError: the processes cannot share an optimizer step, or a DeepSpeed file contradicts the settings.
    """

    def __init__(
        self,
        settings: TrainSettings,
        setup: Setup,
        arranged: Arrangement,
        steps: int,
        begin: Path | None,
        skip_list: SkipList,
        held_out: HeldOut | None,
        trackers: Sequence,
    ):
        self.settings, self.parallelism, self.order = settings, setup.parallelism, arranged.order
        self.skip_list, self.begin, self.stop = skip_list, begin, distributed.StopSignals()
        super().__init__(
            setup.model,
            training_arguments(settings, setup.parallelism, steps),
            data_collator=setup.collator,
            train_dataset=arranged.dataset,
            processing_class=setup.loaded.processor,
            callbacks=[
                *([held_out] if held_out else []),
                TrainProgress(settings.rows_per_step / len(arranged.order), skip_list, trackers),
                StopBetweenSteps(self.stop),
            ],
        )
        learning = sum(p.nbytes for p in setup.model.parameters() if p.requires_grad)
        saved = learning if settings.adapter != "none" else sum(p.nbytes for p in setup.model.parameters())
        self.checkpoint_bytes = saved + 2 * learning  # at least: AdamW keeps two numbers for each that learns
        self.counts, self.more_logs, self.began, self.waited = (
            Counter(),
            {},
            0.0,
            0.0,
        )  # of a step: what else to log, ...
        if held_out:
            held_out.trainer = self

    def learn(self, out: Path) -> int:
        """Train, and write the model if it comes to the last step; returns the step that it came to."""
        done = step_of(self.begin) if self.begin else 0
        if done < self.args.max_steps:
            self.checkpoint_begins()  # with no room for one it would be lost what is learned up to it
            self.train(resume_from_checkpoint=str(self.begin) if self.begin else None)
            if self.state.global_step < self.args.max_steps:
                return self.state.global_step
            self.save_model(str(out))
        elif distributed.rank() == 0:  # it was interrupted while the model was written
            self.save_unwrapped(out)
        return self.args.max_steps

    def run_order(self) -> Sampler:
        return RunOrder(self.order, self.args.max_steps * self.settings.rows_per_step)

    def train(self, *args, **kwargs):
        clips = self.train_dataset
        if isinstance(clips, PackedClips):
            clips = clips.clips
        with workers_end(lambda: self.callback_handler.train_dataloader, clips):
            return super().train(*args, **kwargs)

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if loader.num_workers > 0:
            # in place of one that seeds generators, which nothing here uses; accelerate reads the inner one
            loader.base_dataloader.worker_init_fn = start_worker
            loader.base_dataloader.multiprocessing_context = START
        return loader

    def model_wrapped_up(self) -> None:
        with distributed.alike():
            self.parallelism.check(self.model_wrapped)

    def create_optimizer(self, model=None):
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new:
            with distributed.alike():
                split_groups(optimizer, self.accelerator.unwrap_model(self.model), part_rates(self.settings))
        return optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The forwards of this process in an optimizer step; what all processes met on the way is told to all."""
        self.began = time.perf_counter()
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self.waited = time.perf_counter() - self.began
        met = [(batch.pop("skips"), batch.pop("counts", None)) for batch in batches]
        self.counts.clear()
        with distributed.alike():
            for skips, counts in itertools.chain(*zip(*distributed.gather(met), strict=True)):  # in the data's order
                if counts is None:
                    self.skip_list.give_up(skips)
                self.skip_list.add(skips)
                self.counts.update(counts)
        return super().get_batch_samples(iter(batches), num_batches, device)

    def log(self, logs, *args, **kwargs):
        """Adds what the optimizer step consisted of, in all processes: samples, tokens, padding; and its time."""
        if "loss" in logs:
            time_of = {"seconds": time.perf_counter() - self.began, "waited": max(distributed.gather(self.waited))}
            logs = logs | {key: self.counts[key] for key in COUNTS} | time_of | self.more_logs
            self.more_logs = {}
        super().log(logs, *args, **kwargs)

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, inputs | {"use_cache": False}, *args, **kwargs)

    def checkpoint_begins(self) -> None:
        out = Path(self.args.output_dir)
        distributed.on_main(lambda: need_room(out, self.checkpoint_bytes, "a checkpoint"))

    def checkpoint_written(self, folder: Path) -> None:
        distributed.barrier()  # every process has written its part
        if self.args.should_save:
            # the older ones go only after the new one counts, so that a kill at any moment leaves one to continue from
            mark_complete(folder)
            keep_newest(folder.parent, self.settings.save_total_limit)
        distributed.barrier()  # none ends before it counts: torchrun would end the main process with it


class StopBetweenSteps(TrainerCallback):
    """Saves and ends the run at the end of a step in which a signal came to any process."""

    def __init__(self, stop: distributed.StopSignals):
        self.stop = stop

    def on_step_end(self, args, state, control, **kwargs):
        if self.stop.anywhere():
            control.should_save = control.should_training_stop = True


class RunOrder(Sampler):
    """The keys of a whole run: one epoch of an order after the other, cut at `num_rows`.

    Optimizer step k takes the k-th stretch of it, so what it sees depends on neither batch size nor processes.
    """

    def __init__(self, order: Sampler, num_rows: int):
        self.order, self.num_rows = order, num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator:
        return itertools.islice(itertools.chain.from_iterable(map(self._epoch, itertools.count())), self.num_rows)

    def _epoch(self, epoch: int) -> Iterator:
        self.order.set_epoch(epoch)
        return iter(self.order)


def num_steps(settings: TrainSettings, num_rows: int) -> int:
    """Optimizer steps of a whole run. A step takes batch_size x accumulation rows, samples or packs of samples.

    The loss of a step is the mean over all its answer tokens, so that it does not matter which row a sample is in.
    """
    if settings.max_steps is not None:
        return settings.max_steps
    return math.ceil(settings.epochs * num_rows / settings.rows_per_step)


def training_arguments(settings: TrainSettings, parallelism: Parallelism, steps: int) -> TrainingArguments:
    """transformers' arguments for these settings.

    Raises:
        UserError: the processes cannot share an optimizer step, or a DeepSpeed file contradicts the settings.
    """
    accumulation, cuda = share(settings.accumulation, settings.batch_size), torch.cuda.is_available()
    values = {
        "output_dir": str(settings.output_dir),
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if settings.lr_schedule == "constant" else settings.lr_schedule,
        "warmup_steps": settings.warmup,  # transformers reads a number below 1 as a share of all steps
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "bf16": bf16(settings),
        "tf32": settings.tf32 if cuda else None,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_num_workers": settings.num_workers,
        "dataloader_persistent_workers": settings.num_workers > 0,
        "dataloader_prefetch_factor": prefetch_factor(settings, accumulation),
        "dataloader_pin_memory": cuda,
        "logging_steps": 1,  # a mean over several steps would start anew at a restart, and so differ
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": None,  # see WatchTrainer.checkpoint_written
        "remove_unused_columns": False,
        "report_to": "none",
    }
    try:
        return one_device(TrainingArguments(**values, **parallelism.arguments()))
    except ValueError as error:
        raise UserError(f"parallel {parallelism.name}: {error}") from error
