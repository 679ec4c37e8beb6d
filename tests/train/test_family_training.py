"""Training of Qwen3-VL, by the very tests that Qwen2.5-VL passes: adapters, merging, parts, two processes."""

import pytest

from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers.tiny import SIZES
from tests.train import test_adapters as adapters
from tests.train import test_distributed as distributed
from tests.train import test_parts as parts

fresh, alone, by_two = adapters.fresh, distributed.alone, distributed.by_two


@pytest.fixture(scope="module")
def tiny_checkpoint(made_once):
    return made_once("tiny-qwen3", lambda path: make_checkpoint(path, family="qwen3_vl", seed=1, **SIZES))


def test_adapters_move_and_merge(flags, tiny_checkpoint, clips, tmp_path, small_disk):
    adapters.test_merged_and_adapted_give_the_same_logits_and_the_folder_loads_like_any(
        flags, tiny_checkpoint, clips, tmp_path, small_disk
    )


def test_checkpointing_changes_nothing_and_adapters_go_on_the_llm_alone(fresh, clips):
    adapters.test_gradient_checkpointing_changes_neither_loss_nor_gradients(fresh, clips)
    names = adapters.adapters.targets(fresh().model, None)
    assert len(names) == 2 * 7 and all(name.startswith("model.language_model.layers.") for name in names)


def test_the_mergers_of_deeper_layers_are_part_of_the_merger(flags, tiny_checkpoint, tmp_path):
    parts.test_only_the_chosen_parts_move(flags, tiny_checkpoint, tmp_path, ("merger",))


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.long if name != "fsdp2" else ()) for name in distributed.ENGINES]
)
def test_two_processes_give_the_run_of_one(engine, alone, by_two):
    distributed.test_two_processes_give_the_run_of_one_in_the_engine_that_was_asked_for(engine, alone, by_two)
