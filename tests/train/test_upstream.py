"""The private names of other libraries that training uses are still there."""

import importlib
from importlib.metadata import version

import pytest
from transformers import TrainingArguments

from swwatch.train.upstream import PRIVATE, one_device


@pytest.mark.parametrize("module, name", [(module, name) for module, names in PRIVATE.items() for name in names])
def test_a_private_name_that_is_used_is_there(module, name):
    library, owner, names = module.partition(".")[0], importlib.import_module(module), name.split(".")
    for one in names:
        told = f"{library} {version(library)} has no {module}.{name}: see what swwatch/train/upstream.py does with it"
        of_instances = getattr(owner, "__annotations__", {})
        assert hasattr(owner, one) or one in of_instances, told
        owner = getattr(owner, one, None)


def test_a_trainer_that_sees_several_gpus_is_told_of_one(tmp_path):
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    args._n_gpu = 4
    assert args.n_gpu == 4 and one_device(args).n_gpu == 1, "transformers' TrainingArguments has no _n_gpu any more"
