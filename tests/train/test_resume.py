"""P10: killed anywhere, training continues with the very losses and weights of a run that was never interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_clips import make_clips

from swwatch.train.checkpoints import COMPLETE, checkpoints, newest_complete
from swwatch.train.command import main
from swwatch.train.settings import ROOT

# runs `swwatch train` and kills itself the `count`-th time that `function` of `module` is about to be called
KILLED = """
import importlib, os, signal, sys
import torch
torch.set_num_threads(1)
owner, function, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
module, _, cls = owner.partition(":")
owner = importlib.import_module(module)
owner = getattr(owner, cls) if cls else owner
real = getattr(owner, function)
def stop(*args, **kwargs):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, function, stop)
from swwatch.train.command import main
main(sys.argv[4:])
"""


def kill_at(owner: str, function: str, count: int, arguments: list[str]) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, owner, function, str(count), *arguments],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, f"it was to be killed in {function}\n{done.stderr}"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_killed_at_several_moments_a_run_ends_as_if_never_interrupted(flags, tmp_path):
    """Two steps an epoch, checkpoints at steps 3 (mid-epoch), 6 and 8 (the last)."""
    data = make_clips(tmp_path / "data", 8, bad=(3,))
    changes = {"train_data": data, "max_steps": 8, "save_steps": 3, "max_bad_fraction": 0.5, "variant": "interleave"}
    changes |= {"schedule": "random:3:seed=2", "warmup": 2, "accumulation": 2, "batch_size": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(flags(**changes, output_dir=whole)) == 0
    arguments = flags(**changes, output_dir=broken)
    # 1) before anything is saved, 2) between saves: the log is ahead of the checkpoint
    kill_at("swwatch.train.trainer", "append_line", 2, arguments)
    assert newest_complete(broken) is None
    kill_at("swwatch.train.trainer", "append_line", 6, arguments)
    assert newest_complete(broken).name == "checkpoint-3" and lines(broken / "log.jsonl")[-1]["step"] == 5
    # 3) at the end of writing checkpoint-6: its marker is missing
    kill_at("swwatch.train.trainer", "mark_complete", 1, arguments)
    assert [p.name for p in checkpoints(broken)] == ["checkpoint-3", "checkpoint-6"]
    assert newest_complete(broken).name == "checkpoint-3"
    # 4) after the last step, before the model is in its place
    kill_at("swwatch.train.trainer:WatchTrainer", "save_model", 3, arguments)
    assert newest_complete(broken).name == "checkpoint-8" and not (broken / "model.safetensors").exists()
    assert main(arguments) == 0
    # what was lost is run again with the same numbers, to the bit
    assert lines(broken / "log.jsonl") == lines(whole / "log.jsonl")
    assert [line["step"] for line in lines(whole / "log.jsonl")] == list(range(1, 9))
    assert (
        lines(broken / "skipped.jsonl") == lines(whole / "skipped.jsonl") and len(lines(whole / "skipped.jsonl")) == 1
    )
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (broken, whole))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    assert [p.name for p in checkpoints(broken)] == ["checkpoint-8"]


def test_a_damaged_newest_checkpoint_is_left_for_the_one_before(flags, tmp_path, capsys):
    out = tmp_path / "out"
    changes = {"max_steps": 6, "save_steps": 2, "save_total_limit": 3}
    assert main(flags(**changes)) == 0
    want = lines(out / "log.jsonl")
    (out / "finished.json").unlink()
    weights = out / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (out / "checkpoint-4" / COMPLETE).unlink()
    assert main(flags(**changes)) == 0
    assert "from step 2" in capsys.readouterr().out
    assert lines(out / "log.jsonl") == want


def test_a_continued_run_may_use_other_workers_and_cache(flags, tmp_path):
    out = tmp_path / "out"
    assert main(flags(max_steps=6, save_steps=2, save_total_limit=3, output_dir=tmp_path / "whole")) == 0
    assert main(flags(max_steps=6, save_steps=2, save_total_limit=3)) == 0
    (out / "finished.json").unlink()
    (out / "checkpoint-6" / COMPLETE).unlink()
    assert main(flags(max_steps=6, save_steps=3, num_workers=1, cache_frames_gb=0.1)) == 0
    assert lines(out / "log.jsonl") == lines(tmp_path / "whole" / "log.jsonl")
