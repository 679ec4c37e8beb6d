"""Comparing two runs: only what can be compared is, on the clips that both have, and the rest is told."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.caption.scoring import score
from swwatch.evaluate.compare.command import main
from swwatch.evaluate.compare.measure import compare_runs, describe
from swwatch.evaluate.run_files import read_run
from swwatch.metrics import captions
from swwatch.toy.world import make_scene

SCENES = [make_scene(0, i) for i in range(12)]
CHECKPOINT = {"BLEURT": "a/checkpoint"}


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


@pytest.fixture
def run(tmp_path):
    """Write a run: every `bad`-th caption tells another clip."""
    data = tmp_path / "test.jsonl"
    records = [
        {"video_id": i, "human_caption": s.caption, "video_duration_in_s": 5, "events": s.record()}
        for i, s in enumerate(SCENES)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))

    def write(name, bad=3, clips=range(12), *, reference=lambda i: SCENES[i].caption, sha="x", **files):
        path = tmp_path / f"{name}_infer.json"
        rows = [
            {
                "video_id": i,
                "annotation": reference(i),
                "result": SCENES[i if i % bad else (i + 1) % 12].caption,
                "task": "3_5",
            }
            for i in clips
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        facts = {
            "settings": {"variant": name, "schedule": "wait-k:3", "data_sha256": sha},
            "about": {"data": str(data)},
        }
        for what, content in ({"run": facts} | files).items():
            (tmp_path / f"{name}_{what}.json").write_text(json.dumps(content))
        return path

    return write


def compared(*paths, **options):
    return compare_runs(*(read_run(path) for path in paths), num_resamples=200, **options)


def test_better_run_wins_in_every_metric_and_each_value_is_that_of_scoring(run):
    a, b = run("gap", bad=2), run("group", bad=6)
    got = compared(a, b)
    assert got["num_common"] == 12 and got["only_a"] == got["only_b"] == got["without_reference"] == []
    for name, path in (("a", a), ("b", b)):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        corpus = score(rows)["scores"]["corpus"]
        ours = {metric: row[name] for metric, row in got["metrics"].items() if not metric.startswith("toy")}
        assert ours == pytest.approx({metric: corpus[metric] for metric in ours})
    for metric in ("BLEU-4", "CIDEr", "ROUGE-L", "toy told"):
        row = got["metrics"][metric]
        assert row["difference"] == pytest.approx(row["b"] - row["a"]) and row["difference"] > 0
        assert row["ci95"][0] <= row["difference"] <= row["ci95"][1] and 0 < row["p_value"] <= 1
    assert "METEOR" in got["left_out"] and "METEOR" not in got["metrics"]
    assert got["metrics"]["toy parses"]["difference"] == 0


def test_run_against_itself_shows_no_difference(run):
    a = run("gap")
    got = compared(a, a)["metrics"]
    assert all(row["difference"] == 0 and row["p_value"] == 1 for row in got.values())


def test_clips_of_one_run_only_are_counted_and_left_out(run):
    got = compared(run("gap", clips=range(10)), run("group", bad=6, clips=[11, *range(4, 8), 2]))
    assert (got["num_common"], len(got["only_a"]), got["only_b"]) == (5, 5, ["11"])
    text = describe(got)
    assert "5 clips in common" in text and "5 only in A, left out: 0, 1, 3, 8, 9" in text and "1 only in B" in text
    same = compared(run("gap", clips=[2, 4, 5, 6, 7]), run("group", bad=6, clips=[2, 4, 5, 6, 7]))
    assert got["metrics"]["CIDEr"]["a"] == pytest.approx(same["metrics"]["CIDEr"]["a"])


def test_other_references_or_other_data_are_refused(run):
    a = run("gap")
    with pytest.raises(UserError, match="2 of 12 common clips have other references"):
        compared(a, run("group", reference=lambda i: "a circle" if i in (1, 4) else SCENES[i].caption))
    b = run("group", sha="y")
    with pytest.raises(UserError, match="--other-data"):
        compared(a, b)
    assert compared(a, b, other_data=True)["num_common"] == 12
    with pytest.raises(UserError, match="no clip in common"):
        compared(run("gap", clips=[1, 2]), run("group", clips=[3, 4]))
    with pytest.raises(UserError, match="0 of 2 common clips have a reference"):
        compared(*(run(name, clips=[1, 2], reference=lambda i: None) for name in ("gap", "group")))


def test_reference_that_one_run_lacks_is_taken_from_the_other(run):
    got = compared(run("gap", reference=lambda i: None if i == 3 else SCENES[i].caption), run("group"))
    assert got["metrics"]["CIDEr"]["num_clips"] == 12 and got["without_reference"] == []


def stored(path, value, learned=CHECKPOINT):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    scores = score(rows)["scores"]
    for key, clip in scores["per_clip"].items():
        clip["BLEURT"] = value + int(key) / 100
    path.with_name(path.name.replace("infer", "metrics")).write_text(
        json.dumps({"scores": scores | {"learned": learned}})
    )


def test_bleurt_is_taken_from_the_metrics_files_if_the_checkpoint_was_one(run):
    a, b = run("gap"), run("group")
    stored(a, 0.25), stored(b, 0.5)
    got = compared(a, b)["metrics"]["BLEURT"]
    assert got["difference"] == pytest.approx(0.25) and got["ci95"] == pytest.approx([0.25, 0.25])
    stored(b, 0.5, {"BLEURT": "another"})
    assert "by another" in compared(a, b)["left_out"]["BLEURT"]
    stored(b, 0.5)
    run("group", bad=4)  # predictions changed since they were scored
    with pytest.raises(UserError, match="is not of these captions"):
        compared(a, b)


def test_fluency_is_compared_under_one_judge_on_clips_graded_in_both(run):
    judge = {"model": "m", "rubric_sha256": "r", "scale": [1, 5], "per_clip": {str(i): 4 for i in range(12)}}
    other = judge | {"per_clip": {str(i): 3 + i % 2 for i in range(10)}}
    got = compared(run("gap", judge=judge), run("group", judge=other))
    row = got["metrics"]["Fluency"]
    assert (row["num_clips"], row["a"], row["b"]) == (10, 4, 3.5)
    assert "-0.50" in describe(got) and "-50.00" not in describe(got)
    got = compared(run("gap", judge=judge), run("group", judge=other | {"model": "n"}))
    assert "differ in model" in got["left_out"]["Fluency"] and "Fluency" not in got["metrics"]


def test_program_writes_json_and_table_and_tells_problems(run, tmp_path, capsys):
    a, b = run("gap", bad=2), run("group", bad=6)
    b.write_bytes(b.read_bytes()[:-9])
    assert main([str(a), str(b), "--json", str(tmp_path / "out.json"), "--resamples", "50"]) == 0
    out, err = capsys.readouterr()
    assert "line 12: the last line is cut" in err and "11 clips in common" in out and "(gap, wait-k:3)" in out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["num_common"] == 11 and found["metrics"]["BLEU-4"]["num_clips"] == 11
    with pytest.raises(UserError, match="resamples must be at least 1"):
        main([str(a), str(b), "--resamples", "0"])
