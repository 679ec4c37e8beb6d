"""The disturbance test: checkpoints of two kinds on real clips, a kill in between, and the table."""

import json
import math
import shutil

import pytest

from swwatch.cli import run as run_program
from swwatch.errors import UserError
from swwatch.evaluate.caption import measure
from swwatch.evaluate.disturb import command as disturb
from swwatch.evaluate.disturb import measure as disturb_measure
from swwatch.evaluate.disturb.measure import PAPER, build_table
from swwatch.evaluate.disturb.page import disturbance_markdown, disturbance_text
from swwatch.evaluate.disturb.settings import ModelRuns, find_checkpoints
from swwatch.metrics import captions
from swwatch.metrics.paper import paper_disturbed
from swwatch.paths import only_one_writes
from swwatch.toy.clips import encode
from swwatch.toy.world import make_scene

SCHEDULES = ["wait-k:3", "random:3:seed=0", "burst:3:every=2"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.setenv("QWEN2_5_VL_VARIANT", "gap")  # each checkpoint knows better
    monkeypatch.setenv("QWEN2_5_VL_EVAL_OUTPUT_FILE", "one_for_all.json")
    for module in (captions, disturb_measure):
        monkeypatch.setattr(module, "java_problem", lambda: "no `java` on the PATH")


@pytest.fixture(scope="module")
def models(tiny_checkpoint, tmp_path_factory):
    from swwatch.model.loading import load

    folder = tmp_path_factory.mktemp("models")
    for variant in ("group", "origin"):
        shutil.copytree(tiny_checkpoint, folder / variant)
        load(tiny_checkpoint, variant=variant, device="cpu").model.config.save_pretrained(folder / variant)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(3):
        scene = make_scene(5, i)
        (folder / f"clip{i}.mp4").write_bytes(encode(scene, 4))
        rows.append(
            {"video_id": f"clip{i}", "video_path": f"clip{i}.mp4", "video_duration_in_s": scene.duration_s}
            | {"human_caption": scene.caption, "events": scene.record()}
        )
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(models, data, out, *more, names=("group", "origin")):
    paths = [str(models / name) for name in names]
    places = ["--data-dir", str(data), "--output-dir", str(out), "--device", "cpu", "--max-new-tokens", "30"]
    return [*paths, *places, "--schedules", *SCHEDULES, *more]


def test_a_second_disturbance_of_a_folder_is_refused(models, data, tmp_path, capsys):
    with only_one_writes(tmp_path / "disturbance.json"):
        assert run_program(disturb.main, arguments(models, data, tmp_path)) == 2
    assert "another run is writing" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_every_model_under_every_schedule_and_again_after_a_kill(models, data, tmp_path, monkeypatch, capsys):
    asked, evaluate = [], measure.evaluate

    def counted(settings, records, ranks):
        if len(asked) == 2:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append((settings.output_file, settings.schedule, settings.variant))
        return evaluate(settings, records, ranks)

    monkeypatch.setattr(measure, "evaluate", counted)
    assert run_program(disturb.main, arguments(models, data, tmp_path)) == 130
    first = tmp_path / "group_wait-k-3_infer.json"
    written = first.stat().st_mtime_ns
    assert run_program(disturb.main, arguments(models, data, tmp_path)) == 0
    assert first.stat().st_mtime_ns == written  # kept, not made again
    assert [schedule for _, schedule, _ in asked[3:]] == ["wait-k:3", "random:3:seed=0", "burst:3:every=2", "wait-k:3"]
    assert asked[-1] == ("origin_wait-k-3_infer.json", "wait-k:3", None)  # offline: once

    table = json.loads((tmp_path / "disturbance.json").read_text())
    assert table["num_clips"] == 3 and table["metrics"][:3] == ["CIDEr", "BLEU-4", "ROUGE-L"]
    assert {"told", "parses", "staleness_s"} <= set(table["metrics"])
    group, origin = table["rows"]
    assert (group["variant"], group["offline"]) == ("group", False) and origin["offline"]
    assert list(group["cells"]["CIDEr"]) == SCHEDULES and list(origin["cells"]["CIDEr"]) == ["wait-k:3"]
    for name in table["metrics"]:
        cell = group["cells"][name]["random:3:seed=0"]
        if cell["difference"] is not None:
            assert cell["difference"] == pytest.approx(cell["value"] - group["cells"][name]["wait-k:3"]["value"])
            assert 0 < cell["p_value"] <= 1 and cell["ci95"][0] <= cell["ci95"][1]
    metrics = json.loads((tmp_path / "group_random-3-seed-0_metrics.json").read_text())
    assert group["cells"]["BLEU-4"]["random:3:seed=0"]["value"] == pytest.approx(metrics["scores"]["corpus"]["BLEU-4"])
    printed = capsys.readouterr().out
    assert (tmp_path / "disturbance.txt").read_text().strip() in printed and "not affected" in printed


def table_of(cells, metric="BLEURT", **changes):
    rows = [
        {"name": name, "variant": name, "trained": "wait-k:3", "offline": name == "origin", "cells": {metric: runs}}
        for name, runs in cells.items()
    ]
    return {
        "schedules": ["wait-k:3", "random:3:seed=0", "burst:3:every=2"],
        "num_clips": 4,
        "metrics": [metric],
        "scale": {metric: 100},
        "rows": rows,
        "paper": {
            "metric": "BLEURT",
            "what": PAPER,
            "rows": {"interleave": paper_disturbed("interleave"), "group": paper_disturbed("group")},
        },
    } | changes


def test_the_table_shows_value_change_and_certainty_beside_the_papers_rows():
    sure = {"value": 0.4, "difference": -0.1, "p_value": 0.01}
    unsure = {"value": 0.45, "difference": -0.05, "p_value": 0.2}
    lost = {"value": None, "difference": None, "p_value": 0.2}
    table = table_of(
        {
            "interleave": {"wait-k:3": {"value": 0.5}, "random:3:seed=0": sure, "burst:3:every=2": unsure},
            "group": {"wait-k:3": {"value": 0.5}, "random:3:seed=0": lost, "burst:3:every=2": unsure},
            "origin": {"wait-k:3": {"value": 0.5312}},
        }
    )
    lines = [line.split("|")[1:-1] for line in disturbance_markdown(table).splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in line] for line in lines if "---" not in line[0]] == [
        ["model", "trained (wait-k:3)", "random:3:seed=0", "burst:3:every=2"],
        ["interleave", "50.00", "40.00 (-10.00*)", "45.00 (-5.00)"],
        ["group", "50.00", "n/a", "45.00 (-5.00)"],
        ["origin", "53.12", "not affected", "not affected"],
        ["interleave, paper", "44.11", "40.56 (-3.55)", ""],
        ["group, paper", "51.53", "51.76 (+0.23)", ""],
    ]
    text = disturbance_text(table)
    assert "the paper's: Qwen2.5-VL-3B on PE-Video" in text and "evaluated once" in text
    assert "paper" not in disturbance_text(table_of({"group": {"wait-k:3": {"value": 0.5}}}, "CIDEr", schedules=[]))


def test_models_trained_under_different_schedules_have_a_column_of_their_own():
    table = table_of(
        {"group": {"wait-k:3": {"value": 0.5}, "random:3:seed=0": {"value": 0.1, "difference": None}}}, "CIDEr"
    )
    table["rows"].append({**table["rows"][0], "name": "shaken", "trained": "random:3:seed=0"})
    table["rows"][1]["cells"] = {
        "CIDEr": {
            "random:3:seed=0": {"value": 0.3},
            "wait-k:3": {"value": 0.2, "difference": -0.1, "p_value": 0.001},
            "burst:3:every=2": {"value": 0.2, "difference": -0.1, "p_value": 0.9},
        }
    }
    table["rows"][0]["cells"]["CIDEr"]["burst:3:every=2"] = {"value": 0.5, "difference": 0.0, "p_value": 1}
    shaken = next(line for line in disturbance_markdown(table).splitlines() if line.startswith("| shaken"))
    assert shaken == "| shaken | 30.00 | 20.00 (-10.00*) | as trained | 20.00 (-10.00) |"


def write_run(folder, name, captions_of, bleurt=None, late=0.1):
    path = folder / f"{name}_infer.json"
    rows = [{"video_id": key, "annotation": "a cat on a mat", "result": text} for key, text in captions_of.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {
        key: {"CIDEr": len(text) / 100} | ({"BLEURT": bleurt} if bleurt else {}) for key, text in captions_of.items()
    }
    (folder / f"{name}_metrics.json").write_text(json.dumps({"scores": {"per_clip": scores}}))
    token = {"step": 0, "token_id": 1, "newest_visible_step": 0, "t_frame_s": 0.5, "t_emit_s": 0.5 + late, "text": "a"}
    lines = [{"video_id": key, "tokens": [token] * (1 + i)} for i, key in enumerate(captions_of)]
    (folder / f"{name}_trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_only_clips_that_every_run_has_are_compared(tmp_path):
    one = write_run(tmp_path, "one", {"a": "a cat", "b": "a dog on a mat", "c": "x"})
    two = write_run(tmp_path, "two", {"c": "yy", "a": "a cat!"}, late=0.3)
    row = ModelRuns("group", "group", "m", "wait-k:3", False, {"wait-k:3": one, "random:3:seed=0": two})
    table = build_table([row], ["random:3:seed=0"], {}, ["CIDEr", "staleness_s"])
    cells = table["rows"][0]["cells"]
    assert table["num_clips"] == 2
    assert cells["CIDEr"]["wait-k:3"]["value"] == pytest.approx((0.05 + 0.01) / 2)
    assert cells["CIDEr"]["random:3:seed=0"]["difference"] == pytest.approx((0.06 + 0.02 - 0.05 - 0.01) / 2)
    assert cells["staleness_s"]["random:3:seed=0"]["difference"] == pytest.approx(0.2)
    json.dumps(table, allow_nan=False)


def test_bleurt_is_the_measure_where_every_run_has_it(tmp_path):
    said = {"a": "a cat", "b": "a mat"}
    runs = {s: write_run(tmp_path, s[:4], said, bleurt=0.5) for s in ("wait-k:3", "burst:3:every=2")}
    both = ModelRuns("group", "group", "m", "wait-k:3", False, runs)
    assert build_table([both], ["burst:3:every=2"], {})["metrics"] == ["BLEURT", "staleness_s"]
    write_run(tmp_path, "burs", said)
    assert build_table([both], ["burst:3:every=2"], {})["metrics"] == ["CIDEr", "staleness_s"]
    with pytest.raises(UserError, match="not every run has BLEURT: choose from CIDEr"):
        build_table([both], ["burst:3:every=2"], {}, ["BLEURT"])


def test_equal_runs_are_not_found_different(tmp_path):
    said = {str(i): "a cat on a mat" + " and" * i for i in range(6)}
    runs = {"wait-k:3": write_run(tmp_path, "one", said), "stall:3": write_run(tmp_path, "two", said)}
    table = build_table(
        [ModelRuns("g", "group", "m", "wait-k:3", False, runs)], ["stall:3"], {}, ["CIDEr", "staleness_s"]
    )
    for name in ("CIDEr", "staleness_s"):
        cell = table["rows"][0]["cells"][name]["stall:3"]
        assert cell["difference"] == pytest.approx(0) and math.isclose(cell["p_value"], 1)


def test_a_share_of_nothing_has_neither_value_nor_certainty(tmp_path):
    runs = {
        s: write_run(tmp_path, s[:4], {"a": text}) for s, text in (("wait-k:3", "no"), ("stall:3", "a red circle"))
    }
    events = [{"color": "red", "shape": "circle", "direction": "up", "start_s": 0, "end_s": 1}]
    row = ModelRuns("g", "group", "m", "wait-k:3", False, runs)
    cell = build_table([row], ["stall:3"], {"a": {"events": events}}, ["true"])["rows"][0]["cells"]["true"]
    assert cell["wait-k:3"]["value"] is None and cell["stall:3"]["value"] == 1
    assert cell["stall:3"]["difference"] is cell["stall:3"]["p_value"] is None


def test_a_wrong_model_is_told_before_any_is_run(models, tiny_checkpoint, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "evaluate", lambda *args: pytest.fail("evaluated"))
    argv = arguments(models, data, tmp_path)
    assert run_program(disturb.main, [str(tiny_checkpoint), *argv]) == 2
    assert "does not know its variant" in capsys.readouterr().err
    assert run_program(disturb.main, [str(models / "group"), *argv]) == 2
    assert "given twice" in capsys.readouterr().err
    assert run_program(disturb.main, [str(tmp_path), *argv]) == 2
    assert "no config.json" in capsys.readouterr().err
    assert run_program(disturb.main, [*argv, "--schedules", "wait-k:0"]) == 2
    assert "not understood" in capsys.readouterr().err


def test_result_files_of_models_in_folders_of_the_same_name_do_not_collide(models, tmp_path):
    for seed in ("seed0", "seed1"):
        shutil.copytree(models / "group", tmp_path / seed / "final")
    found = find_checkpoints([str(tmp_path / "seed0" / "final"), str(tmp_path / "seed1" / "final")])
    assert [c.name for c in found] == ["group-seed0-final", "group-seed1-final"]
    assert len({c.predictions(tmp_path, s) for c in found for s in SCHEDULES}) == 6


def test_flags_of_the_evaluation_are_passed_on_and_those_that_differ_by_run_are_not_offered(capsys):
    with pytest.raises(SystemExit):
        disturb.main(["--help"])
    printed = capsys.readouterr().out
    assert "--max-count" in printed and "--data-dir" in printed and "--dtype" in printed
    assert "--schedule " not in printed and "--model-path" not in printed and "--output-file" not in printed
