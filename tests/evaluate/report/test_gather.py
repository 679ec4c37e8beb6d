"""What a run's files say, and what is refused."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.report.clips import clip_data
from swwatch.evaluate.report.gather import gather, is_number


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_run_is_read_with_all_that_lies_beside_it(runs):
    path = runs.make()
    runs.judged()
    [run] = gather([path])
    assert run.name == "group" and list(run.rows) == ["plain", "7", "rtl", "pieces", "silent"]
    assert run.tokens["plain"][2]["text"] == " sh" and run.tokens["silent"] == []
    assert run.skipped[0]["reason"] == "<b>empty</b>" and run.records["7"]["video_duration_in_s"] == 4.0
    assert run.clip_scores("plain")["Fluency"] == 5 and "Fluency" not in run.clip_scores("7")
    assert run.clip_times("plain")["time_to_first_token_s"] == pytest.approx(0.6)
    assert run.describe() == ["1 of 5 empty captions, scored as bad captions: silent"]


def test_the_releases_file_has_no_trace_and_no_facts(runs):
    path = runs.make(trace=False, settings={}, about={})
    (runs.folder / "group_skipped.jsonl").unlink()
    [run] = gather([path])
    assert run.tokens == {} and run.skipped == [] and run.records == {} and run.settings == {}


def test_without_scores_the_command_that_makes_them_is_told(runs):
    path = runs.make()
    (runs.folder / "group_metrics.json").unlink()
    with pytest.raises(UserError, match=f"no scores yet(?s:.*)swwatch eval --score-only --output-file {path}"):
        gather([path])


def test_scores_of_other_predictions_are_refused(runs):
    path = runs.make()
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="scores 1 clips without a prediction, such as silent"):
        gather([path])
    path.write_text(whole + json.dumps({"video_id": "new", "annotation": "a", "result": "b"}) + "\n")
    with pytest.raises(UserError, match="lacks 1 of 6 predictions, such as new"):
        gather([path])
    path.write_text(whole + json.dumps({"video_id": "new", "annotation": None, "result": "b"}) + "\n")
    assert "new" in gather([path])[0].rows  # a clip without a reference cannot have a score


def test_references_may_come_from_the_annotations(runs):
    path = runs.make()
    whole = path.read_text()
    path.write_text(whole.replace('"annotation": "The video shows a red ball."', '"annotation": ""', 1))
    assert not any("reference" in problem for problem in gather([path])[0].describe())
    assert clip_data(gather([path]))[0]["reference"] == "The video shows a red ball."
    edit(runs.folder / "group_metrics.json", without_reference=["plain"])
    assert any("1 of 5 clips without a reference" in problem for problem in gather([path])[0].describe())


@pytest.mark.parametrize(
    "content, message", [("{", "not a JSON file"), ("[]", "holds list"), ("{}", "holds no scores")]
)
def test_damaged_scores_are_an_error(runs, content, message):
    path = runs.make()
    (runs.folder / "group_metrics.json").write_text(content)
    with pytest.raises(UserError, match=message):
        gather([path])


@pytest.mark.parametrize("token", [{}, {"step": 0}, 3, None, {"text": 1}])
def test_a_token_without_its_times_is_an_error(runs, token):
    path = runs.make()
    runs.lines("group_trace.jsonl", [{"video_id": "plain", "tokens": [token]}])
    with pytest.raises(UserError, match="group_trace.jsonl, clip plain"):
        gather([path])


def test_runs_of_the_same_name_are_told_apart_by_their_folders(runs, tmp_path):
    path = runs.make()
    twins = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for file in tmp_path.glob("group_*"):
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
        twins.append(tmp_path / folder / path.name)
    assert [run.name for run in gather(twins)] == ["a/group", "b/group"]
    with pytest.raises(UserError, match="named twice"):
        gather([path, path])


def test_only_what_can_be_shown_is_a_number():
    assert is_number(0) and is_number(1.5)
    assert not any(is_number(value) for value in (None, True, float("nan"), float("inf"), "1", {}))
