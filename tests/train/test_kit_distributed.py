"""Adapters, rates of parts, held-out loss and the loss in chunks: two processes do as one, in every engine."""

import pytest
import torch
from safetensors.torch import load_file

from swwatch.model.loading import load
from swwatch.train.checkpoints import COMPLETE, FINISHED
from swwatch.train.command import main
from tests.train.test_distributed import ENGINES, log_of, numbers, train_by_two

CHANGES = {"adapter": "lora", "train_vision": False, "lora_rank": 4, "merger_learning_rate": 0.001, "max_steps": 4}
CHANGES |= {"batch_size": 1, "accumulation": 6, "warmup": 1, "gradient_checkpointing": True}
CHANGES |= {"save_steps": 2, "save_total_limit": 2, "eval_steps": 2, "eval_samples": 3}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", *(pytest.param(e, marks=pytest.mark.long) for e in ENGINES if e != "ddp")])
def test_two_processes_train_adapters_as_one_does_and_continue(engine, flags, clips, tmp_path):
    alone, out = tmp_path / "alone", tmp_path / engine
    assert main(flags(**CHANGES, output_dir=alone, eval_data=clips)) == 0
    arguments = flags(**CHANGES, output_dir=out, eval_data=clips, parallel=engine)
    done = train_by_two(out, arguments)
    assert done.returncode == 0, done.stderr
    log, want = log_of(out), log_of(alone)
    assert numbers(log) == pytest.approx(numbers(want), rel=1e-3)
    held_out = [[line["eval_loss"], line["eval_tokens"]] for line in (*log, *want) if "eval_loss" in line]
    assert len(held_out) == 4 and sum(held_out[:2], []) == pytest.approx(sum(held_out[2:], []), rel=1e-3)
    # all that learns, and nothing else, is in the folder of the adapter
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (out, alone))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=0, atol=2e-3, msg=lambda text, n=name: f"{n}: {text}"
        )
    assert load(out, device="cpu").settings.variant == "group"
    # and goes on from there
    (out / FINISHED).unlink()
    (out / "checkpoint-4" / COMPLETE).unlink()
    assert train_by_two(out, arguments).returncode == 0
    assert numbers(log_of(out)) == pytest.approx(numbers(log), rel=1e-6)
