"""The private names of other libraries that training uses are still there."""

import importlib
import os
from importlib.metadata import version

import pytest
import torch
from transformers import TrainingArguments

from swwatch.errors import UserError
from swwatch.train.upstream import PRIVATE, one_device, only_tensors


@pytest.mark.parametrize("module, name", [(module, name) for module, names in PRIVATE.items() for name in names])
def test_a_private_name_that_is_used_is_there(module, name):
    library, owner, names = module.partition(".")[0], importlib.import_module(module), name.split(".")
    for one in names:
        text = f"{library} {version(library)} has no {module}.{name}: see what swwatch/train/upstream.py does with it"
        of_instances = getattr(owner, "__annotations__", {})
        assert hasattr(owner, one) or one in of_instances, text
        owner = getattr(owner, one, None)


def test_a_trainer_that_sees_several_gpus_is_told_of_one(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    args._n_gpu = 4
    assert args.n_gpu == 4 and one_device(args).n_gpu == 1, "transformers' TrainingArguments has no _n_gpu any more"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_checkpoint_of_deepspeed_cannot_run_code_when_a_run_is_continued(tmp_path):
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    good, evil = tmp_path / "good.pt", tmp_path / "evil.pt"
    torch.save({"scaler": LossScaler(2.0), "stage": ZeroStageEnum(2), "weights": torch.ones(2)}, good)
    torch.save({"weights": torch.ones(2), "more": Evil(str(tmp_path / "ran"))}, evil)
    engine = TorchCheckpointEngine()
    with only_tensors(str(tmp_path), True):
        assert engine.load(str(good))["scaler"].cur_scale == 2.0
    with pytest.raises(UserError, match="calls posix.mkdir, .* could run code"), only_tensors(str(tmp_path), True):
        engine.load(str(evil))
    assert not (tmp_path / "ran").exists()
    engine.load(str(evil))
    assert (tmp_path / "ran").exists(), "DeepSpeed reads safely by itself: only_tensors can go"
