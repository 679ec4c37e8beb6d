"""Files of conversations: whatever style the offsets have, the same records; offsets that lie are told."""

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.annotations import seeks_file
from swwatch.data.seek_jsonl import Conversations, SeekFile, parse_conversation
from swwatch.errors import UserError


def talk(video: str, text: str = "hello") -> list[dict]:
    asked = [{"type": "video", "video": video}, {"type": "text", "text": "What?"}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": [{"type": "text", "text": text}]}]


def write(path, talks: list, style: str):
    """A file in one of the three styles."""
    lines = [json.dumps(made, ensure_ascii=False).encode() + b"\n" for made in talks]
    offsets = [sum(map(len, lines[:i])) for i in range(len(lines))]
    seeks_file(path).unlink(missing_ok=True)
    path.write_bytes(b"".join(lines) + (json.dumps(offsets).encode() if style == "last line" else b""))
    if style == "beside":
        seeks_file(path).write_text(json.dumps(offsets))
    return path


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_every_style_gives_the_same_records_in_any_order_and_in_another_process(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("styles")
    talks = [talk(f"{i}.mp4", text) for i, text in enumerate(texts)]
    for style in ("beside", "last line", "none"):
        path = write(folder / "a_with_seeks.jsonl", talks, style)
        file = SeekFile(path)
        assert (file.style, len(file)) == (style, len(talks))
        for records in (file, pickle.loads(pickle.dumps(file))):
            assert [records[i]["messages"] for i in reversed(range(len(records)))] == talks[::-1]
        assert [record["video_path"] for record in file] == [f"{i}.mp4" for i in range(len(talks))]


def test_offsets_are_beside_the_file_under_either_name(tmp_path):
    assert seeks_file(tmp_path / "train_with_seeks.jsonl") == seeks_file(tmp_path / "train.jsonl")
    assert seeks_file(tmp_path / "train.jsonl").name == "train_seeks.jsonl"


@pytest.mark.parametrize("style", ["beside", "last line"])
@pytest.mark.parametrize("wrong", [lambda o: [0, o[1] + 1, o[2]], lambda o: [o[1], o[2]], lambda o: [0, o[2], o[1]]])
def test_offsets_that_begin_no_line_or_do_not_rise_are_refused(tmp_path, style, wrong):
    talks = [talk("a.mp4"), talk("b.mp4"), talk("c.mp4")]
    path = write(tmp_path / "a.jsonl", talks, style)
    offsets = json.loads(path.read_bytes().splitlines()[-1] if style == "last line" else seeks_file(path).read_text())
    if style == "beside":
        seeks_file(path).write_text(json.dumps(wrong(offsets)))
    else:
        body = path.read_bytes().rsplit(b"\n", 1)[0] + b"\n"
        path.write_bytes(body + json.dumps(wrong(offsets)).encode())
    with pytest.raises(UserError, match="begins no line|must begin with 0 and rise"):
        SeekFile(path)


def test_offsets_that_leave_out_a_line_and_a_list_that_is_none_are_told(tmp_path):
    path = write(tmp_path / "a.jsonl", [talk("a.mp4"), talk("b.mp4"), talk("c.mp4")], "beside")
    offsets = json.loads(seeks_file(path).read_text())
    seeks_file(path).write_text(json.dumps([0, offsets[2]]))
    with pytest.raises(UserError, match="leave out lines behind record 1"):
        SeekFile(path)
    seeks_file(path).write_text("nonsense")
    with pytest.raises(UserError, match="a_seeks.jsonl is no JSON list"):
        SeekFile(path)


def test_the_fingerprint_knows_another_text_and_other_places(tmp_path):
    digests = set()
    for talks in ([talk("a.mp4"), talk("b.mp4")], [talk("a.mp4"), talk("c.mp4")], [talk("a.mp4")]):
        for style in ("beside", "none"):
            digests.add(SeekFile(write(tmp_path / "a.jsonl", talks, style)).sha256)
    assert len(digests) == 6
    again = SeekFile(write(tmp_path / "a.jsonl", [talk("a.mp4")], "none"))
    assert again.sha256 in digests


def test_several_files_follow_one_another_and_one_may_be_named_twice(tmp_path):
    a = write(tmp_path / "a.jsonl", [talk("a0.mp4"), talk("a1.mp4")], "beside")
    b = write(tmp_path / "b.jsonl", [talk("b0.mp4")], "last line")
    both = Conversations([a, a, b])
    assert [record["video_path"] for record in both] == ["a0.mp4", "a1.mp4", "a0.mp4", "a1.mp4", "b0.mp4"]
    assert both[-1]["file"] == str(b) and both[4]["video_id"] == "b/1"
    assert both.check(0.0) == []
    assert len({Conversations(files).sha256 for files in ([a], [a, b], [b, a], [a, a, b])}) == 4
    with pytest.raises(IndexError):
        both[5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}", "a JSON list of messages is wanted"),
        (b"[1", "not valid JSON"),
        (b'[{"role": "user"}]', 'has "role" and "content"'),
        (json.dumps(talk("a")[:1]).encode(), "must take turns, not user"),
        (json.dumps([*talk("a"), *talk("b")]).encode(), "has one video or image.* this one has 2"),
        (json.dumps(talk("")).encode(), "path of the video is ''"),
        (json.dumps([{"role": "user", "content": [{"type": "sound"}]}]).encode(), "part of the type 'sound'"),
    ],
)
def test_lines_that_are_no_conversation_are_told(line, words):
    with pytest.raises(UserError, match=words):
        parse_conversation(line)


def test_half_a_character_in_any_text_is_told_and_a_byte_order_mark_is_not():
    line = json.dumps(talk("a.mp4")).encode()
    assert parse_conversation(b"\xef\xbb\xbf" + line) == parse_conversation(line)
    broken = json.loads(line)
    broken[0]["content"].append({"type": "text", "text": "a \ud83d"})
    with pytest.raises(UserError, match="half a character"):
        parse_conversation(json.dumps(broken).encode())


def test_a_file_of_another_kind_is_told_by_check_with_what_is_wanted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"video_id": 1}\n{"video_id": 2}\n')
    with pytest.raises(UserError, match=r"2 of the 2 lines.*swwatch chunk"):
        Conversations([path]).check(0.01)
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: a JSON list"):
        Conversations([path])[1]
