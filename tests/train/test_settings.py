"""Settings of a training run: the files load, precedence holds, nonsense is refused."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from swwatch.config import load_settings
from swwatch.errors import UserError
from swwatch.paths import ROOT
from swwatch.train.settings import TrainSettings

CONFIGS = sorted((ROOT / "configs" / "train").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_its_header_names_command_and_hardware(path):
    load_settings(TrainSettings, yaml_path=path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("command:" in line for line in header) and any("hardware:" in line for line in header)
    assert any(f"configs/train/{path.name}" in line for line in header)


def test_the_7b_config_holds_the_papers_hyper_parameters_and_so_do_the_defaults():
    paper = load_settings(TrainSettings, yaml_path=ROOT / "configs/train/paper_7b.yaml")
    for settings in (paper, TrainSettings()):
        assert settings.model_path == "Qwen/Qwen2.5-VL-7B-Instruct"
        assert (settings.train_vision, settings.train_merger, settings.train_llm) == (False, True, True)
        assert (settings.batch_size, settings.accumulation, settings.epochs) == (1, 64, 1)
        assert (settings.learning_rate, settings.lr_schedule, settings.warmup) == (2e-5, "cosine", 0.03)
        assert (settings.weight_decay, settings.max_grad_norm, settings.gradient_checkpointing) == (0, 1, True)
        assert (settings.max_length, settings.max_frames) == (8192, 60)
        assert (settings.save_steps, settings.save_total_limit) == (50, 1)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("variant: gap\nmodel_path: from-file\nbatch_size: 3\nseed: 5\n")
    env = {"QWEN2_5_VL_VARIANT": "group", "QWEN2_5_VL_MODEL_PATH": "from-env", "QWEN2_5_VL_TRAIN_DATA": "data.jsonl"}
    settings = load_settings(TrainSettings, yaml_path=file, env=env, flags={"variant": "batch", "seed": "7"})
    assert (settings.variant, settings.model_path, settings.batch_size, settings.seed) == ("batch", "from-env", 3, 7)
    assert (settings.train_data, settings.accumulation) == (Path("data.jsonl"), 64)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"max_steps": 0}, "max_steps"),
        ({"train_merger": False, "train_llm": False}, "train_vision"),
        ({"lr_schedule": "sawtooth"}, "cosine"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_settings_that_cannot_train_are_refused(flags, named):
    with pytest.raises(UserError, match=named):
        load_settings(TrainSettings, flags=flags)


def test_what_a_continued_run_must_share_is_json_and_leaves_out_what_changes_no_result():
    fixed = json.loads(json.dumps(TrainSettings().fixed()))
    assert fixed == TrainSettings().fixed()
    free = {field.name for field in fields(TrainSettings) if field.metadata.get("free")}
    assert {"output_dir", "num_workers", "log_to"} <= free and not free & set(fixed)
    assert {"seed", "variant", "learning_rate", "train_data"} <= set(fixed)


def test_settings_that_an_earlier_version_did_not_know_are_compared_where_they_are_used():
    assert "lora_rank" not in TrainSettings().fixed()
    assert TrainSettings(adapter="lora", lora_rank=8).fixed()["lora_rank"] == 8


def test_the_deepspeed_file_is_zero_3_and_leaves_the_numbers_to_the_trainer():
    config = json.loads((ROOT / "configs/deepspeed/zero3.json").read_text())
    assert config["zero_optimization"]["stage"] == 3
    assert {config[key] for key in config if key.startswith(("train_", "gradient_"))} == {"auto"}


MISTAKES = """
import sys
from swwatch import cli

data, model, none = sys.argv[1:]
good = ["train", "--model-path", model, "--train-data", data, "--variant", "gap"]
mistakes = [
    ["train", "--train-data", none], good[:3] + ["--train-data", data], good + ["--variant", "gaps"],
    good + ["--model-path", none], good + ["--config", none], good + ["--batch-size", "two"], good + ["--rank", "3"],
    good + ["--schedule", "wait"], good + ["--pixel-budget", "large"], good + ["--parallel", "zero9"],
    good + ["--log-to", "paper"], good + ["--eval-data", none], good + ["--positions", "flat_1d"],
    ["merge", model, "--out", none], ["merge", none, "--out", none], ["merge", model, "--dtype", "int3"], ["merge"],
]
for arguments in mistakes:
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2, arguments
for command in ("train", "merge"):
    try:
        cli.main([command, "--help"])
    except SystemExit as end:
        assert not end.code
heavy = {"torch", "transformers", "numpy", "accelerate", "peft"} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_and_mistakes_import_nothing_heavy(tiny_checkpoint, clips, tmp_path):
    command = [sys.executable, "-c", MISTAKES, clips, tiny_checkpoint, tmp_path / "none"]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
