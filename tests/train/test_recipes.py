"""The recipes in configs/train load, can run as written, and say what they cost."""

import re
from dataclasses import replace

import pytest

from swwatch.config import load_settings
from swwatch.paths import ROOT
from swwatch.train.parallelism import Parallelism, share
from swwatch.train.settings import TrainSettings

RECIPES = sorted((ROOT / "configs" / "train").glob("*.yaml"))

TEXT = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936, "rope_theta": 5e6}
TEXT |= {"rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}}
TOWER = {"deepstack_visual_indexes": [5, 11, 17], "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
LARGE = {"deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
RELEASED = {  # width, inner width, heads, layers; tower; whether embedding and head are one, as in config.json
    "2b": ((2048, 6144, 16, 28), TOWER, True),
    "4b": ((2560, 9728, 32, 36), TOWER, True),
    "8b": ((4096, 12288, 32, 36), LARGE, False),
}


def header_of(path) -> str:
    return "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))


def test_the_recipes_that_the_documents_name_are_there():
    assert {"paper_3b", "paper_7b", "lora_7b_24gb", "toy"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_says_command_hardware_hours_and_memory_and_whether_they_were_measured(path):
    header = header_of(path)
    for word in ("command", "hardware", "hours", "memory"):
        assert re.search(rf"^#   {word}: +\S", header, re.M), word
    for word in ("hours", "memory"):
        told = re.search(rf"^#   {word}: .*", header, re.M).group()
        assert "ESTIMATED, not measured" in told or "measured by" in told or "measured:" in told
    assert f"--config configs/train/{path.name}" in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_files_that_a_recipe_names_exist_and_its_engine_is_known(path):
    named = re.findall(r"(?<![\w./])((?:scripts|configs|docs)/[\w./]+\.\w+|mani_data\.py|README\.md)", header_of(path))
    assert named and all((ROOT / name).exists() for name in named), named
    settings = load_settings(TrainSettings, yaml_path=path)
    Parallelism.of(settings.parallel)
    share(settings.accumulation, settings.batch_size)


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_papers_recipes_take_its_64_samples_a_step_on_4_gpus_with_zero3(size, monkeypatch):
    settings = load_settings(TrainSettings, yaml_path=ROOT / f"configs/train/paper_{size}.yaml")
    assert (settings.parallel, settings.batch_size, settings.pack_tokens) == ("zero3", 1, None)
    assert Parallelism.of(settings.parallel).stage == 3
    monkeypatch.setattr("swwatch.train.distributed.num_processes", lambda: 4)
    assert share(settings.accumulation, settings.batch_size) == 16
    assert settings.model_path.endswith(f"{size.upper()}-Instruct")


def test_the_lora_recipe_trains_adapters_on_packs():
    settings = load_settings(TrainSettings, yaml_path=ROOT / "configs/train/lora_7b_24gb.yaml")
    assert (settings.adapter, settings.train_vision, settings.precision) == ("lora", False, "bfloat16")
    assert settings.pack_tokens >= settings.max_length >= 30 * 64 + 300, "30 s of the declared pixel budget fit"


@pytest.mark.parametrize("size", RELEASED)
def test_the_memory_that_a_qwen3_vl_recipe_tells_is_what_the_estimate_gives(size):
    from transformers import Qwen3VLConfig

    from swwatch.train.memory import estimate

    path = ROOT / f"configs/train/qwen3_vl_{size}.yaml"
    settings = load_settings(TrainSettings, yaml_path=path)
    (width, inner, heads, layers), tower, tied = RELEASED[size]
    text = TEXT | {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    text |= {"num_hidden_layers": layers, "tie_word_embeddings": tied}
    config = Qwen3VLConfig(
        text_config=text, vision_config=tower | {"out_hidden_size": width}, tie_word_embeddings=tied
    )
    found = estimate(config, settings, 4)
    of_adapters = estimate(config, replace(settings, adapter="lora"), 1)
    told = header_of(path).replace("\n#             ", "")
    sizes = found["gigabytes"] | of_adapters["gigabytes"] | {"kept": found["kept"]}
    ways = {"zero3": "ZeRO-3 {} GB", "zero2": "ZeRO-2 {} GB", "ddp": "ddp: {} GB", "kept": "activations {} GB"}
    for name, form in (ways | {"lora": "4096): {} GB"}).items():
        assert form.format(f"{sizes[name]:.1f}") in told, (name, sizes[name])
    assert settings.pixel_budget == "qwen3_vl" and settings.model_path == f"Qwen/Qwen3-VL-{size.upper()}-Instruct"
