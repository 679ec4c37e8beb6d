"""`swwatch train` and scripts/sft.sh on the tiny model: what a run leaves, and what stops it at once."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from swwatch import cli
from swwatch.config import load_settings
from swwatch.errors import UserError, run
from swwatch.model.dtype import bf16_units
from swwatch.model.loading import load
from swwatch.paths import ROOT
from swwatch.train.checkpoints import LOG
from swwatch.train.command import complete, main
from swwatch.train.machine import bf16, settle
from swwatch.train.settings import TrainSettings
from swwatch.train.trainer import WatchTrainer
from tests.helpers.forked import Forked
from tests.helpers.small_clips import make_clips


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_folder_that_loads_and_knows_itself(flags, tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    asked = {"variant": "gap", "schedule": "random:3:seed=5", "fps": 1}
    assert main(flags(**asked, max_steps=3, save_steps=2, save_total_limit=2)) == 0
    for folder in (out, out / "checkpoint-2", out / "checkpoint-3"):
        loaded = load(folder, device="cpu")
        assert loaded.settings.as_dict() == {
            "variant": "gap",
            "schedule": "random:3:seed=5",
            "pixel_budget": "declared",
            "see": "all",
            "fps": 1.0,
        }
        assert loaded.tokenizer.chat_template and loaded.processor.video_processor.merge_size == 2
        before = {path.name for path in tiny_checkpoint.iterdir()} - {"toy_model.json", "preprocessor_config.json"}
        assert before <= {path.name for path in folder.iterdir()} | {"vocab.json", "merges.txt"}
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert "use_cache" not in json.loads((out / "config.json").read_text())
    assert [line["step"] for line in log_of(out)] == [1, 2, 3]
    shown = capsys.readouterr().out
    for fact in ("gap, schedule random:3:seed=5", "declared", "merger 20,672 of 20,672", "8 samples", "3 of 2 x 2"):
        assert fact in shown


def test_a_finished_run_says_so_and_trains_no_more(flags, tmp_path, capsys):
    assert main(flags()) == 0
    files = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(flags()) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "out").rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("change", [{"learning_rate": 0.5}, {"max_steps": 9}, {"variant": "origin"}], ids=str)
def test_a_folder_of_another_run_is_refused_and_the_difference_named(flags, change):
    assert main(flags()) == 0
    with pytest.raises(UserError, match=f"{next(iter(change))} was"):
        main(flags(**change))


def test_two_runs_cannot_write_one_folder(flags, tmp_path):
    out = tmp_path / "out"
    first = Forked(train_slowly, flags(max_steps=2), tmp_path)
    while not (tmp_path / "in-a-step").exists():
        time.sleep(0.02)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = Forked(main_told, flags(max_steps=2, seed=5)).end()
    assert second.returncode == 2 and "another run is writing" in second.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before, "it touches nothing"
    workers = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    assert workers and not psutil.wait_procs(workers, timeout=30)[1], "no loader worker outlives a run that is killed"
    third = Forked(main_told, flags(max_steps=1, seed=5)).end()
    assert third.returncode == 0, "a lock does not outlive its process"


def main_told(arguments):
    return run(main, arguments)


def train_slowly(arguments, folder):
    """In a process of its own, with loader workers, which inherit the lock: it stays in the first step."""

    def stay(*args, **kwargs):
        (folder / "in-a-step").touch()
        time.sleep(300)

    WatchTrainer.training_step = stay
    return main([*arguments, "--num-workers", "1"])


def test_a_disk_without_room_for_a_checkpoint_is_told_before_the_first_step(flags, small_disk, capsys):
    out = small_disk(300_000) / "out"
    assert run(main, flags(output_dir=out)) == 2
    assert f"a checkpoint needs 1,659,264 bytes, and the disk of {out} has" in capsys.readouterr().err
    assert not (out / LOG).exists()


def test_a_disk_that_fills_up_amid_a_checkpoint_costs_that_one_alone(flags, small_disk, capsys):
    out = small_disk(1_700_000) / "out"  # more than the weights and the optimizer's states, less than all files
    assert run(main, flags(output_dir=out)) == 2
    printed = capsys.readouterr().err
    assert f"error: cannot write to {out}: the disk is full" in printed and "Traceback" not in printed
    assert not list(out.glob("checkpoint-*")), "what it took of the checkpoint is gone"
    subprocess.run(["mount", "-o", "remount,size=4000000", str(out.parent)], check=True)
    assert run(main, flags(output_dir=out)) == 0


def test_continuing_changes_nothing_in_the_configurations(flags, tiny_checkpoint, tmp_path):
    folders = [tiny_checkpoint]
    for number in range(3):
        folders.append(tmp_path / str(number))
        assert main(flags(max_steps=1, model_path=folders[-2], output_dir=folders[-1])) == 0
    said = [json.loads((folder / "generation_config.json").read_text()) for folder in folders]
    assert said[0] == said[1] == said[2] == said[3]
    said = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert said[1] == said[2] == said[3] and not {"bos_token_id", "pad_token_id"} & (said[3].keys() - said[0].keys())


def test_a_changed_data_file_is_another_run(flags, clips, tmp_path):
    data = tmp_path / "train.jsonl"
    shutil.copytree(clips.parent / "videos", tmp_path / "videos")
    data.write_text(clips.read_text())
    assert main(flags(train_data=data)) == 0
    data.write_text("".join(clips.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="train_data_sha256"):
        main(flags(train_data=data))


def test_a_mistaken_start_can_be_mended_in_the_same_folder(flags, tmp_path):
    with pytest.raises(UserError):
        main(flags(max_length=5))
    assert main(flags()) == 0


def bad_data(tmp_path, content):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    return {"train_data": path}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: {"train_data": p / "none.jsonl"}, "none.jsonl"),
        (lambda p: bad_data(p, ""), "no record"),
        (lambda p: bad_data(p, '{"visual_input": "H_1.mp4", "output": "text"}\n'), "line 1.*video_id"),
        (lambda p: {"video_root": p}, "8 of 8 videos.*missing"),
        (lambda p: {"max_length": 20}, "unusable.*max_length 20"),
        (lambda p: {"model_path": p / "none"}, "no checkpoint at"),
        (lambda p: {"variant": "groups"}, "groups.*interleave"),
        (lambda p: {"schedule": "wait-q:3"}, "wait-q:3"),
        (lambda p: {"attention": "flash_attention_2"}, "flash_attention_2"),
        (lambda p: {"batch_size": "two"}, "whole number"),
    ],
)
def test_bad_input_is_told_before_the_first_step(flags, tmp_path, make, named):
    with pytest.raises(UserError, match=named):
        main(flags(**make(tmp_path)))
    assert not (tmp_path / "out" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("make", "count", "reason"),
    [
        (lambda p: bad_data(p, '{"video_id": 1, "human_caption": " ", "video_duration_in_s": 3}\n'), 1, "is empty"),
        (lambda p: {"video_root": p}, 8, "no video file"),
    ],
)
def test_what_a_refused_file_has_of_bad_records_is_listed(flags, tmp_path, make, count, reason):
    with pytest.raises(UserError, match="All that were found are in .*skipped.jsonl"):
        main(flags(**make(tmp_path)))
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert len(lines) == count and all(reason in line["reason"] for line in lines)


def test_missing_data_is_told_before_the_model_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("swwatch.train.command.saved_settings", lambda path: pytest.fail("looked for the model"))
    with pytest.raises(UserError, match="none.jsonl.*mani_data.py"):
        main(["--train-data", str(tmp_path / "none.jsonl"), "--output-dir", str(tmp_path / "out")])


def test_an_unknown_key_in_the_config_is_refused_with_the_nearest_one(flags, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("learning_rat: 1\n")
    assert cli.main(["train", *flags(), "--config", str(tmp_path / "a.yaml")]) == 2
    message = capsys.readouterr().err
    assert "learning_rat" in message and "did you mean 'learning_rate'" in message and "Traceback" not in message


def test_a_variant_unlike_the_checkpoints_is_refused(flags, tmp_path):
    assert main(flags(max_steps=1)) == 0
    with pytest.raises(UserError, match="trained with variant 'group', but 'gap'"):
        main(flags(model_path=tmp_path / "out", variant="gap", output_dir=tmp_path / "second"))


def test_an_environment_of_several_processes_without_torchrun_is_refused(flags, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE.*scripts/sft.sh"):
        main(flags())


def test_the_variant_is_named_or_the_checkpoints_own_and_names_the_output(tiny_checkpoint, flags, tmp_path):
    with pytest.raises(UserError, match="which variant.*QWEN2_5_VL_VARIANT"):
        complete(TrainSettings(model_path=str(tiny_checkpoint)))
    plain = complete(TrainSettings(model_path=str(tiny_checkpoint), variant="origin"))
    assert plain.output_dir == ROOT / "output" / "qwen2_5vl-pe-origin"
    assert main(flags(max_steps=1, variant="overlap")) == 0
    again = complete(TrainSettings(model_path=str(tmp_path / "out")))
    assert again.variant == "overlap" and again.output_dir == ROOT / "output" / "qwen2_5vl-pe-overlap"


@pytest.mark.skipif(torch.cuda.is_available(), reason="about CPUs")
def test_bfloat16_is_taken_where_the_cpu_multiplies_in_it_and_refused_elsewhere(tiny_checkpoint, monkeypatch, capsys):
    made = {"model_path": str(tiny_checkpoint), "variant": "group"}
    for has, auto in (({"amx_bf16": True}, "bfloat16"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert settle(TrainSettings(**made, precision="auto")).precision == auto
        assert f"dtype auto: {auto}" in capsys.readouterr().err
        assert not bf16(settle(TrainSettings(**made))), "the default is what it was"
        if has:
            assert bf16(settle(TrainSettings(**made, precision="bf16")))
            with pytest.raises(UserError, match="goes with parallel ddp, not zero2"):
                settle(TrainSettings(**made, precision="bf16", parallel="zero2"))
    with pytest.raises(UserError, match="--precision float32"):
        settle(TrainSettings(**made, precision="bfloat16"))
    assert TrainSettings(**made).fixed()["precision"] == "auto", "as runs of before call the default"
    assert TrainSettings(**made, precision="fp32").fixed()["precision"] == "float32"


@pytest.mark.skipif(not bf16_units(), reason="needs a CPU that multiplies bfloat16")
def test_a_cpu_trains_in_bfloat16(flags, tmp_path):
    losses = {}
    for dtype in ("fp32", "bf16"):
        assert main(flags(max_steps=2, precision=dtype, output_dir=tmp_path / dtype)) == 0
        lines = (tmp_path / dtype / "log.jsonl").read_text().splitlines()
        losses[dtype] = [json.loads(line)["loss"] for line in lines]
    assert losses["bf16"] != losses["fp32"] and losses["bf16"] == pytest.approx(losses["fp32"], rel=2e-2)


def test_the_defaults_are_the_releases():
    settings = load_settings(TrainSettings)
    assert settings.train_data == ROOT / "dataset" / "train_3_5.jsonl"
    assert settings.model_path == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_an_unreadable_video_is_skipped_counted_and_listed_once(flags, tmp_path, capsys):
    data = make_clips(tmp_path / "data", 8, bad=(3,))
    assert main(flags(train_data=data, max_bad_fraction=0.2, max_steps=6)) == 0  # three epochs meet it three times
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["video_id"] for line in lines] == ["3"] and "empty" in lines[0]["reason"]
    assert "1 records were skipped" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "finished.json").read_text())["skipped"] == 1


def test_too_many_unreadable_videos_stop_the_run(flags, tmp_path):
    data = make_clips(tmp_path / "data", 8, bad=(3,))
    with pytest.raises(UserError, match="1 of 8 records are unusable.*max_bad_fraction 0.01.*3.mp4"):
        main(flags(train_data=data))


@pytest.mark.parametrize(
    "change", [{"gradient_checkpointing": True}, {"attention": "eager"}, {"num_workers": 2}], ids=str
)
def test_how_it_runs_does_not_change_what_is_learned(flags, tmp_path, change):
    assert main(flags(output_dir=tmp_path / "a")) == 0
    assert main(flags(output_dir=tmp_path / "b", **change)) == 0
    ours, theirs = ([line["loss"] for line in log_of(tmp_path / name)] for name in "ab")
    assert ours == pytest.approx(theirs, abs=1e-4) and ours[-1] < ours[0]


def test_a_loss_that_is_not_finite_stops_the_run(flags):
    with pytest.raises(UserError, match="loss is .* at step"):
        main(flags(learning_rate=1e30, max_steps=5))


def test_the_model_learns_a_small_set_by_heart(flags, tmp_path):
    assert main(flags(max_steps=60, batch_size=8, accumulation=1, cache_frames_gb=0.1, save_steps=60)) == 0
    losses = [line["loss"] for line in log_of(tmp_path / "out")]
    assert losses[-1] < 0.35 * losses[0]


@pytest.mark.slow
def test_sft_sh_takes_the_environment_and_relative_paths_from_any_folder(tiny_checkpoint, clips, tmp_path):
    env = os.environ | {
        "SWWATCH_PYTHON": sys.executable,
        "QWEN2_5_VL_VARIANT": "interleave",
        "QWEN2_5_VL_MODEL_PATH": os.path.relpath(tiny_checkpoint, tmp_path),
        "QWEN2_5_VL_TRAIN_DATA": os.path.relpath(clips, tmp_path),
    }
    arguments = ["--config", str(ROOT / "configs/train/toy.yaml"), "--max-steps", "2", "--output-dir", "here"]
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/sft.sh"), *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "here", device="cpu").settings.variant == "interleave"
    weights = load_file(tmp_path / "here" / "model.safetensors"), load_file(tiny_checkpoint / "model.safetensors")
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])
