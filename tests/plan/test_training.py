"""Memory of training before it is begun: what is counted is what real tensors take."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from swwatch.bench.models import shape_config
from swwatch.bench.train.settings import ROWS, TrainBenchSettings
from swwatch.bench.train.worker import RowTraining
from swwatch.cli import main
from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.model.families import model_class
from swwatch.plan.traced import Live, Pieces, kept_of, peak_of
from swwatch.plan.training import TrainPlanSettings, plan_training


def plan_of(**flags):
    flags = {"model_path": "toy", "precision": "bfloat16", "max_length": 256} | flags
    return plan_training(load_settings(TrainPlanSettings, flags=flags))


def test_a_trace_without_values_counts_what_real_tensors_take():
    config = shape_config("toy", "group")

    def sizes() -> list[int]:
        with torch.device("meta"):
            model = model_class("qwen2_5_vl")._from_config(config, dtype=torch.float32)
        pieces = Pieces(model, torch.float32, autocast=False)
        layer, loss, block = pieces.layer(48), pieces.loss(7), pieces.block(32, 16, learns=True)
        return [peak_of(layer), kept_of(layer), peak_of(loss), peak_of(block)]

    with FakeTensorMode(allow_non_fake_inputs=True):
        traced = sizes()
    assert traced == sizes()
    assert all(traced)


def test_what_is_freed_counts_no_more():
    with Live() as live:
        first = torch.zeros(100)
        view = first[:50]
        del first
        gc.collect()
        assert live.now == 400, "a view holds the whole storage"
        del view
        second = torch.zeros(10)
    assert (live.now, live.peak) == (40, 400) and len(second) == 10


def test_engines_share_what_they_say_they_share():
    of = {name: plan_of(parallel=name, gpus=4) for name in ("ddp", "zero2", "zero3", "zero3_offload", "fsdp2")}
    learn, everything = (sum(pair[i] for pair in of["ddp"].counts.values()) for i in (0, 1))

    assert of["ddp"].held["weights"] == 4 * everything, "ddp computes in bfloat16 over float32 weights"
    assert of["zero2"].held["weights"] == 2 * everything and of["zero3"].held["weights"] == 2 * everything / 4
    assert of["zero2"].held["optimizer"] == of["zero3"].held["optimizer"] == 12 * learn / 4
    assert of["fsdp2"].held["weights"] == everything
    assert "weights" not in of["zero3_offload"].held
    assert of["zero3_offload"].host == (2 * everything + 14 * learn) / 4


def test_longer_rows_and_no_checkpointing_take_more_and_adapters_less():
    base = plan_of()
    assert plan_of(max_length=512).passing["kept"] == 2 * base.passing["kept"]
    assert plan_of(gradient_checkpointing=False).passing["kept"] > 5 * base.passing["kept"]
    assert plan_of(train_vision=True).vision > base.vision
    lora = plan_of(adapter="lora")
    assert sum(learn for learn, _ in lora.counts.values()) < sum(learn for learn, _ in base.counts.values())
    assert plan_of(adapter="qlora").held["weights"] < lora.held["weights"] < base.held["weights"]


def test_a_plan_is_told_by_parts_that_add_up(capsys):
    assert main(["plan", "train", "--model-path", "toy", "--precision", "bfloat16", "--gpus", "2"]) == 0
    out = capsys.readouterr().out
    told = next(line for line in out.splitlines() if "GB a GPU:" in line)
    total, _, parts = told.partition(" GB a GPU: ")
    assert sum(float(part.split()[-1]) for part in parts.split(", ")) == pytest.approx(float(total), abs=0.4)
    assert "fits on" in out and "RTX 4090" in out and all(name in out for name in ("zero2", "zero3", "fsdp2"))


@pytest.mark.parametrize(
    "flags", [{"model_path": "qwen2.5-vl-4b"}, {"adapter": "lora", "parallel": "zero2"}, {"pixel_budget": "x"}]
)
def test_what_cannot_be_planned_is_refused(flags):
    with pytest.raises(UserError):
        plan_of(**flags)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_real_step_takes_about_what_is_planned(checkpointing):
    common = {"precision": "float32", "gradient_checkpointing": checkpointing, "train_vision": False}
    asked = load_settings(TrainBenchSettings, flags={"shape": "toy", "device": "cpu"} | common).settled(False)
    training = RowTraining(asked, ROWS["sdpa"], 512)
    training.step()
    moments = [value for state in training.optimizer.state.values() for value in state.values()]
    with Live() as live:
        training.step()
    real = sum(tensor.nbytes for tensor in [*training.model.parameters(), *moments]) + live.peak

    labels = {"label_tokens": training.counts["label_tokens"], "max_length": 512, "max_frames": 4000}
    plan = plan_of(**common, **labels)
    assert 0.75 < (plan.peak - plan.held["CUDA"]) / real < 1.3
