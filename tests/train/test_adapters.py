"""LoRA, DoRA and QLoRA: the base stays as it is, adapters learn, are saved, continued, merged and used."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from swwatch.data.collator import Collator
from swwatch.errors import UserError
from swwatch.model.adapters import attach
from swwatch.model.loading import load
from swwatch.train import adapters, merge
from swwatch.train.command import main
from swwatch.train.settings import TrainSettings
from tests.helpers.signalled import kill_at
from tests.train.test_resume import lines

LORA = {"adapter": "lora", "lora_rank": 4, "train_vision": False}


@pytest.fixture
def fresh(tiny_checkpoint):
    """A model of its own, for adapters to be put on."""
    return lambda **how: load(tiny_checkpoint, variant="group", device="cpu", **how)


def batch_of(loaded, clips, variant="group"):
    from swwatch.data.prompt import load_prompts
    from tests.helpers.small_clips import clip_dataset

    dataset = clip_dataset(loaded, clips, variant, loaded.settings.schedule, prompts=load_prompts())
    return Collator(0).batch([dataset[0, i].sample for i in (0, 2)])


@pytest.mark.parametrize("changes", [{}, {"adapter": "dora"}, {"train_merger": False, "lora_dropout": 0.1}], ids=str)
def test_the_base_stays_as_it_is_and_the_adapters_move(flags, tiny_checkpoint, tmp_path, changes):
    before = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    assert main(flags(**LORA | changes, save_steps=1, save_total_limit=9)) == 0
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()} == before
    out = tmp_path / "out"
    assert not (out / "model.safetensors").exists()
    first, last = (load_file(out / name / "adapter_model.safetensors") for name in ("checkpoint-1", "checkpoint-3"))
    assert all(not first[name].equal(last[name]) for name in first), "everything saved learns"
    assert any("lora_A" in name for name in first) and not any("visual.blocks" in name for name in first)
    assert any("visual.merger" in name for name in first) == changes.get("train_merger", True)
    assert any("magnitude" in name for name in first) == (changes.get("adapter") == "dora")
    losses = [line["loss"] for line in lines(out / "log.jsonl")]
    assert losses[-1] < losses[0]


def test_in_memory_too_training_changes_nothing_of_the_base(fresh, clips):
    loaded = fresh()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    model = adapters.adapt(loaded.model, TrainSettings(variant="group", adapter="lora"), None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    batch = batch_of(loaded, clips)
    untouched = loaded.model(**batch).logits
    for _ in range(2):
        model(**batch).loss.backward()
        optimizer.step()
    assert not torch.allclose(model(**batch).logits, untouched)
    after = {
        name.replace("base_layer.", "").replace("original_module.", ""): v
        for name, v in loaded.model.state_dict().items()
    }
    assert all(after[name].equal(value) for name, value in before.items())


def test_new_adapters_add_nothing(fresh, clips):
    plain, adapted = fresh(), fresh()
    batch = batch_of(plain, clips)
    model = adapters.adapt(adapted.model, TrainSettings(variant="group", adapter="lora"), None)
    assert model(**batch).logits.equal(plain.model(**batch).logits)


def test_gradient_checkpointing_changes_neither_loss_nor_gradients(fresh, clips):
    loaded = fresh()
    model = adapters.adapt(loaded.model, TrainSettings(variant="group", adapter="lora", seed=3), None).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    batch, found = batch_of(loaded, clips), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}))
    (loss, gradients), (loss_again, gradients_again) = found
    assert loss == loss_again and all(gradients[name].equal(gradients_again[name]) for name in gradients)
    assert all(bool(g.any()) for name, g in gradients.items() if "lora_A" in name)


def test_merged_and_adapted_give_the_same_logits_and_the_folder_loads_like_any(
    flags, tiny_checkpoint, clips, tmp_path, small_disk
):
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert main(flags(**LORA, variant="gap", schedule="random:3:seed=5")) == 0
    assert merge.main([str(out), "--out", str(merged)]) == 0
    base = load(tiny_checkpoint, variant="gap", schedule="random:3:seed=5", device="cpu")
    batch = batch_of(base, clips, "gap")
    with torch.no_grad():
        plain = base.model(**batch).logits
        live = attach(base.model, out).eval()(**batch).logits
        folder, whole = load(out, device="cpu"), load(merged, device="cpu")
        torch.testing.assert_close(whole.model(**batch).logits, live, atol=1e-5, rtol=0)
        torch.testing.assert_close(folder.model(**batch).logits, live, atol=1e-5, rtol=0)
        rounded = [load(path, device="cpu", quantize="int8").model(**batch).logits for path in (out, merged)]
        assert float((rounded[0] - rounded[1]).norm() / live.norm()) < 0.01, "rounded after the adapter was added"
        assert 0 < float((rounded[0] - live).norm() / live.norm()) < 0.05
    assert not torch.allclose(plain, live, atol=1e-2)
    want = {"variant": "gap", "schedule": "random:3:seed=5", "pixel_budget": "declared", "see": "all", "fps": 2.0}
    assert folder.settings.as_dict() == whole.settings.as_dict() == want
    assert whole.tokenizer.chat_template and {p.name for p in merged.iterdir()} >= {"config.json", "model.safetensors"}
    assert not (merged / "adapter_config.json").exists()
    with pytest.raises(UserError, match="trained with variant 'gap', but 'group'"):
        load(out, variant="group", device="cpu")
    with pytest.raises(UserError, match="merged exists"):
        merge.main([str(out), "--out", str(merged)])
    disk = small_disk(sum(path.stat().st_size for path in merged.iterdir()) - 1000)  # enough for the weights alone
    with pytest.raises(UserError, match=f"cannot write to {disk}.*the disk is full"):
        merge.main([str(out), "--out", str(disk / "merged")])
    assert not (disk / "merged").exists()
    with pytest.raises(UserError, match="merge it first"):
        main(flags(**LORA, variant="gap", model_path=out, output_dir=tmp_path / "second"))


def test_a_base_model_that_moved_is_told_and_can_be_named(flags, tiny_checkpoint, tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_checkpoint, base)
    assert main(flags(**LORA, model_path=base, max_steps=1)) == 0
    base.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"{out} is an adapter of the model {base}, which is not there: --base"):
        load(out, device="cpu")
    assert merge.main([str(out), "--out", str(tmp_path / "merged"), "--base", str(tmp_path / "moved")]) == 0
    with pytest.raises(UserError, match="no adapter"):
        load(tmp_path / "merged", base=base, device="cpu")
    with pytest.raises(UserError, match="holds no adapter_config.json"):
        merge.main([str(tmp_path / "merged"), "--out", str(tmp_path / "again")])


def test_an_adapter_of_another_model_is_refused(flags, tmp_path):
    from swwatch.toy.checkpoint import make_checkpoint

    assert main(flags(**LORA, max_steps=1)) == 0
    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    other = make_checkpoint(tmp_path / "other", seed=2, **sizes)
    with pytest.raises(UserError, match="cannot be put on|does not fit"):
        load(tmp_path / "out", base=other, device="cpu")


@pytest.mark.slow
def test_killed_an_adapter_run_ends_as_if_never_interrupted(flags, tmp_path):
    changes = LORA | {"max_steps": 4, "save_steps": 2, "lora_dropout": 0.1, "gradient_checkpointing": True}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(flags(**changes, output_dir=whole)) == 0
    kill_at("swwatch.train.trainer", "mark_complete", 2, flags(**changes, output_dir=broken))
    assert len(lines(broken / "log.jsonl")) == 4
    assert main(flags(**changes, output_dir=broken)) == 0
    assert lines(broken / "log.jsonl") == lines(whole / "log.jsonl")
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (broken, whole))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_targets_are_the_llms_linear_layers_or_what_the_patterns_say(fresh):
    model = fresh().model
    default = adapters.targets(model, None)
    assert len(default) == 2 * 7 and all(name.startswith("model.language_model.layers.") for name in default)
    assert len(adapters.targets(model, ["q_proj", "v_proj"])) == 4
    assert adapters.targets(model, [r"layers\.1\.mlp\.up_proj"]) == ["model.language_model.layers.1.mlp.up_proj"]
    assert len(adapters.targets(model, [r"visual\.blocks.*"])) == 2 * 5
    usual = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # three are the tower's too
    assert adapters.targets(model, usual) == default == adapters.targets(model, [".*_proj"])
    assert len(adapters.targets(model, [r"visual\..*gate_proj"])) == 2


def test_targets_that_match_nothing_are_an_error_that_lists_what_there_is(fresh, flags):
    with pytest.raises(UserError, match=r"'query' matches no linear layer.*layers.N.self_attn.q_proj"):
        main(flags(**LORA, lora_targets="q_proj,query"))
    with pytest.raises(UserError, match="no regular expression"):
        adapters.targets(fresh().model, ["q_(proj"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train_vision": True}, "without train_vision"),
        ({"train_llm": False}, "goes with train_llm"),
        ({"lora_dropout": 1.0}, "below 1"),
        ({"lora_rank": 0}, "lora_rank"),
    ],
    ids=str,
)
def test_settings_that_contradict_an_adapter_are_refused(changes, named):
    with pytest.raises(UserError, match=named):
        TrainSettings(adapter="lora", **changes)


def test_qlora_says_what_it_lacks(flags, monkeypatch):
    settings = TrainSettings(adapter="qlora", variant="group")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        adapters.quantisation(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="CUDA device"):
        adapters.quantisation(settings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="not zero3"):
        adapters.quantisation(TrainSettings(adapter="qlora", variant="group", parallel="zero3"))


def test_qlora_holds_the_llms_layers_in_four_bits_and_nothing_else(fresh, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = adapters.quantisation(TrainSettings(adapter="qlora", variant="group"))
    said = config.to_dict()
    assert (said["load_in_4bit"], said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == (
        True,
        "nf4",
        True,
    )
    assert said["bnb_4bit_compute_dtype"] == "bfloat16" and json.dumps(said)
    monkeypatch.undo()
    names = [name for name, module in fresh().model.named_modules() if isinstance(module, nn.Linear)]
    held = [name for name in names if should_convert_module(name, config.llm_int8_skip_modules)]
    assert held == adapters.targets(fresh().model, None)
    assert adapters.quantisation(TrainSettings(adapter="lora")) is None
