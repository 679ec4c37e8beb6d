"""Data of any size: what is bad is told before the first step, and workers change nothing but the time it takes."""

import faulthandler
import json
import math
import multiprocessing
import os
import re
import signal
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from swwatch.data import dataset
from swwatch.data.reading import Reading, worker_died
from swwatch.errors import UserError
from swwatch.train import arrange as arrange_module
from swwatch.train import frames, machine
from swwatch.train.checkpoints import COMPLETE
from swwatch.train.command import main
from swwatch.train.frames import keep_frames
from swwatch.train.loader import prefetch_factor
from swwatch.train.settings import TrainSettings
from swwatch.train.skips import SkipList
from tests.helpers.small_clips import make_clips


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def no_worker_is_left():
    """Whatever a test does, it ends with the processes that it began with (a compiler's pool may be among them)."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before, "workers are left"


@pytest.mark.parametrize("packed", [{}, {"pack_tokens": 300, "max_length": 300}], ids=["alone", "packed"])
def test_workers_and_the_frames_cache_change_no_bit_of_losses_and_weights(flags, tmp_path, packed):
    cache = {"frames_cache_dir": tmp_path / "frames", "frames_cache_gb": 0.1}
    ways = [{"frames_cache": False}, {"num_workers": 1} | cache, {"num_workers": 2, "prefetch_factor": 3} | cache]
    found = []
    for number, way in enumerate(ways):
        out = tmp_path / str(number)
        assert main(flags(output_dir=out, max_steps=5, **way, **packed)) == 0
        found.append((lines(out / "log.jsonl"), load_file(out / "model.safetensors")))
        assert all(0 <= line["data_wait"] <= 1 for line in lines(out / "timing.jsonl"))
    assert list((tmp_path / "frames").rglob("*.frames")), "the cache was used"
    for log, weights in found[1:]:
        assert log == found[0][0] and all(weights[name].equal(found[0][1][name]) for name in weights)


def test_a_run_continues_to_the_bit_with_workers_ahead_of_it(flags, tmp_path):
    ways = {"num_workers": 2, "prefetch_factor": 4, "max_steps": 6, "save_steps": 2, "save_total_limit": 3}
    assert main(flags(**ways, output_dir=tmp_path / "whole")) == 0
    assert main(flags(**ways)) == 0
    out = tmp_path / "out"
    (out / "finished.json").unlink()
    for step in (4, 6):
        (out / f"checkpoint-{step}" / COMPLETE).unlink()
    assert main(flags(**ways | {"num_workers": 1})) == 0
    assert lines(out / "log.jsonl") == lines(tmp_path / "whole" / "log.jsonl")


def test_frames_are_kept_for_the_next_pass_until_the_run_is_finished(flags, tmp_path, monkeypatch, capsys):
    folder, read = tmp_path / "out" / "frames", []
    real = dataset.iter_steps
    monkeypatch.setattr(dataset, "iter_steps", lambda path, **how: read.append(path.name) or real(path, **how))
    assert main(flags(fill_cache=True, max_steps=8)) == 0
    said = capsys.readouterr().out
    assert "8 of 8 clips were read" in said and "it holds 8 entries," in said
    with pytest.raises(UserError, match="nothing of 0 GB"):
        main(flags(fill_cache=True, frames_cache_gb=0))
    assert sorted(read) == [f"{number}.mp4" for number in range(8)] and len(list(folder.rglob("*.frames"))) == 8
    assert main(flags(max_steps=8)) == 0  # four passes over the eight clips
    assert f"kept in {folder}" in capsys.readouterr().out
    assert len(read) == 8 and not folder.exists()


def test_why_no_frames_are_kept_is_told(tmp_path, monkeypatch):
    setup = SimpleNamespace(clips=SimpleNamespace(frame_cache=None))

    def told(epochs=3.0, **how):
        return keep_frames(TrainSettings(output_dir=tmp_path, **how), setup, epochs)

    assert told(epochs=1.0) is told(cache_frames_gb=1.0) is None
    assert told(frames_cache=False) == "decoded anew in each of 3.0 passes"
    assert str(tmp_path / "own") in told(frames_cache_dir=tmp_path / "own")
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.5e9))
    assert "room for 0.8 GB" in told()
    with pytest.raises(UserError, match="--frames-cache-dir"):
        frames.fill(TrainSettings(output_dir=tmp_path, fill_cache=True), setup.clips)
    assert setup.clips.frame_cache is None


def test_workers_are_the_default_where_a_core_is_free_for_them(monkeypatch):
    def workers(cores, **how):
        monkeypatch.setattr(machine.os, "cpu_count", lambda: cores)
        return machine.settle(TrainSettings(variant="group", attention="sdpa", **how)).num_workers

    assert [workers(cores) for cores in (1, 2, 64)] == [0, 2, 8]
    assert workers(2, cache_frames_gb=1.0) == 0 and workers(2, num_workers=1) == 1


def test_a_clip_that_kills_its_worker_is_named(flags, tmp_path, monkeypatch):
    real = dataset.iter_steps

    def crash(path, **options):
        if path.name == "5.mp4":
            faulthandler.disable()  # pytest's, which would print where it was
            os.kill(os.getpid(), signal.SIGABRT)
        return real(path, **options)

    monkeypatch.setattr(dataset, "iter_steps", crash)
    text = r"a loader worker crashed while it read video_id 5, videos/5.mp4 \(Aborted"
    with pytest.raises(UserError, match=text):
        main(flags(num_workers=2))


def test_a_worker_does_not_heed_the_signal_that_stops_a_run(flags, monkeypatch):
    real = dataset.iter_steps

    def signalled(path, **options):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(path, **options)

    monkeypatch.setattr(dataset, "iter_steps", signalled)
    assert main(flags(num_workers=1, max_steps=1)) == 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (-signal.SIGBUS, "shared memory while it read record 3.*shm-size"),
        (-signal.SIGKILL, "memory runs out"),
        (-signal.SIGSEGV, "crashed.*Segmentation fault"),
        (3, "record 3.*exit code 3"),
    ],
)
def test_why_a_worker_died_is_told(code, told):
    reading = Reading()
    reading.rows[1] = torch.tensor([7, 3])
    fine, dead = SimpleNamespace(pid=5, exitcode=None), SimpleNamespace(pid=7, exitcode=code)
    assert re.search(told, str(worker_died([fine, dead], reading, lambda index: f"record {index}")))
    assert worker_died([fine, SimpleNamespace(pid=6, exitcode=0)], reading, str) is None


def test_an_unforeseen_error_in_a_worker_ends_the_run_and_names_the_clip(flags, monkeypatch):
    monkeypatch.setattr(dataset, "iter_steps", lambda path, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError, match="while reading video_id"):
        main(flags(num_workers=1))


def test_workers_keep_the_forwards_of_a_whole_step_ready():
    def ready(workers, accumulation, **more):
        return prefetch_factor(TrainSettings(num_workers=workers, **more), accumulation)

    assert ready(0, 64) is None and ready(8, 64) == 8 and ready(8, 1) == 2 and ready(3, 64) == 22
    assert ready(8, 64, prefetch_factor=3) == 3


def test_of_a_large_set_some_clips_are_looked_at_and_too_many_bad_ones_stop_the_run(flags, tmp_path, monkeypatch):
    data = make_clips(tmp_path / "data", 8, bad=(0, 4))
    first = lines(data)
    data.write_text("".join(json.dumps(first[i % 8] | {"video_id": i}) + "\n" for i in range(40)))
    monkeypatch.setattr(arrange_module, "LOOKS", 10)  # every fourth record
    with pytest.raises(UserError, match="10 of 10 records that were looked at.*max_bad_fraction 0.25"):
        main(flags(train_data=data, max_bad_fraction=0.25))
    assert len(lines(tmp_path / "out" / "skipped.jsonl")) == 10
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_a_few_bad_ones_among_those_looked_at_may_be_chance(tmp_path):
    skips = SkipList(tmp_path / "skipped.jsonl", 20_000, 0.01)
    limit = 2.56 + 3 * math.sqrt(2.56)
    skips.judge(int(limit), 256)
    with pytest.raises(UserError, match="8 of 256.*truncate"):
        skips.judge(int(limit) + 1, 256)
    skips.judge(20_000, 20_000)  # all were counted by `add`


def test_samples_beyond_max_length_are_counted_and_listed_before_the_first_step(flags, tmp_path, capsys):
    with pytest.raises(UserError, match="unusable.*more than max_length 60.*--truncate"):
        main(flags(max_length=60))
    listed = lines(tmp_path / "out" / "skipped.jsonl")
    assert 2 <= len(listed) and all("more than max_length 60" in line["reason"] for line in listed)
    assert f"{len(listed)} records cannot be used" in capsys.readouterr().out
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_by_flag_their_video_is_cut_and_the_run_says_how_many(flags, tmp_path, capsys):
    assert main(flags(max_length=60, truncate=True, max_bad_fraction=0.9)) == 0
    assert "without the end of their video" in capsys.readouterr().out
    assert lines(tmp_path / "out" / "log.jsonl")[-1]["step"] == 3


def test_clips_of_more_frames_than_the_limit_are_counted_and_listed(flags, tmp_path):
    with pytest.raises(UserError, match="unusable.*the limit is 4"):
        main(flags(max_frames=4))
    assert len(lines(tmp_path / "out" / "skipped.jsonl")) == 5  # those of 3 and 4 seconds


def test_a_single_line_that_is_no_record_is_skipped_and_listed(flags, clips, tmp_path):
    (tmp_path / "videos").symlink_to(clips.parent / "videos")
    data = tmp_path / "train.jsonl"
    data.write_text(clips.read_text() + '{"video_id": 8}\n')
    assert main(flags(train_data=data, max_bad_fraction=0.2)) == 0
    (line,) = lines(tmp_path / "out" / "skipped.jsonl")
    assert "train.jsonl, line 9: no human_caption" in line["reason"]
