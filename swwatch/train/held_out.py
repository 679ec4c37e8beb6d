"""The loss on held-out clips while training. Nothing of the training notices: neither its data nor its random numbers.

Legend: a row is one forward's clips.
"""

import time

import torch
from transformers import TrainerCallback

from swwatch.data.collator import Collator
from swwatch.data.lengths import lengths_of
from swwatch.data.samples import Sample, Samples
from swwatch.errors import UserError
from swwatch.train import distributed

QUESTIONS = 0  # the epoch whose questions are asked: the same each time


class HeldOut(TrainerCallback):
    """Every few steps, and after the last one, the mean loss over all answer tokens of the held-out clips.

    Args:
        clips: the held-out samples.
        count: how many are taken, spread evenly, of which unusable ones are left out; 0: all.
        every: steps between evaluations.
        batch_size: clips of a forward.
        threads: that look at videos beforehand.
    Raises:
        UserError: no record gives a sample, or the first one's video breaks off.
    """

    def __init__(
        self, clips: Samples, collator: Collator, *, count: int, every: int, batch_size: int, threads: int = 1
    ):
        wanted = evenly(len(clips), count or len(clips))
        lengths = lengths_of(clips, wanted, threads)
        chosen = [index for index, tokens in zip(wanted, lengths.tokens, strict=True) if tokens]
        if not chosen:
            first = lengths.skips[0]
            raise UserError(f"eval_data: no record gives a sample; the first one: {first.path}: {first.reason}")
        self.unusable = len(lengths.skips)
        self.rows = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
        self.clips, self.collator, self.every = clips, collator, every
        self.spare = clips.build(clips.records[chosen[0]], QUESTIONS)  # for a process without a row left
        self.trainer = None

    def __str__(self) -> str:
        left_out = f" ({self.unusable:,} more are unusable)" if self.unusable else ""
        return f"{sum(map(len, self.rows)):,} clips{left_out}, every {self.every:,} steps"

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            begin = time.perf_counter()
            self.trainer.more_logs |= self.evaluate()
            self.trainer.began += time.perf_counter() - begin  # it is not part of the step

    def evaluate(self) -> dict[str, float]:
        """eval_loss, and how many samples and tokens it is the mean of; alike in all processes."""
        model = self.trainer.model_wrapped if self.trainer.is_deepspeed_enabled else self.trainer.model
        model.eval()
        try:
            devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
            with torch.random.fork_rng(devices), torch.no_grad(), self.trainer.compute_loss_context_manager():
                found = distributed.gather(self._share(model))
        finally:
            model.train()
        loss, tokens, samples = (sum(values) for values in zip(*found, strict=True))
        return {"eval_loss": loss / tokens, "eval_samples": samples, "eval_tokens": tokens} if tokens else {}

    def _share(self, model) -> tuple[float, int, int]:
        """(sum of losses, tokens, samples) of this process. All do equally many forwards, as some engines need."""
        loss, tokens, num_samples, count = 0.0, 0, 0, distributed.num_processes()
        for start in range(distributed.rank(), -(-len(self.rows) // count) * count, count):
            samples = self._read(self.rows[start]) if start < len(self.rows) else []
            inputs = self.trainer.on_device(self.collator.batch(samples or [self.spare]))
            one = torch.ones((), device=inputs["labels"].device)
            total = float(model(**inputs, num_items_in_batch=one, use_cache=False).loss)
            if samples:
                loss += total
                tokens += sum(sample.num_learned for sample in samples)
                num_samples += len(samples)
        return loss, tokens, num_samples

    def _read(self, row: list[int]) -> list[Sample]:
        """The samples of a row; a clip that breaks off behind its first frames is left out, and the count shows it."""
        samples = []
        for index in row:
            try:
                samples.append(self.clips.build(self.clips.records[index], QUESTIONS))
            except UserError as error:
                print(f"eval_data: {error}", flush=True)
        return samples


def evenly(length: int, count: int) -> list[int]:
    """`count` indices below `length`, or all of them, at equal distances."""
    count = min(count, length)
    return [i * length // count for i in range(count)]
