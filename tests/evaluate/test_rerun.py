"""A run can be repeated from its run.json: the same words and scores, or where they part."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from swwatch import cli
from swwatch.bench.endless.settings import EndlessBenchSettings
from swwatch.bench.live.settings import LiveBenchSettings
from swwatch.bench.stream.settings import StreamBenchSettings
from swwatch.bench.train.settings import TrainBenchSettings
from swwatch.config import load_settings
from swwatch.evaluate import rerun
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.commentary.settings import GenerateSettings
from swwatch.evaluate.disturb.settings import DisturbSettings
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.evaluate.rerun import changed, differences, figures, moved
from swwatch.metrics import captions
from swwatch.model import repeat
from swwatch.model.repeat import continued, repeat_of
from swwatch.study.command import StudySettings
from swwatch.study.compare import ComparisonSettings

MADE = [  # every program that leaves a run.json, with settings of each kind
    (QuizSettings, {"task": "videomme", "data": "q.json", "model": "m", "nframes": 8, "min_pixels": 784}),
    (GenerateSettings, {"task": "inf-streams", "model": "m", "data": "d", "output": "o/said.jsonl", "chunk": 100}),
    (DisturbSettings, {"models": ["a", "b"], "schedules": ["wait-k:2"], "output_dir": "o", "max_bad_fraction": 1e-5}),
    (EvalSettings, {"model_path": "1", "output_file": "x/mine.json", "bleurt": "none", "clips_at_once": "2"}),
    (TrainBenchSettings, {"output": "o", "seed": 3}),
    (StreamBenchSettings, {"output": "o", "shape": ["toy", "0.2b"]}),
    (EndlessBenchSettings, {"output": "o"}),
    (LiveBenchSettings, {"output": "o", "sessions": [1, 2]}),
    (StudySettings, {"size": "quick", "report": "page"}),
    (ComparisonSettings, {"quick": True, "seeds": 2}),
]


@pytest.fixture
def in_place(monkeypatch):
    """The program runs in this process, with the variables it is given."""

    class Ended:
        def __init__(self, command, env, cwd):
            monkeypatch.chdir(cwd or ".")
            for name in os.environ.keys() - env.keys():
                monkeypatch.delenv(name)
            self.returncode = cli.main(command[3:])

    monkeypatch.setenv("QWEN2_5_VL_EVAL_OUTPUT_FILE", "elsewhere.json")
    monkeypatch.setattr(rerun, "subprocess", SimpleNamespace(run=Ended))
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


@pytest.mark.parametrize(("cls", "values"), MADE, ids=lambda value: getattr(value, "__name__", ""))
def test_settings_of_every_program_come_back_from_its_note(cls, values, tmp_path, monkeypatch):
    monkeypatch.setattr(repeat, "machine", dict)
    settings = load_settings(cls, flags=values)
    kept = json.loads(json.dumps(repeat_of(["x"], settings, tmp_path / "x_run.json", results=[])))
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(kept["settings"]))
    assert load_settings(cls, yaml_path=tmp_path / "same.yaml") == settings
    elsewhere = moved(kept, tmp_path / "new")
    assert [value for value in elsewhere.values() if value and value.startswith(str(tmp_path / "new"))]
    (tmp_path / "moved.yaml").write_text(yaml.safe_dump(kept["settings"] | elsewhere))
    load_settings(cls, yaml_path=tmp_path / "moved.yaml")


def test_an_evaluation_is_repeated_and_what_changed_is_told(
    small_test_set, tiny_checkpoint, tmp_path, in_place, monkeypatch, capsys
):
    data, model = small_test_set(tmp_path, 2), tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--model-path", "model", "--data-dir", "test.jsonl", "--device", "cpu", "--max-new-tokens", "4"]
    assert cli.main([*words, "--variant", "group", "--output-file", "mine_infer.json", "--output-dir", "out"]) == 0
    note, repeat = tmp_path / "out" / "mine_run.json", ["rerun", str(tmp_path / "out" / "mine_run.json")]
    assert json.loads(note.read_text())["repeat"]["inputs"]["videos"]["files"] == 2
    # 1) the same, from another folder; a second time there is nothing left to do
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    capsys.readouterr()
    assert cli.main([*repeat, "--output", str(tmp_path / "again")]) == 0
    printed = capsys.readouterr().out
    assert "mine_infer.json: the same" in printed and "mine_metrics.json: the same" in printed
    assert "surroundings" not in printed and "inputs" not in printed
    # 2) another setting, another result
    assert cli.main([*repeat, "--output", str(tmp_path / "longer"), "--change", "max_new_tokens=6"]) == 1
    assert "mine_infer.json: " in (printed := capsys.readouterr().out) and "result: at character" in printed
    assert cli.main([*repeat, "--output", str(tmp_path / "longer")]) == 2  # what is there is of other settings
    assert "is not empty" in capsys.readouterr().err
    # 3) another checkpoint or other data: refused before the model is loaded
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"note": "trained on"}))
    data.write_text(data.read_text().replace("videos/0", "videos/1"))
    assert cli.main([*repeat, "--output", str(tmp_path / "refused")]) == 2
    printed = capsys.readouterr().err
    assert (
        "checkpoint: " in printed
        and "data: " in printed
        and "--anyway" in printed
        and not (tmp_path / "refused").exists()
    )
    assert cli.main([*repeat, "--output", str(tmp_path / "refused"), "--anyway"]) == 1
    assert "inputs: data was" in (printed := capsys.readouterr().out) and "models: model was" in printed


def test_mistakes_are_told_before_anything_runs(tmp_path, capsys):
    note = tmp_path / "x_run.json"
    assert cli.main(["rerun", str(note)]) == 2 and "there is no" in capsys.readouterr().err
    note.write_text('{"settings": {}}')
    assert cli.main(["rerun", str(note)]) == 2 and "does not say how" in capsys.readouterr().err
    then = {"settings": {"max_count": 4, "model": "m", "output_dir": "o"}, "outputs": {"output_dir": "folder"}}
    with pytest.raises(rerun.UserError, match="by --output alone"):
        changed(then, ["output_dir=elsewhere"])
    assert changed(then, ["model={"])["model"] == "{"
    then["settings"].pop("output_dir")
    assert changed(then, ["max-count=5", "model=a=b"]) == {"max_count": 5, "model": "a=b"}
    for text in ("max_cuont=5", "max_count"):
        with pytest.raises(rerun.UserError, match="NAME=VALUE"):
            changed(then, [text])
    record = {"program": 1, "folder": ".", "note": "x", "results": [], "timed": False, "outputs": {}, "inputs": {}}
    note.write_text(json.dumps({"repeat": record | {"settings": {}, "models": {}, "surroundings": {}}}))
    assert cli.main(["rerun", str(note)]) == 2 and "does not say how" in capsys.readouterr().err
    with pytest.raises(rerun.UserError, match="is a file: give --output a folder"):
        rerun.repeat({"folder": ".", "program": ["x"]}, {}, note)


def test_data_that_were_moved_are_found_with_the_videos_beside_them(tmp_path):
    """Where no folder of videos was named they lie beside the data, wherever that is now; a named one is looked in."""
    for place in ("old", "new", "clips"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "q.json").write_text("[]")
    old, new, videos = tmp_path / "old/q.json", tmp_path / "new/q.json", tmp_path / "clips"
    settings = {"data": str(old), "videos": None}
    inputs = {"data": repeat.digest(old), "videos": repeat.digest(old.parent)}
    then = {"folder": str(tmp_path), "settings": settings, "inputs": inputs, "models": {}}
    shutil.rmtree(old.parent)
    assert len(rerun.other_content(then, settings)) == 2
    assert rerun.other_content(then, settings | {"data": str(new)}) == []
    (videos / "more.mp4").touch()
    (told,) = rerun.other_content(then, settings | {"data": str(new), "videos": "clips"})
    assert told == f"videos: {videos} is not what it was when the run was made"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["", "a", "ab"]))
def test_a_result_differs_from_another_just_where_one_value_does(value, text):
    assert not list(differences(value, value))
    assert list(differences({"a": value, "b": [1, text]}, {"a": value, "b": [1, text + "x"]}))[0].startswith("b 1: at")
    assert list(differences({"a": value, "b": 1}, {"a": value})) == ["b: only before"]
    assert not list(differences({"wait_s": 1, "timing": value}, {"wait_s": 2}))


def test_lines_end_where_jsonl_says_not_at_other_line_ends_of_unicode(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"video_id": 7, "result": "a\u2028b\x85c"}\n{"video_id": 8}\n', encoding="utf-8"
    )
    record = {"outputs": {}, "settings": {}}
    assert rerun.read_result(tmp_path / "a.jsonl", record)["7"]["result"] == "a\u2028b\x85c"


def test_measures_of_time_are_shown_side_by_side():
    told = figures("b.json", {"a": 2.0, "b": [1, 4], "settings": {"c": 1}}, {"a": 1.0, "b": [1, 5], "settings": {}})
    assert "3 figures in both, 0 in one" in told[0] and told[1].endswith("a: 2 -> 1 (x 0.50)") and "b 1: 4" in told[2]


def test_a_run_that_goes_on_elsewhere_remembers_where_it_was():
    def at(commit, **more):
        return {"surroundings": {"commit": commit, "time": more.pop("time", "now")}, **more}

    once = continued(at("a"), at("a", time="later"))
    assert once == at("a")
    twice = continued(continued(at("a"), at("b")), at("b", time="later"))
    assert twice["surroundings"]["commit"] == "a" and [one["commit"] for one in twice["continued"]] == ["b"]
    assert continued(None, at("a")) == at("a")


def test_a_folder_is_known_by_names_and_sizes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"12")
    before = repeat.digest(tmp_path)
    assert (before["files"], before["bytes"], Path(before["path"])) == (1, 2, tmp_path)
    (tmp_path / "a" / "1.mp4").write_bytes(b"123")
    assert repeat.digest(tmp_path)["sha256"] != before["sha256"]
    assert repeat.digest(iter([tmp_path / "a" / "1.mp4"]))["files"] == 1
