"""Result files survive a kill at any byte: nothing lost, nothing doubled, nothing mixed (P10, P7)."""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.results import Results, beside, read_lines

ROOT = Path(__file__).parents[2]
KEYS = ["7", "clip \u00e9", "c\u2028d", "3", "long"]
RUN = {"settings": {"variant": "group", "schedule": "wait-k:3"}, "about": {}}


def rows(key):
    prediction = {"video_id": int(key) if key.isdigit() else key, "annotation": "ref", "result": f"caption of {key}\n"}
    return prediction, [{"step": i, "token_id": i, "text": key} for i in range(3)]


def finish(path, keys=KEYS, run=RUN, **options):
    """Do what is not done; the keys done now."""
    with Results(path, run, keys, **options) as results:
        todo = [key for key in keys if key not in results.done]
        for key in todo:
            results.add(*rows(key))
        return todo


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "group_infer.json"


def contents(path):
    return path.read_bytes(), beside(path, "trace.jsonl").read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_files_cut_at_any_bytes_end_as_if_never_cut(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "group_infer.json"
        finish(path)
        whole = contents(path)
        for file, text in zip((path, beside(path, "trace.jsonl")), whole, strict=True):
            file.write_bytes(text[: data.draw(st.integers(0, len(text)), label=file.name)])
        finish(path)
        assert contents(path) == whole


WORKER = """
import sys, time
from pathlib import Path
from swwatch.evaluate.results import Results
sys.path.insert(0, sys.argv[2])
from tests.evaluate.test_eval_results import RUN, rows
keys = [str(i) for i in range(40)]
with Results(Path(sys.argv[1]), RUN, keys) as results:
    print("ready", flush=True)
    for key in keys:
        if key not in results.done:
            time.sleep(0.002)
            results.add(*rows(key))
"""


def test_a_process_killed_again_and_again_finishes_every_clip_once(path):
    command = [sys.executable, "-c", WORKER, str(path), str(ROOT)]
    draw, kills = random.Random(0), 0
    for _ in range(60):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as worker:
            assert worker.stdout.readline() == "ready\n"
            if kills < 5:
                time.sleep(draw.uniform(0, 0.03))
                worker.kill()  # SIGKILL
            kills += worker.wait() == -9
        if worker.returncode == 0:
            break
    assert kills >= 3
    order = [json.loads(line)["video_id"] for line in path.read_text().splitlines()]
    traced = [json.loads(line)["video_id"] for line in beside(path, "trace.jsonl").read_text().splitlines()]
    assert order == traced == list(range(40))


def test_results_of_other_settings_are_refused_and_told(path):
    finish(path)
    before = contents(path)
    other = {"settings": {"variant": "group", "schedule": "random:3:seed=0"}, "about": {}}
    with pytest.raises(UserError, match="schedule was 'wait-k:3', is 'random:3:seed=0'.*--restart"):
        finish(path, run=other)
    assert contents(path) == before
    assert finish(path, run={**RUN, "about": {"device": "elsewhere"}}) == []  # facts for the reader are free to change
    assert finish(path, run=other, restart=True) == KEYS


def test_a_run_may_be_extended_but_not_shrunk(path):
    finish(path, KEYS[:2])
    assert finish(path, KEYS) == KEYS[2:]
    with pytest.raises(UserError, match="3 clips that are not among the 2 asked for"):
        finish(path, KEYS[:2])


def test_predictions_of_unknown_origin_are_not_touched(path):
    path.parent.mkdir()
    path.write_text('{"video_id": 1, "result": "kept"}\n')
    with pytest.raises(UserError, match="without group_run.json"):
        finish(path)
    assert "kept" in path.read_text()


def test_a_broken_whole_line_is_an_error_with_its_number(path):
    finish(path)
    path.write_bytes(path.read_bytes().replace(b'{"video_id": 3', b'{"vid', 1))
    with pytest.raises(UserError, match="group_infer.json, line 4"):
        finish(path)


def test_two_evaluations_cannot_write_to_one_output(path):
    with Results(path, RUN, KEYS), pytest.raises(UserError, match="another run is writing"):
        Results(path, RUN, KEYS)
    assert finish(path) == KEYS  # the lock went with its owner


def test_skipped_clips_are_listed_and_tried_again(path):
    with Results(path, RUN, KEYS) as results:
        results.skip(3, "videos/3.mp4", "moov atom not found")
    (line,) = beside(path, "skipped.jsonl").read_text().splitlines()
    assert json.loads(line) == {"video_id": 3, "path": "videos/3.mp4", "reason": "moov atom not found"}
    assert "3" in finish(path) and beside(path, "skipped.jsonl").read_text() == ""


def test_names_of_the_other_files_follow_from_the_predictions():
    assert beside(Path("o/group_infer.json"), "trace.jsonl") == Path("o/group_trace.jsonl")
    assert beside(Path("o/mine.json"), "run.json") == Path("o/mine_run.json")


def test_a_last_line_without_line_end_counts_only_where_asked(path):
    path.parent.mkdir()
    path.write_text('{"video_id": 1}\n\n{"video_id": 2}')
    assert list(read_lines(path)) == ["1"]
    assert list(read_lines(path, cut_tail=False)) == ["1", "2"]
