"""Toy clips on disk: PE-Video's two forms, the same bytes every time, safe to run again."""

import json
import os
import tarfile

import numpy as np
import pytest

from swwatch import cli
from swwatch.data.prepare.pe_video_rules import check_record
from swwatch.data.video import read_clip
from swwatch.errors import UserError
from swwatch.toy import clips
from swwatch.toy.clips import Recipe, make_clip, write_dataset
from swwatch.toy.world import SceneEvent, make_scene, render


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def shard_members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def count_words(text):
    return len(text.replace(",", " ,").replace(".", " .").split())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy") / "data"
    assert write_dataset(root, Recipe(4, 2, seed=5)) == 6
    return root


def test_json_form_has_pe_videos_layout_and_schema(small):
    names = {f"train/train_{i:06d}" for i in range(4)} | {f"test/test_{i:06d}" for i in range(2)}
    wanted = {f"PE-Video/{n}.json" for n in names} | {f"PE-Video/videos/{n}.mp4" for n in names} | {"toy.json"}
    assert set(files(small)) == wanted
    record = json.loads((small / "PE-Video/test/test_000001.json").read_text())
    scene = make_scene(5, 1, split="test")
    assert record.keys() == {"video_id", "human_caption", "video_duration_in_s", "level", "events", "thoughts"}
    assert (record["video_id"], record["human_caption"]) == ("test_000001", scene.caption)
    assert record["video_duration_in_s"] == scene.duration_s
    assert [SceneEvent(**event) for event in record["events"]] == scene.events


def test_videos_show_their_scenes(small):
    for index in range(2):  # one of 10 and one of 25 fps
        scene = make_scene(5, index)
        clip = read_clip(small / f"PE-Video/videos/train/train_{index:06d}.mp4")
        assert clip.duration_s == pytest.approx(scene.duration_s, abs=1e-3)
        assert clip.num_steps == scene.duration_s
        drawn = np.stack([render(scene, j / 2) for j in range(len(clip.frames))])
        assert np.abs(clip.frames.astype(int) - drawn).mean() < 4  # compressed, but no frame early or late
        shifted = np.stack([render(scene, j / 2 + 0.2) for j in range(len(clip.frames))])
        assert np.abs(clip.frames.astype(int) - shifted).mean() > 5


@pytest.mark.parametrize("level", ["pair", "recolor", "long"])
def test_every_level_can_be_filmed(level, tmp_path):
    video, record = make_clip(Recipe(1, level=level), "train", 0)
    (tmp_path / "a.mp4").write_bytes(video)
    record = json.loads(record)
    assert read_clip(tmp_path / "a.mp4").num_steps == record["video_duration_in_s"]
    assert check_record(record, count_words(record["human_caption"])) is None


def test_tar_form_holds_the_same_bytes(small, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "CLIPS_PER_SHARD", 3)
    write_dataset(tmp_path / "tar", Recipe(4, 2, seed=5, form="tar"))
    assert set(files(tmp_path / "tar")) == {
        *("PE-Video/train/000000.tar", "PE-Video/train/000001.tar", "PE-Video/test/000000.tar", "toy.json"),
    }
    members = {}
    for path in sorted(tmp_path.rglob("*.tar")):
        members |= shard_members(path)
    assert members == {os.path.basename(n): data for n, data in files(small).items() if n != "toy.json"}
    assert list(shard_members(tmp_path / "tar/PE-Video/train/000001.tar")) == ["train_000003.json", "train_000003.mp4"]


def test_worker_processes_change_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "CLIPS_PER_PORTION", 2)
    write_dataset(tmp_path / "data", Recipe(4, 2, seed=5), workers=2)
    assert files(tmp_path / "data") == files(small)


@pytest.mark.parametrize("form", ["json", "tar"])
def test_an_interrupted_run_is_continued(tmp_path, monkeypatch, form):
    monkeypatch.setattr(clips, "CLIPS_PER_SHARD", 2)
    recipe = Recipe(5, 1, form=form)
    write_dataset(tmp_path / "whole", recipe)
    wanted, write, budget = files(tmp_path / "whole"), clips.write_whole, [0]

    def stop_after(path, data):
        budget[0] -= 1
        if budget[0] < 0:
            path.with_name(path.name + ".tmp").write_bytes(data[:100])  # killed while writing
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(clips, "write_whole", stop_after)
    runs = 0
    while True:
        budget[0], runs = 2, runs + 1
        try:
            made = write_dataset(tmp_path / "data", recipe)
            break
        except KeyboardInterrupt:
            assert runs < 12
    assert runs > 1 and made < 6
    assert files(tmp_path / "data") == wanted
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    assert write_dataset(tmp_path / "data", recipe) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before


def test_noise_is_the_share_that_the_filter_drops():
    recipe, reasons = Recipe(1, noise=0.3), []
    scene_count = 300
    for index in range(scene_count):
        scene = make_scene(0, index)
        caption = clips._caption(scene, recipe, "train", index)
        record = {"video_id": index, "human_caption": caption, "video_duration_in_s": scene.duration_s}
        reasons.append(check_record(record, count_words(caption or "")))
    dropped = [reason for reason in reasons if reason]
    assert set(dropped) == {"caption_null", "too_many_tokens"}
    assert 0.2 < len(dropped) / scene_count < 0.4  # 0.3 give or take 4 standard deviations of 0.026
    assert all(clips._caption(make_scene(0, i), Recipe(1), "train", i) for i in range(50))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"level": "none"}, {"form": "zip"}, {"clips": -1}, {"clips": 0, "test_clips": 0}),
        *({"seed": -1}, {"noise": 1.5}, {"noise": float("nan")}),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(UserError):
        Recipe(**({"clips": 1} | wrong))


# ---- the command ----------------------------------------------------------------------------------------------------


def toy(*argv):
    return cli.main(["toy", *map(str, argv)])


def test_command_makes_data_and_keeps_it(tmp_path, capsys):
    out = tmp_path / "new" / "data"
    line = ["data", out, "--clips", 2, "--test-clips", 1, "--seed", 9, "--workers", 1]
    assert toy(*line) == 0
    assert "2 training and 1 test clips (3 of them new)" in capsys.readouterr().out
    before = files(out)
    (out / "train_3_5.jsonl").touch()  # what mani_data.py adds does not disturb
    assert toy(*line) == 0
    assert "(0 of them new)" in capsys.readouterr().out
    assert {name: data for name, data in files(out).items() if name != "train_3_5.jsonl"} == before


def test_command_refuses_foreign_folders_and_other_recipes(tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    assert toy("data", tmp_path, "--clips", 1) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert toy("data", tmp_path / "thesis.txt", "--clips", 1) == 2
    assert toy("data", tmp_path / "data", "--clips", 1, "--test-clips", 0, "--workers", 1) == 0
    assert toy("data", tmp_path / "data", "--clips", 1, "--test-clips", 0, "--seed", 1) == 2
    assert "--seed 0" in capsys.readouterr().err
    assert toy("data", tmp_path / "other", "--clips", 1, "--workers", 0) == 2
    assert not (tmp_path / "other").exists()


def test_command_makes_a_model(tmp_path, capsys):
    assert toy("model", tmp_path / "model", "--seed", 2) == 0
    assert json.loads((tmp_path / "model" / "toy_model.json").read_text())["seed"] == 2
    assert toy("model", tmp_path / "model", "--seed", 3) == 2
    assert "seed 2" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        toy("data", "--help")
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("clips", "test-clips", "seed", "level", "form", "noise", "workers"))
