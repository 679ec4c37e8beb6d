"""What training uses of transformers, accelerate, DeepSpeed and torch beyond what they promise, in one place.

Checked on the versions of model.upstream.CHECKED; tests/train/test_upstream.py looks for each name of PRIVATE and says
which is gone. It stands apart from model/upstream.py because Trainer takes seconds to import.
"""

import contextlib
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import serialization
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from swwatch.data.prompt import IGNORED
from swwatch.errors import UserError

PRIVATE = {  # module -> names in it
    "transformers": (
        "Trainer._get_num_items_in_batch",
        "Trainer._get_train_sampler",
        "Trainer._load_from_checkpoint",
        "Trainer._prepare_for_training",
        "Trainer._prepare_inputs",
        "Trainer._save",
        "Trainer._save_checkpoint",
    ),
    "accelerate": ("PartialState._reset_state", "PartialState._shared_state"),
    "deepspeed.ops": ("__compatible_ops__",),
    "deepspeed.runtime.fp16.loss_scaler": ("DynamicLossScaler", "LossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
    "torch.utils.data": ("DataLoader._iterator",),
    "torch.utils.data.dataloader": ("_MultiProcessingDataLoaderIter._shutdown_workers",),
}
# what DeepSpeed's checkpoints hold beside tensors: classes that only keep numbers
DEEPSPEED_KEEPS = (
    "deepspeed.runtime.fp16.loss_scaler",
    "deepspeed.runtime.zero.config",
    "deepspeed.utils.tensor_fragment",
)
FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch.load heeds it above its own argument
SPECIAL = {"use_cache", "bos_token_id", "eos_token_id", "pad_token_id"}  # of a configuration, which Trainer changes


class OpenTrainer(Trainer, ABC):
    """transformers' Trainer, of which private places have names of their own; it leaves configurations as they are.

    Args:
        options: as Trainer's.
    """

    def __init__(self, model, args: TrainingArguments, **options):
        self.as_loaded = [(holder, _special(holder)) for holder in (model.config, model.generation_config)]
        super().__init__(model, args, **options)
        self._restore_special()
        # transformers' class says False, and Trainer would then take a mean of the forwards' means: with batches of
        # unequal length not the mean over tokens. The model's loss does take num_items_in_batch.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    @abstractmethod
    def run_order(self) -> Sampler:
        """What the whole run reads, which is one epoch to transformers: so every step is full.

        accelerate deals it out batch by batch, so that the processes share each step's stretch of it.
        """

    def model_wrapped_up(self) -> None:
        """The engine has the model, before the first step."""

    def checkpoint_begins(self) -> None:
        """This process is about to write its part of a checkpoint."""

    def checkpoint_written(self, folder: Path) -> None:
        """This process has written its part of a checkpoint."""

    def on_device(self, inputs: dict) -> dict:
        """A batch where the model is."""
        return self._prepare_inputs(inputs)

    def save_unwrapped(self, folder: Path) -> None:
        """Write the model before an engine has it, while the weights are whole."""
        self._save(str(folder))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        with only_tensors(resume_from_checkpoint, self.is_deepspeed_enabled):
            return super().train(resume_from_checkpoint, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict], device) -> torch.Tensor | int | None:
        """Decisions count as labels do: each is a place in the loss."""
        return super()._get_num_items_in_batch([_with_decisions(batch) for batch in batch_samples], device)

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        return self.run_order()

    def _prepare_for_training(self, *args, **kwargs):
        self._restore_special()
        prepared = super()._prepare_for_training(*args, **kwargs)
        self.model_wrapped_up()
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        """Nothing is left to load: `model.loading.load` has read the weights.

        Trainer would read them without the renaming of keys that from_pretrained does, find no key that fits, and
        go on with the weights that it has.
        """

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.checkpoint_begins()
        try:
            super()._save_checkpoint(model, trial)
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)  # what a full disk took of it
            raise
        if self.is_fsdp_enabled and self.args.should_save:
            (folder / "pytorch_model_fsdp.bin").unlink(missing_ok=True)  # the weights once more
        self.checkpoint_written(folder)

    def _restore_special(self) -> None:
        """Undo what Trainer writes into the configurations, where each continued run would add to it."""
        for holder, values in self.as_loaded:
            for name in SPECIAL & vars(holder).keys():
                delattr(holder, name)
            vars(holder).update(values)


@contextlib.contextmanager
def only_tensors(checkpoint: str | None, deepspeed: bool) -> Iterator[None]:
    """While a run is continued no file of its checkpoint can run code, whatever a library asks `torch.load` for.

    DeepSpeed asks for whole pickles (`weights_only=False`), which whoever can write the folder may fill with anything.

    Args:
        checkpoint: None at the start of a run.
    Raises:
        UserError: a file holds something else than tensors, numbers and what DeepSpeed keeps beside them.
    """
    if checkpoint is None:
        yield
        return
    classes = [_named(module, name) for module in DEEPSPEED_KEEPS for name in PRIVATE[module]] if deepspeed else []
    before, os.environ[FORCE] = os.environ.get(FORCE), "1"
    try:
        with serialization.safe_globals(classes):
            yield
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"calls {named[1]}" if named else "is damaged"
        raise UserError(
            f"{checkpoint} holds a file that {what}, which is not read, for it could run code: delete the folder to "
            "go on from the checkpoint before it"
        ) from error
    finally:
        os.environ.pop(FORCE) if before is None else os.environ.update({FORCE: before})


def _named(module: str, name: str) -> type:
    return getattr(import_module(module), name)


def _with_decisions(batch: dict) -> dict:
    """A batch whose labels have one more for each decision."""
    if "decisions" not in batch:
        return batch
    more = torch.where(batch["decisions"] != 0, 0, IGNORED)
    return batch | {"labels": torch.cat([batch["labels"], more], dim=1)}


def _special(configuration) -> dict:
    return {name: value for name, value in vars(configuration).items() if name in SPECIAL}


def one_device(args: TrainingArguments) -> TrainingArguments:
    """Without DataParallel, which would split position_ids (3, B, L) along the axes t, h, w."""
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def shard_on_cpu(fsdp: bool) -> dict:
    """Make accelerate shard a model without a GPU, where `use_cpu` would drop ZeRO and FSDP without a word.

    Args:
        fsdp: else DeepSpeed.
    Returns:
        Arguments of TrainingArguments.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if not fsdp:
        os.environ.update(ACCELERATE_USE_DEEPSPEED="true", DS_ACCELERATOR="cpu")
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled for minutes, and gloo serves as well
    PartialState._reset_state()
    PartialState(backend="gloo")
    if fsdp:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return {"use_cpu": False, "accelerator_config": {"use_configured_state": True}}


def loader_workers(loader: DataLoader | None) -> list[BaseProcess]:
    """The processes of a loader with persistent workers."""
    return loader._iterator._workers if loader and loader._iterator else []


def end_workers(loader: DataLoader | None) -> None:
    """End a loader's workers also where an error broke off its reading: at exit each would be waited for 5 s."""
    workers = loader_workers(loader)
    if workers:
        loader._iterator._shutdown_workers()
    for worker in workers:
        worker.kill()  # what is still decoding does not heed SIGTERM, see loader.start_worker
        worker.join()
