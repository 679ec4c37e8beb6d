"""P10: killed anywhere, training continues with the very losses and weights of a run that was never interrupted."""

import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from swwatch.launch.signals import PREEMPTED
from swwatch.train.checkpoints import COMPLETE, checkpoints, newest_complete
from swwatch.train.command import main
from tests.helpers.signalled import kill_at, signal_at
from tests.helpers.small_clips import make_clips


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
    kill_at("swwatch.train.progress", "append_line", 3, arguments)  # two lines a step: log and timing
    assert newest_complete(broken) is None
    kill_at("swwatch.train.progress", "append_line", 11, arguments)
    assert newest_complete(broken).name == "checkpoint-3" and lines(broken / "log.jsonl")[-1]["step"] == 5
    # 3) at the end of writing checkpoint-6: its marker is missing
    kill_at("swwatch.train.trainer", "mark_complete", 1, arguments)
    assert [p.name for p in checkpoints(broken)] == ["checkpoint-3", "checkpoint-6"]
    assert newest_complete(broken).name == "checkpoint-3"
    # 4) in the middle of writing checkpoint-6: weights and half of the state are there
    kill_at("swwatch.train.trainer:WatchTrainer", "_save_rng_state", 1, arguments)
    assert (broken / "checkpoint-6" / "optimizer.pt").exists() and newest_complete(broken).name == "checkpoint-3"
    # 5) while checkpoint-3 is removed after checkpoint-6 was written: it has no marker any more, and counts no more
    kill_at("swwatch.train.checkpoints:shutil", "rmtree", 2, arguments)  # the first removes checkpoint-6's remains
    assert [p.name for p in checkpoints(broken)] == ["checkpoint-3", "checkpoint-6"]
    assert newest_complete(broken).name == "checkpoint-6" and not (broken / "checkpoint-3" / COMPLETE).exists()
    # 6) after the last step, before the model is in its place
    kill_at("swwatch.train.trainer:WatchTrainer", "save_model", 2, arguments)
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


def test_a_signal_to_all_processes_of_a_run_saves_after_the_step_and_says_so_by_its_exit_code(flags, tmp_path):
    """With loader workers, which a batch system signals too, in the middle of the second step."""
    changes = {"max_steps": 4, "save_steps": 4}
    assert main(flags(**changes, output_dir=tmp_path / "whole")) == 0
    arguments = flags(**changes, num_workers=2)
    done = signal_at("swwatch.train.trainer:WatchTrainer", "training_step", 3, arguments, signal.SIGTERM)
    assert done.returncode == PREEMPTED, done.stderr
    assert "stopped by a signal after step 2 of 4" in done.stdout and "Traceback" not in done.stderr
    out = tmp_path / "out"
    assert newest_complete(out).name == "checkpoint-2" and not (out / "finished.json").exists()
    assert main(arguments) == 0
    assert lines(out / "log.jsonl") == lines(tmp_path / "whole" / "log.jsonl")


@pytest.mark.slow
def test_a_signal_in_the_last_step_changes_nothing(flags, tmp_path):
    done = signal_at("swwatch.train.trainer:WatchTrainer", "training_step", 2, flags(max_steps=1), signal.SIGTERM)
    assert done.returncode == 0 and (tmp_path / "out" / "finished.json").exists(), done.stderr


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
