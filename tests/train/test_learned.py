"""Training for a SPEAK policy that is learned: its head in checkpoints, resumed, beside an adapter, merged."""

import json

import pytest
import torch
from safetensors.torch import load_file

from swwatch.errors import UserError
from swwatch.model.flags import LoadFlags
from swwatch.model.loading import load
from swwatch.policies.speak import parse_schedule
from swwatch.train import merge
from swwatch.train.command import main
from tests.helpers.small_clips import make_timed_clips


@pytest.fixture(scope="session")
def timed_clips(made_once):
    return made_once("timed-clips", lambda folder: make_timed_clips(folder, 8)) / "train.jsonl"


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_head_is_learned_saved_resumed_and_loaded(flags, timed_clips, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how = {"train_data": timed_clips, "schedule": "head:3:balanced=true", "save_steps": 1, "save_total_limit": 9}
    assert main(flags(**how, output_dir=whole, eval_data=timed_clips, eval_samples=3)) == 0
    assert main(flags(**how, output_dir=parts)) == 0
    for name in ("finished.json", "model.safetensors", "checkpoint-3/complete.json", "checkpoint-2/complete.json"):
        (parts / name).unlink()
    assert main(flags(**how, output_dir=parts)) == 0 and "from step 1" in capsys.readouterr().out
    assert losses(parts) == losses(whole)
    first, last = (load_file(path / "model.safetensors") for path in (whole / "checkpoint-1", whole))
    assert last["decision_head.weight"].shape == (1, 32)
    assert not first["decision_head.weight"].equal(last["decision_head.weight"])
    assert load_file(parts / "model.safetensors")["decision_head.bias"].equal(last["decision_head.bias"])
    loaded = load(whole, device="cpu")
    assert loaded.settings.schedule == parse_schedule("head:3:balanced=true")
    assert loaded.model.decision_head.weight.detach().equal(last["decision_head.weight"])
    LoadFlags(schedule="head:5:floor=0.4").check_model(whole)
    with pytest.raises(UserError, match="trained with head.*never learned to speak by gate"):
        LoadFlags(schedule="gate").check_model(whole)
    del last["decision_head.weight"]
    damaged = tmp_path / "damaged"
    loaded.model.save_pretrained(damaged, state_dict=last)
    loaded.processor.save_pretrained(damaged)
    with pytest.raises(UserError, match="weights are missing.*decision_head.weight"):
        load(damaged, device="cpu")


def test_beside_an_adapter_it_learns_in_full_and_is_merged(flags, timed_clips, tmp_path):
    out, merged = tmp_path / "out", tmp_path / "merged"
    lora = {"adapter": "lora", "lora_rank": 2, "train_vision": False, "train_merger": False}
    assert main(flags(train_data=timed_clips, schedule="head:3", **lora)) == 0
    saved = load_file(out / "adapter_model.safetensors")
    heads = [name for name in saved if "decision_head" in name]
    assert len(heads) == 2 and not any("lora" in name for name in heads)
    merge.merge(out, merged)
    ours, theirs = load(out, device="cpu").model, load(merged, device="cpu").model
    assert bool(ours.decision_head.weight.any())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter, ours.get_parameter(name))


def test_what_would_not_be_learned_is_refused(flags, clips, timed_clips):
    with pytest.raises(UserError, match="head on the LLM.*set train_llm"):
        main(flags(train_data=timed_clips, schedule="head", train_llm=False))
    with pytest.raises(UserError, match="'batch' cannot speak by gate"):
        main(flags(train_data=timed_clips, schedule="gate", variant="batch"))
    with pytest.raises(UserError, match="captions with their times"):
        main(flags(train_data=clips, schedule="gate"))
