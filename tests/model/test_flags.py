"""The flags of every program with a model: checked by name, without torch, and handed to the loader."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from swwatch.config import load_settings, read_settings
from swwatch.engine.turns import TurnSession
from swwatch.errors import UserError
from swwatch.model.checks import saved_settings
from swwatch.model.flags import LoadFlags, ModelFlags
from swwatch.model.loading import load
from swwatch.model.settings import Settings
from swwatch.rules import systems


@dataclass(frozen=True, kw_only=True)
class Demo(ModelFlags):
    max_frames: int = 60


@pytest.mark.parametrize(
    "flag, value, told",
    [
        ("variant", "gruop", "gruop"),
        ("schedule", "wait:3", "wait-k:3"),
        ("speak", "wait:3", "wait-k:3"),
        ("see", "most", "Write all"),
        ("pixel_budget", "large", "declared"),
        ("device", "gpu", "cuda:0"),
        ("dtype", "int8", "bfloat16"),
        ("max_framse", "3", "max_frames"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_ones(flag, value, told):
    with pytest.raises(UserError, match=told):
        load_settings(Demo, flags={"model": "x", flag: value})


def test_a_model_that_is_not_there_is_told_without_torch(tmp_path):
    code = "import sys; from swwatch.model.flags import ModelFlags; from swwatch.errors import UserError\n"
    code += "try:\n    ModelFlags(model='/nowhere').check_model('/nowhere')\n"
    code += "except UserError as error:\n    print(error)\n"
    code += "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("no checkpoint at /nowhere") and done.stdout.endswith("[]\n")


def test_hub_ids_and_folders_pass_and_what_holds_no_model_does_not(tmp_path, tiny_checkpoint):
    flags = LoadFlags()
    for path in ("Qwen/Qwen2.5-VL-7B-Instruct", tiny_checkpoint):
        flags.check_model(path)
    for path, told in ((tmp_path, "config.json"), ("output/run", "sft.sh"), ("./a/b", "toy model")):
        with pytest.raises(UserError, match=told):
            flags.check_model(path)
    with pytest.raises(UserError, match="is no adapter"):
        LoadFlags(base="Qwen/Qwen2.5-VL-7B-Instruct").check_model(tiny_checkpoint)


def test_a_checkpoint_knows_its_frames_a_second(tiny_checkpoint, tmp_path):
    loaded = LoadFlags(variant="gap", fps=4, device="cpu").load(tiny_checkpoint)
    assert (loaded.settings.fps, loaded.settings.step_s, loaded.model.t_per_step) == (4, 0.5, 1)
    loaded.model.config.save_pretrained(tmp_path)
    assert LoadFlags().settled_fps(tmp_path) == LoadFlags(fps=4).settled_fps(tmp_path) == 4
    with pytest.raises(UserError, match="trained with fps 4.0, but 8.0 was asked for.* --other-fps"):
        LoadFlags(fps=8).settled_fps(tmp_path)
    assert LoadFlags(fps=8, other_fps=True).settled_fps(tmp_path) == 8
    assert LoadFlags(fps=0.5).settled_fps(tiny_checkpoint) == 0.5 and LoadFlags().settled_fps(tiny_checkpoint) == 2
    old = {"variant": "gap", "schedule": "wait-k:3", "pixel_budget": "declared"}  # of before there was a choice
    assert Settings.resolve(old).fps == 2
    with pytest.raises(UserError, match="trained with fps 2.0, but 1.0"):
        Settings.resolve(old, fps=1)
    for wrong in (0, -2, 500, float("nan"), "4"):
        with pytest.raises(UserError, match="frames a second are above 0"):
            Settings.resolve(None, variant="gap", fps=wrong)
    with pytest.raises(UserError, match="--other-fps goes with --fps"):
        LoadFlags(other_fps=True)


def test_a_chat_systems_checkpoint_knows_how_long_its_turns_are(load_tiny, tiny_checkpoint, tmp_path):
    loaded = load(tiny_checkpoint, variant="streamingvlm", fps=3, seconds_per_turn=2, device="cpu")
    loaded.model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["swwatch"]
    assert saved["fps"] == 3 and saved["seconds_per_turn"] == 2
    known = Settings.resolve(saved)
    assert known.seconds_per_turn == 2 and Settings.resolve(saved, seconds_per_turn=4).seconds_per_turn == 4
    turns = loaded.turns(systems.get("streamingvlm"))
    assert TurnSession(loaded.model, turns)._later_steps == 3
    assert TurnSession(loaded.model, turns, seconds_per_turn=4)._later_steps == 6
    LoadFlags().check_turns(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"swwatch": saved | {"seconds_per_turn": 1.0}}), encoding="utf-8")
    with pytest.raises(UserError, match="a turn of 1 s is 1.5 patches"):
        LoadFlags().check_turns(tmp_path, None)
    assert "seconds_per_turn" not in load_tiny("streamingvlm").model.config.swwatch


def test_flags_reach_the_loader(tiny_checkpoint):
    flags = LoadFlags(variant="gap", schedule="random:2", dtype="float64", device="cpu")
    loaded = flags.load(tiny_checkpoint)
    assert loaded.settings.variant == "gap" and str(loaded.model.dtype) == "torch.float64"
    assert str(loaded.settings.schedule) == "random:2:seed=0", "another schedule is the disturbance test"
    assert flags.load(tiny_checkpoint, variant="group").settings.variant == "group"


def test_what_a_checkpoint_says_of_itself_is_read_from_its_folder(tmp_path):
    for name, content in {"plain": "{}", "trained": '{"swwatch": {"variant": "gap"}}', "damaged": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    assert saved_settings(tmp_path / "plain") == {}
    assert saved_settings(tmp_path / "trained") == {"variant": "gap"}
    with pytest.raises(UserError, match="cannot read the config.json of .*damaged"):
        saved_settings(tmp_path / "damaged")
    with pytest.raises(UserError, match="no checkpoint at"):
        saved_settings(tmp_path / "none")


def test_speak_is_another_name_of_schedule_from_every_source(tmp_path):
    yaml = tmp_path / "demo.yaml"
    yaml.write_text("speak: wait-k:5\n", encoding="utf-8")
    assert load_settings(Demo, yaml_path=yaml, flags={"model": "x"}).schedule == "wait-k:5"
    for flags in ({"speak": "wait-k:2"}, {"schedule": "wait-k:2"}, {"speak": "wait-k:2", "schedule": "wait-k:2"}):
        assert load_settings(Demo, yaml_path=yaml, flags={"model": "x", **flags}).schedule == "wait-k:2"
    with pytest.raises(UserError, match="two names of one setting and say wait-k:2 and wait-k:3"):
        load_settings(Demo, flags={"model": "x", "schedule": "wait-k:2", "speak": "wait-k:3"})
    settings = read_settings(Demo, ["--model", "x", "--speak", "random"], program="demo", about="A demo.")
    assert settings.schedule == "random"
