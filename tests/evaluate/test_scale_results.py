"""Parts of several processes become one set of results, whatever a kill left of them (P10)."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate import results as module
from swwatch.evaluate.results import Results, Writer, beside, part_of, parts_of

KEYS = [f"clip {i}" for i in range(6)]
RUN = {"settings": {"variant": "group"}, "about": {"clips_at_once": 1, "num_processes": 2}}


def rows(key):
    return {"video_id": key, "result": f"caption of {key}\n"}, [{"step": 0, "text": key}]


def contents(path):
    return path.read_bytes(), beside(path, "trace.jsonl").read_bytes()


def whole(folder):
    path = folder / "whole" / "group_infer.json"
    with Results(path, RUN, KEYS) as results:
        for key in KEYS:
            results.add(*rows(key))
        results.complete(len(KEYS))
    return contents(path)


def write_part(path, rank, keys):
    with Writer(part_of(path, rank)) as part:
        for key in keys:
            part.add(*rows(key))


def finish(path, num_ranks=1, **options):
    """Do what is not done, by so many processes; the keys done now."""
    with Results(path, RUN, KEYS, **options) as results:
        todo = [key for key in KEYS if key not in results.done]
        for rank in range(num_ranks):
            write_part(path, rank, todo[rank::num_ranks][::-1])
        results.complete(len(KEYS))
    return todo


places = st.lists(st.integers(0, 3), min_size=len(KEYS), max_size=len(KEYS))


@settings(max_examples=50, deadline=None)
@given(st.data(), places, st.permutations(KEYS), st.integers(1, 3))
def test_parts_cut_at_any_bytes_end_as_one_process_would(data, places, order, num_ranks):
    """Clips in the merged files (0) or in the part of a rank (1 to 3), some in two places, all files cut anywhere."""
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync"):  # no power cut is played here
        expected = whole(Path(folder))
        path = Path(folder) / "group_infer.json"
        with Results(path, RUN, KEYS) as results:
            for key, place in zip(order, places, strict=True):
                if place == 0:
                    results.add(*rows(key))
        for rank in (1, 2, 3):
            write_part(path, rank, [key for key, place in zip(order, places, strict=True) if place >= rank])
        for file in sorted([path, beside(path, "trace.jsonl"), *parts_of(path).glob("rank*.json*")]):
            size = file.stat().st_size
            file.write_bytes(file.read_bytes()[: data.draw(st.integers(0, size), label=file.name)])
        finish(path, num_ranks)
        assert contents(path) == expected and not parts_of(path).exists()


@pytest.mark.parametrize("stop_at", range(6))
def test_a_kill_while_parts_are_taken_in_loses_and_doubles_nothing(tmp_path, monkeypatch, stop_at):
    """Killed before the first, second, ... of the file operations: write the trace, the predictions, delete parts."""
    expected, path = whole(tmp_path), tmp_path / "group_infer.json"
    path.parent.mkdir(exist_ok=True)
    Results(path, RUN, KEYS).__exit__()
    write_part(path, 0, KEYS[1::2])
    write_part(path, 1, KEYS[::2])
    calls = []

    def counted(call):
        def run(*args, **options):
            if len(calls) == stop_at:
                raise KeyboardInterrupt  # as good as a kill: nothing of ours runs afterwards
            calls.append(args)
            return call(*args, **options)

        return run

    monkeypatch.setattr(module, "write_atomic", counted(module.write_atomic))
    monkeypatch.setattr(module.shutil, "rmtree", counted(module.shutil.rmtree))
    with pytest.raises(KeyboardInterrupt):
        finish(path)
    monkeypatch.undo()
    assert finish(path) == [], "all were finished before the kill"
    assert contents(path) == expected


def test_a_process_of_an_earlier_run_that_is_still_at_work_is_not_robbed(tmp_path):
    path = tmp_path / "group_infer.json"
    Results(path, RUN, KEYS).__exit__()
    with Writer(part_of(path, 3)) as orphan:
        with pytest.raises(UserError, match="another run is writing .*group_parts"):
            finish(path)
        orphan.add(*rows(KEYS[0]))
    assert finish(path) == KEYS[1:]


def test_skipped_clips_of_all_processes_are_listed_in_order(tmp_path):
    path = tmp_path / "group_infer.json"
    with Results(path, RUN, KEYS) as results:
        for rank, skipped, done in ((0, 4, 0), (1, 1, 2)):
            with Writer(part_of(path, rank)) as part:
                part.skip(KEYS[skipped], "v.mp4", "broken")
                part.add(*rows(KEYS[done]))
        results.complete(2)
        assert results.num_skipped == 2
    listed = beside(path, "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["video_id"] for line in listed] == [KEYS[1], KEYS[4]]


def test_an_output_folder_that_nodes_do_not_share_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VISIBLE_S", 0)
    with Results(tmp_path / "group_infer.json", RUN, KEYS) as results:
        results.add(*rows(KEYS[0]))
        with pytest.raises(UserError, match="2 finished clips do not show .* all nodes share"):
            results.complete(3)


def test_restart_deletes_the_parts_too(tmp_path):
    path = tmp_path / "group_infer.json"
    Results(path, RUN, KEYS).__exit__()
    write_part(path, 1, KEYS)
    assert finish(path, restart=True) == KEYS


def test_facts_tell_the_most_that_ever_shared_a_device(tmp_path):
    path = tmp_path / "group_infer.json"
    for now, told in ((4, 4), (1, 4), (8, 8)):
        with Results(path, {**RUN, "about": {"clips_at_once": now}}, KEYS) as results:
            assert results.facts["about"]["clips_at_once"] == told
        assert json.loads(beside(path, "run.json").read_text())["about"]["clips_at_once"] == told
