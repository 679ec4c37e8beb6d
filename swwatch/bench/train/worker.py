"""One row of the benchmark in a process of its own, so that neither memory nor compiled kernels of rows mix.

It builds model and samples, says what it has, takes an optimizer step whenever it is asked to, and answers with
measured times. A step takes all samples, in as many forwards as the row needs.
"""

import contextlib
import time

import torch

from swwatch.bench.models import num_parameters, random_model, shape_config
from swwatch.bench.process import forget_peak, memory_now, memory_peak
from swwatch.bench.stopwatch import ModuleTime
from swwatch.bench.train.figures import llm_sizes
from swwatch.bench.train.samples import MadeUp, clip_samples, forwards, visible_pairs
from swwatch.bench.train.settings import TrainBenchSettings, TrainRow
from swwatch.data.collator import Collator
from swwatch.data.dataset import Sample
from swwatch.data.prompt import IGNORED
from swwatch.errors import UserError
from swwatch.model.attention import BACKENDS, BLOCK
from swwatch.model.loading import load
from swwatch.model.loss import choose_loss
from swwatch.model.upstream import set_attention, swap_back

LEARNING_RATE, MAX_GRAD_NORM = 1e-5, 1.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "autocast": torch.float32}  # of the weights
# what a row may fail of without anything being wrong with the others
CANNOT = (UserError, NotImplementedError, ImportError, torch.OutOfMemoryError)


def serve(settings: TrainBenchSettings, row: TrainRow, length: int | None, pipe) -> None:
    """Answer requests until "end" or until the other side is gone.

    Args:
        settings: settled.
        length: of the one made-up sample of a sweep; None: the settings' samples.
        pipe: multiprocessing connection; answers are ("ready" | "step" | "end", dict) or ("cannot", reason).
    """
    try:
        training = RowTraining(settings, row, length)
        pipe.send(("ready", training.facts()))
        with contextlib.suppress(EOFError):
            while pipe.recv() == "step":
                pipe.send(("step", training.step()))
            pipe.send(("end", training.memory()))
    except CANNOT as error:
        text = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error).splitlines()[0]
        pipe.send(("cannot", text))


class RowTraining:
    """Model, optimizer and batches of a row."""

    def __init__(self, settings: TrainBenchSettings, row: TrainRow, length: int | None):
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.settings, self.row = settings, row
        self.cuda = settings.device == "cuda"
        self.device = torch.device(settings.device)
        self.autocast = settings.precision == "autocast"
        self.model, loaded = self._model()
        samples, self.build_s = self._samples(loaded, length)
        collator = Collator(0, multiple=BLOCK if row.attention == "flex" else 1)
        self.batches = forwards(samples, row, settings, collator)
        if self.cuda:
            self.batches = [{key: value.pin_memory() for key, value in b.items()} for b in self.batches]
        self.counts = _counts(samples, self.batches)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0, fused=self.cuda)
        self.trained = trained
        self.vision = ModuleTime([self.model.model.visual], self.cuda)
        self.memory_before = memory_now(self.cuda)
        forget_peak(self.cuda)

    def _model(self):
        settings, dtype = self.settings, DTYPES[self.settings.precision]
        loaded = None
        if settings.model is None:
            config = shape_config(settings.shape, settings.variant, settings.fps)
            model = random_model(config, self.row.attention, str(self.device), dtype, settings.seed)
        else:
            how = {"device": str(self.device), "dtype": dtype, "attention": self.row.attention}
            loaded = load(settings.model, variant=settings.variant, fps=settings.fps, other_fps=True, **how)
            model = loaded.model
            set_attention(model.config.vision_config, BACKENDS["sdpa"])  # one vision tower for all rows
        model.loss_way, _ = choose_loss("off" if self.row.upstream else "auto", cuda=self.cuda, sharded=False)
        if self.row.upstream:
            restore_vision_tower(model)
        model.requires_grad_(True)
        model.model.visual.requires_grad_(settings.train_vision)
        for name in model.mergers:
            model.get_submodule(name).requires_grad_(True)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return model.train(), loaded

    def _samples(self, loaded, length: int | None) -> tuple[list[Sample], float]:
        """The samples, and seconds that one took."""
        settings, start = self.settings, time.perf_counter()
        if settings.data is not None and length is None:
            samples = clip_samples(settings.data, loaded, settings.samples, settings.seed)
        else:
            made_up = MadeUp(self.model.config, settings.tokens_per_step, settings.seed)
            samples = (
                [made_up.of_length(length)] if length else made_up.of_seconds(*settings.seconds, settings.samples)
            )
        return samples, (time.perf_counter() - start) / len(samples)

    def facts(self) -> dict:
        facts = {**self.counts, **llm_sizes(self.model), "build_s": self.build_s}
        facts["parameters"] = num_parameters(self.model)
        facts |= {"loss_way": self.model.loss_way, "weights": str(self.model.dtype).removeprefix("torch.")}
        return facts | {"trained": sum(p.numel() for p in self.trained), "threads": torch.get_num_threads()}

    def step(self) -> dict:
        """One optimizer step over all samples: seconds, of these in the vision tower, and the mean loss before it."""
        self._wait()
        before_s = self.vision.seconds()
        start, cpu = time.perf_counter(), time.process_time()
        total = torch.zeros((), device=self.device)
        for batch in self.batches:
            inputs = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                loss = self.model(**inputs, use_cache=False, num_items_in_batch=self.counts["label_tokens"]).loss
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._wait()
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        return times | {"vision_seconds": self.vision.seconds() - before_s, "loss": float(total)}

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def memory(self) -> dict:
        """Bytes before the first step, and at most since."""
        return {"before": self.memory_before, "peak": memory_peak(self.cuda)}


def restore_vision_tower(model) -> None:
    """Have the vision tower run as transformers runs it under eager attention: window by window."""
    visual = model.model.visual
    swap_back(visual.patch_embed.proj)
    for block in visual.blocks:
        swap_back(block.attn)
    set_attention(model.config.vision_config, BACKENDS["eager"])


def _counts(samples: list[Sample], batches: list[dict]) -> dict:
    tokens = sum(len(sample.tokens) for sample in samples)
    return {
        "samples": len(samples),
        "forwards": len(batches),
        "tokens": tokens,
        "padding": sum(batch["input_ids"].numel() for batch in batches) - tokens,
        "label_tokens": sum(int((sample.labels != IGNORED).sum()) for sample in samples),
        "longest": max(len(sample.tokens) for sample in samples),
        "pairs": sum(visible_pairs(sample) for sample in samples),
    }
