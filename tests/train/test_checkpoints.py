"""The files around a run: which checkpoint counts, what is kept, what a log line is."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.train.checkpoints import (
    COMPLETE,
    FINISHED,
    RUN,
    append_line,
    check_same_run,
    checkpoints,
    is_complete,
    keep_newest,
    mark_complete,
    newest_complete,
    truncate_log,
    write_json,
)


def checkpoint(folder, step, *, marked=True):
    path = folder / f"checkpoint-{step}"
    (path / "sub").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights" * step)
    (path / "sub" / "state.json").write_text("{}")
    if marked:
        mark_complete(path)
    return path


def test_the_newest_complete_checkpoint_is_by_number_not_by_name(tmp_path):
    checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-final").mkdir()
    assert newest_complete(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: (p / COMPLETE).unlink(),
        lambda p: (p / COMPLETE).write_text('{"step": 20, "fil'),
        lambda p: (p / "model.safetensors").write_bytes(b"short"),
        lambda p: (p / "sub" / "state.json").unlink(),
    ],
    ids=["no marker", "half a marker", "file cut short", "file lost"],
)
def test_a_half_written_checkpoint_is_passed_over_for_the_one_before(tmp_path, harm):
    checkpoint(tmp_path, 10)
    harm(checkpoint(tmp_path, 20))
    assert newest_complete(tmp_path).name == "checkpoint-10"


def test_rotation_keeps_the_newest_complete_ones_and_removes_the_rest(tmp_path):
    for step in (10, 20, 30):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 40, marked=False)
    keep_newest(tmp_path, 2)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-30"]
    assert all(map(is_complete, checkpoints(tmp_path)))


def test_rotation_of_half_written_checkpoints_alone_leaves_none(tmp_path):
    checkpoint(tmp_path, 10, marked=False)
    keep_newest(tmp_path, 1)
    assert checkpoints(tmp_path) == [] and newest_complete(tmp_path) is None


def test_the_log_is_cut_back_to_the_checkpoint_and_loses_half_lines(tmp_path):
    log = tmp_path / "log.jsonl"
    for step in range(1, 6):
        append_line(log, {"step": step, "loss": 1 / step})
    with log.open("a") as file:
        file.write('{"step": 2, "lo')
    truncate_log(log, 3)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]
    truncate_log(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()


def test_other_settings_are_refused_only_where_there_is_something_to_continue(tmp_path):
    check_same_run(tmp_path, {"seed": 1})
    write_json(tmp_path / RUN, {"seed": 1})
    checkpoint(tmp_path, 10, marked=False)
    check_same_run(tmp_path, {"seed": 2})
    checkpoint(tmp_path, 20)
    check_same_run(tmp_path, {"seed": 1})
    with pytest.raises(UserError, match="seed was 1, now 2"):
        check_same_run(tmp_path, {"seed": 2})


def test_results_of_an_unknown_run_are_not_overwritten(tmp_path):
    write_json(tmp_path / FINISHED, {"steps": 1})
    with pytest.raises(UserError, match=RUN):
        check_same_run(tmp_path, {"seed": 1})
