"""The recipes in configs/train load, can run as written, and say what they cost."""

import re

import pytest

from swwatch.config import load_settings, read_settings
from swwatch.paths import ROOT
from swwatch.plan.training import TrainPlanSettings, plan_training
from swwatch.rules.systems import SYSTEMS
from swwatch.train.parallelism import Parallelism, share
from swwatch.train.settings import TrainSettings

RECIPES = sorted((ROOT / "configs" / "train").glob("*.yaml"))


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
        line = re.search(rf"^#   {word}: .*", header, re.M).group()
        assert "ESTIMATED, not measured" in line or "measured by" in line or "measured:" in line
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


@pytest.mark.parametrize("path", [path for path in RECIPES if not path.stem.startswith("toy")], ids=lambda p: p.stem)
def test_the_memory_that_a_recipe_tells_is_what_its_plan_gives(path):
    text = " ".join(line.lstrip("# ") for line in header_of(path).partition("#   memory:")[2].splitlines())
    flags = re.match(r" *ESTIMATED, not measured: swwatch plan train ((?:--[\w-]+ \S+ )+)", text).group(1)
    settings = read_settings(TrainPlanSettings, flags.split(), program="swwatch plan train", about="")

    assert plan_training(settings).summary() in text


@pytest.mark.parametrize("name", ["vst_3b", "vst_7b", "tww_4b", "tww_8b"])
def test_a_recipe_of_a_system_that_thinks_is_for_its_models_clips_and_gpus(name, monkeypatch):
    """Of vst the release's numbers: 8 forwards of one sample on each of 16 GPUs."""
    settings = load_settings(TrainSettings, yaml_path=ROOT / f"configs/train/{name}.yaml")
    system, size = name.split("_")
    assert SYSTEMS[system].thinks and settings.variant == system and settings.batch_size == 1
    assert settings.model_path.endswith(f"{size.upper()}-Instruct") and ("Qwen3" in settings.model_path) == (
        system == "tww"
    )
    monkeypatch.setattr("swwatch.train.distributed.num_processes", lambda: 16 if system == "vst" else 8)
    assert share(settings.accumulation, settings.batch_size) == 8
    assert settings.max_frames <= SYSTEMS[system].max_frames and settings.fps == (1 if system == "tww" else None)
    assert system == "tww" or (settings.learning_rate, settings.max_frames) == (5e-6, 384)


@pytest.mark.parametrize("size", ["2b", "4b", "8b"])
def test_a_qwen3_vl_recipe_is_for_its_model_and_pixels(size):
    settings = load_settings(TrainSettings, yaml_path=ROOT / f"configs/train/qwen3_vl_{size}.yaml")
    assert settings.pixel_budget == "qwen3_vl" and settings.model_path == f"Qwen/Qwen3-VL-{size.upper()}-Instruct"
