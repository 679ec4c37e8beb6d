"""What a run tells while it goes: log.jsonl, timing.jsonl, trackers, and a bar or a line now and then."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback

from swwatch.errors import UserError
from swwatch.train import distributed
from swwatch.train.checkpoints import LOG, TIMING, append_line

COUNTS = ("samples", "tokens", "padding")
LOGGED = ("loss", "grad_norm", "learning_rate", *COUNTS, "eval_loss", "eval_samples", "eval_tokens")
WARM_UP = 3  # steps before the time of a whole run is told: the first ones compile and fill caches


class TrainProgress(TrainerCallback):
    """Tells one line a step to the files, and to a person a bar on a terminal, a line now and then elsewhere.

    log.jsonl holds what a continued run repeats exactly; how long it took stands in timing.jsonl.

    Args:
        epochs_per_step: how far a step goes through the data.
        skip_list: its length is told.
        trackers: from trackers.start_trackers.
    """

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, epochs_per_step: float, skip_list: Sequence, trackers: Sequence = ()):
        self.epochs_per_step, self.skip_list, self.trackers = epochs_per_step, skip_list, trackers
        self.bar = None
        self.printed = -math.inf
        self.times = StepTimes()

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step")
        self.first_step = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        with distributed.alike():  # the loss is the mean over all processes
            if not math.isfinite(logs["loss"]):
                what = f"the loss is {logs['loss']} at step {state.global_step}"
                raise UserError(f"{what}: lower learning_rate, or check the weights")
        if not state.is_world_process_zero:
            return
        step, folder = {"step": state.global_step}, Path(args.output_dir)
        line = {key: logs[key] for key in LOGGED if key in logs} | {"epoch": state.global_step * self.epochs_per_step}
        append_line(folder / LOG, step | line)
        timing = StepTimes.of(logs).as_dict()
        append_line(folder / TIMING, step | timing)
        for tracker in self.trackers:
            tracker.write(state.global_step, {f"train/{key}": value for key, value in (line | timing).items()})
        self.times = self.times + StepTimes.of(logs)
        self.tell(state, logs)

    def tell(self, state, logs: dict) -> None:
        taken = state.global_step - self.first_step
        if taken == WARM_UP and state.max_steps > state.global_step:
            self.say(f"a step takes {self.times}: {hours(self.left(state))} to go for {state.max_steps:,} steps")
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", pace=str(self.times), refresh=False)
            self.bar.update(state.global_step - self.bar.n)
            return
        now = time.monotonic()
        if now - self.printed >= self.SECONDS_BETWEEN_LINES or state.global_step == state.max_steps:
            self.printed = now
            held_out = f"  held out {logs['eval_loss']:.4f}" if "eval_loss" in logs else ""
            skipped = f"  {len(self.skip_list):,} skipped" if len(self.skip_list) else ""
            self.say(
                f"step {state.global_step:,}/{state.max_steps:,}  loss {logs['loss']:.4f}{held_out}  {self.times}"
                f"{skipped}  {hours(self.left(state))} left"
            )

    def left(self, state) -> float:
        """Seconds to the end, at the pace so far."""
        return self.times.seconds / max(1, self.times.steps) * (state.max_steps - state.global_step)

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
        for tracker in self.trackers:
            tracker.close()


class StepTimes:
    """Steps, their seconds, and what was done in them."""

    def __init__(self, steps: int = 0, seconds: float = 0.0, waited: float = 0.0, tokens: int = 0, samples: int = 0):
        self.steps, self.seconds, self.waited, self.tokens, self.samples = steps, seconds, waited, tokens, samples

    @classmethod
    def of(cls, logs: dict) -> "StepTimes":
        """Of one step: `seconds` without saving and evaluating, of which `waited` for data (the slowest process)."""
        return cls(1, logs["seconds"], logs["waited"], logs["tokens"], logs["samples"])

    def __add__(self, other: "StepTimes") -> "StepTimes":
        return StepTimes(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def as_dict(self) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": self.seconds,
            "data_wait": self.waited / seconds,
            "tokens_per_s": self.tokens / seconds,
            "samples_per_s": self.samples / seconds,
        }

    def __str__(self) -> str:
        rates = self.as_dict()
        return (
            f"{self.seconds / max(1, self.steps):.2f} s/step, {rates['tokens_per_s']:,.0f} tokens/s, "
            f"{rates['samples_per_s']:.2f} samples/s, data wait {rates['data_wait']:.0%}"
        )


def hours(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
