"""The list of skipped records."""

import json

import pytest

from swwatch.data.dataset import Skip
from swwatch.errors import UserError
from swwatch.train.skips import SkipList


def skip(i):
    return Skip(str(i), f"videos/{i}.mp4", "empty file")


def test_a_record_is_listed_once_even_across_restarts(tmp_path):
    path = tmp_path / "skipped.jsonl"
    SkipList(path, 1000, 0.01).add([skip(1), skip(2), skip(1)])
    again = SkipList(path, 1000, 0.01)
    again.add([skip(2), skip(3)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["video_id"] for line in lines] == ["1", "2", "3"] and len(again) == 3
    assert lines[0] == {"video_id": "1", "path": "videos/1.mp4", "reason": "empty file"}


def test_a_line_cut_short_by_a_kill_is_written_anew(tmp_path):
    path = tmp_path / "skipped.jsonl"
    SkipList(path, 1000, 0.01).add([skip(1), skip(2)])
    path.write_text(path.read_text()[:-5])
    SkipList(path, 1000, 0.01).add([skip(2)])
    assert [json.loads(line)["video_id"] for line in path.read_text().splitlines()] == ["1", "2"]


def test_the_run_stops_above_the_limit_and_not_at_it(tmp_path):
    skips = SkipList(tmp_path / "skipped.jsonl", 200, 0.01)
    skips.add([skip(1), skip(2)])
    with pytest.raises(UserError, match="3 of 200 records are unusable.*videos/3.mp4.*empty file"):
        skips.add([skip(3)])
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 3
