"""Which engine is asked for, what a DeepSpeed file may say, and that another one than asked for is refused."""

import json
import signal

import pytest
import torch
from torch import nn

from swwatch.errors import UserError
from swwatch.launch.signals import STOP_SIGNALS, handled_by
from swwatch.train import distributed
from swwatch.train.deepspeed_files import DEEPSPEED_FOLDER, NAMES, OURS
from swwatch.train.parallelism import Parallelism, describe, share


def test_every_named_engine_exists_and_every_file_is_named():
    assert [Parallelism.of(name).stage for name in NAMES] == [0, 2, 3, 3, 0]
    assert {path.stem for path in DEEPSPEED_FOLDER.glob("*.json")} < set(NAMES)
    offload = Parallelism.of("zero3_offload").deepspeed["zero_optimization"]
    assert offload["offload_param"]["device"] == offload["offload_optimizer"]["device"] == "cpu"


@pytest.mark.parametrize("path", sorted(DEEPSPEED_FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_deepspeed_files_leave_the_numbers_to_the_settings_and_can_be_used_by_path(path):
    engine = Parallelism.of(str(path))
    assert {engine.deepspeed.get(key, "auto") for key in OURS} == {"auto"}
    assert engine.deepspeed["bf16"] == {"enabled": "auto"} and "fp16" not in engine.deepspeed


def write(folder, **changes):
    content = {"zero_optimization": {"stage": 2}} | changes
    (folder / "a.json").write_text(json.dumps(content))
    return str(folder / "a.json")


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda p: "zero4", "ddp, zero2, zero3"),
        (lambda p: str(p / "none.json"), "none.json"),
        (lambda p: write(p, zero_optimization={}), "stage must be"),
        (lambda p: write(p, train_batch_size=8), "train_batch_size come from the settings"),
        (lambda p: write(p, optimizer={"type": "Adam"}), "optimizer"),
        (lambda p: write(p, zero_optimization={"stage": 3}), "gather_16bit"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(tmp_path, make, named):
    with pytest.raises(UserError, match=named):
        Parallelism.of(make(tmp_path))


def test_deepspeed_that_is_not_installed_is_an_error_not_another_engine(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install deepspeed"):
        Parallelism.of("zero2")
    assert Parallelism.of("fsdp2").stage == 0


class DeepSpeedEngine(nn.Module):
    """Stands in for DeepSpeed's, which this test need not start."""

    def zero_optimization_stage(self) -> int:
        return 2


@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_a_model_that_another_engine_has_is_refused(name):
    engine = Parallelism.of(name)
    with pytest.raises(UserError, match=f"parallel {name} was asked for.*the model is unwrapped"):
        engine.check(nn.Linear(1, 1))
    if name == "zero2":
        assert "stage 2" in engine.check(DeepSpeedEngine())
    else:
        with pytest.raises(UserError, match="ZeRO stage 2"):
            engine.check(DeepSpeedEngine())
    assert describe(nn.Linear(1, 1)) == Parallelism.of("ddp").check(nn.Linear(1, 1)) == "unwrapped"


@pytest.mark.parametrize("count, want", [(1, 64), (4, 16), (8, 8)])
def test_the_forwards_of_a_step_are_shared_evenly_or_not_at_all(monkeypatch, count, want):
    monkeypatch.setattr(distributed, "num_processes", lambda: count)
    assert share(64, 1) == want
    monkeypatch.setattr(distributed, "num_processes", lambda: 3)
    with pytest.raises(UserError, match="among 3 processes: use accumulation 63 or 66"):
        share(64, 1)
    monkeypatch.setattr(distributed, "num_processes", lambda: 100)
    with pytest.raises(UserError, match="use accumulation 100,"):
        share(64, 1)


def test_outside_of_torchrun_there_is_one_process_and_errors_are_plain():
    assert not torch.distributed.is_initialized()
    assert (distributed.rank(), distributed.num_processes(), distributed.gather("a")) == (0, 1, ["a"])
    assert distributed.together(lambda: 5) == distributed.on_main(lambda: 5) == 5

    def fail():
        raise UserError("no")

    for call in (distributed.together, distributed.on_main, distributed.main_first):
        with pytest.raises(UserError, match="^no$"):
            call(fail)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=str)
def test_stop_signals_are_noted_inside_and_have_their_old_effect_after(number):
    came = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        stop = distributed.StopSignals()
        with handled_by(stop.note):
            assert not stop.anywhere()
            signal.raise_signal(number)
            assert stop.anywhere() and not came
        signal.raise_signal(number)
        assert came == [number]
    finally:
        signal.signal(number, before)
