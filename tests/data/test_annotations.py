"""Annotation files: every defect names its line; a video is found from anywhere."""

import json
import os

import pytest

from swwatch.data.annotations import encode_line, parse_line, read_jsonl, resolve_video, write_atomic
from swwatch.data.records import Records
from swwatch.errors import UserError

GOOD = {"video_id": 1, "human_caption": "The video shows a fox", "video_duration_in_s": 7.5, "video_path": "a.mp4"}


def lines(*records) -> bytes:
    return b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records)


def test_records_come_back_in_order_and_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    second = {**GOOD, "video_id": "clip_x", "human_caption": "Füchse \U0001f98a", "more": [1, None]}
    write_atomic(path, map(encode_line, [GOOD, second]))
    path.write_bytes(path.read_bytes() + b"\n")
    assert read_jsonl(path) == [GOOD, second]


def test_duration_given_as_text_becomes_a_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({**GOOD, "video_duration_in_s": "10"}))
    assert read_jsonl(path)[0]["video_duration_in_s"] == 10.0


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (b'{"video_id": 2,\n', "not valid JSON"),
        (b"[" * 100_000 + b"\n", "not valid JSON"),
        (b'"\xff"\n', "not UTF-8"),
        (b"[1]\n", "a JSON object is wanted, this is list"),
        ({"video_id": 2, "human_caption": "x"}, "no video_duration_in_s"),
        ({"video_id": None, "video_duration_in_s": 3}, "no video_id, human_caption"),
        ({**GOOD, "video_id": 2, "human_caption": 5}, "human_caption is int"),
        ({**GOOD, "video_id": 2.5}, "video_id is float"),
        ({**GOOD, "video_id": 2, "video_duration_in_s": "ten"}, "not a number: 'ten'"),
        ({**GOOD, "video_id": 2, "video_path": ["a.mp4"]}, "video_path is list"),
        ({**GOOD, "video_id": "1"}, "video_id 1 was already in line 1"),
    ],
)
def test_a_defect_is_an_error_that_names_file_and_line(tmp_path, second, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD, second))
    with pytest.raises(UserError, match="a.jsonl, line 2") as caught:
        read_jsonl(path)
    assert message in str(caught.value)


def test_missing_and_empty_files_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="python mani_data.py"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    with pytest.raises(UserError, match="no record"):
        read_jsonl(tmp_path / "empty.jsonl")


def test_text_that_is_not_utf8_is_escaped_not_lost(tmp_path):
    write_atomic(tmp_path / "a.jsonl", [encode_line({**GOOD, "title": "\ud800"})])
    assert read_jsonl(tmp_path / "a.jsonl")[0]["title"] == "\ud800"


def test_half_a_character_and_an_empty_caption_are_told():
    for field in ("human_caption", "question", "video_id"):
        with pytest.raises(UserError, match="half a character.*ud83d"):
            parse_line(json.dumps({**GOOD, field: "a \ud83d circle"}).encode())
    for caption in ("", " \n\u2003"):
        with pytest.raises(UserError, match="human_caption is empty"):
            parse_line(json.dumps({**GOOD, "human_caption": caption}).encode())


def test_a_byte_order_mark_and_unusual_line_ends_are_no_part_of_a_record(tmp_path):
    record = {**GOOD, "human_caption": "one\u2028two\x85three"}
    line = json.dumps(record, ensure_ascii=False).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n")
    assert read_jsonl(tmp_path / "a.jsonl")[0]["human_caption"] == record["human_caption"]
    assert Records(tmp_path / "a.jsonl")[0]["human_caption"] == record["human_caption"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def breaking():
        yield "new"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_atomic(path, breaking())
    assert path.read_text() == "old"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(tmp_path / "pipe", ["a\n", "b\n"])
    assert os.read(reader, 100) == b"a\nb\n" and (tmp_path / "pipe").is_fifo()
    os.close(reader)


def test_relative_paths_are_tried_from_here_then_the_jsonl_then_its_parent(tmp_path, monkeypatch):
    here, data = tmp_path / "here", tmp_path / "project" / "dataset"
    here.mkdir()
    data.mkdir(parents=True)
    monkeypatch.chdir(here)
    jsonl = data / "train.jsonl"
    places = [tmp_path / "project" / "v" / "1.mp4", data / "v" / "1.mp4", here / "v" / "1.mp4"]
    for place in places:  # from the last place to the first: each new file wins
        place.parent.mkdir()
        place.touch()
        assert resolve_video("v/1.mp4", jsonl).absolute() == place
    assert resolve_video(str(places[0]), jsonl) == places[0]


def test_video_root_joins_the_file_name_only(tmp_path):
    (tmp_path / "1.mp4").touch()
    assert resolve_video("dataset/PE-Video/videos/test/1.mp4", "x.jsonl", tmp_path) == tmp_path / "1.mp4"
    with pytest.raises(UserError, match="2.mp4"):
        resolve_video("2.mp4", "x.jsonl", tmp_path)


def test_a_missing_video_names_every_place_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        resolve_video("v/1.mp4", tmp_path / "a" / "b" / "t.jsonl")
    for place in (tmp_path, tmp_path / "a" / "b", tmp_path / "a"):
        assert f"  {place / 'v' / '1.mp4'}" in str(caught.value).splitlines()
    with pytest.raises(UserError, match="no video_path"):
        resolve_video(None, "t.jsonl")
    with pytest.raises(UserError, match="no video file"):
        resolve_video("a" * 300 + ".mp4", "t.jsonl")  # no file has such a name
