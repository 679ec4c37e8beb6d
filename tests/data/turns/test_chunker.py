"""Transcripts cut into overlapping chunks: no word is lost or doubled where it must not be."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.annotations import seeks_file
from swwatch.data.seek_jsonl import SeekFile
from swwatch.data.turns.chunker import chunks, main
from swwatch.data.turns.transcript import Transcript, by_turn, text_of
from swwatch.errors import UserError, run

rows = st.lists(
    st.tuples(st.floats(0, 90), st.floats(0, 90), st.text("abc", min_size=1, max_size=2)).map(list), max_size=60
)


def talk(seconds: int, per_second: int = 3) -> list[list]:
    return [[i / per_second, (i + 0.9) / per_second, f"w{i}"] for i in range(seconds * per_second)]


def test_chunks_are_24_seconds_every_12_with_all_that_was_said_before():
    found = list(chunks(Transcript.read(talk(60)), 60))
    assert [(c.start_s, c.end_s) for c in found] == [(0, 24), (12, 36), (24, 48), (36, 60)]
    assert found[0].previous == "" and found[1].previous == " " + text_of(Transcript.read(talk(12)).words)
    assert all(len(c.words) == 72 for c in found)


def test_silent_chunks_are_left_out_and_a_short_end_needs_as_many_words():
    quiet = [row for row in talk(60) if not 12 < row[1] <= 36]
    assert [c.start_s for c in chunks(Transcript.read(quiet), 60)] == [36]
    assert [(c.start_s, c.end_s) for c in chunks(Transcript.read(talk(30)), 30)] == [(0, 24), (12, 30)]
    assert [c.start_s for c in chunks(Transcript.read(talk(30)), 30, min_words=60)] == [0]


@given(rows, st.sampled_from([(24.0, 12.0), (10.0, 0.0), (7.0, 3.0)]))
def test_words_of_a_chunk_and_before_it_are_all_words_up_to_its_end(rows, sizes):
    transcript, (window, overlap) = Transcript.read(rows), sizes
    found = list(chunks(transcript, 90.0, window_s=window, overlap_s=overlap, min_words=0))
    for chunk in found:
        said = chunk.previous.split() + [word.text for word in chunk.words]
        assert Counter(said) == Counter(w.text for w in transcript.words if w.end_s <= chunk.end_s + 1e-6)
    assert found[-1].end_s == 90.0


@given(rows, st.lists(st.floats(0, 95), min_size=1, max_size=30).map(sorted))
def test_every_word_falls_to_one_turn_or_comes_too_late(rows, ends):
    words = Transcript.read(rows).words
    turns, late = by_turn(words, ends)
    assert [word for turn in turns for word in turn] + list(late) == list(words)
    for end, turn in zip(ends, turns, strict=True):
        assert all(word.end_s <= end + 1e-6 for word in turn)
    assert all(word.end_s > ends[-1] for word in late)


def test_words_that_begin_behind_their_end_are_mended_and_counted_and_others_refused():
    transcript = Transcript.read([[2.0, 1.0, " a "], [0, 0.5, "b"], [0, 1, "  "]])
    assert transcript.mended == 1 and [word.text for word in transcript.words] == ["b", "a"]
    with pytest.raises(UserError, match=r"word 0: \[1, 2\]"):
        Transcript.read([[1, 2]])
    with pytest.raises(UserError, match="times that are none"):
        Transcript.read([[float("nan"), 2, "a"]])


@pytest.mark.parametrize("seeks", ["beside", "last-line"])
def test_the_command_writes_conversations_and_their_offsets(tmp_path, capsys, seeks):
    source, out = tmp_path / "talk.jsonl", tmp_path / "train_with_seeks.jsonl"
    source.write_text(json.dumps({"video": "a.mp4", "title": "Cup", "content": talk(40), "duration": 40}) + "\n\n")
    assert main([str(source), str(out), "--seeks", seeks, "--query", "Go"]) == 0
    assert "3 chunks of 1 videos" in capsys.readouterr().out
    text = out.read_bytes()
    offsets = json.loads(seeks_file(out).read_text() if seeks == "beside" else text.splitlines()[-1])
    assert seeks_file(out).name == "train_seeks.jsonl" and len(offsets) == 3
    user, assistant = json.loads(text[offsets[1] :].split(b"\n")[0])
    video, question = user["content"]
    assert video == {"type": "video", "video": "a.mp4", "video_start": 12.0, "video_end": 36.0}
    assert question["text"] == "Go" and question["title"] == "Cup" and question["previous"].startswith(" w0 w1")
    assert assistant["content"][0]["text_stream"][0] == [36 / 3, 36.9 / 3, "w36"]


def test_offsets_of_an_earlier_file_of_the_same_name_do_not_outlive_it(tmp_path):
    source, out = tmp_path / "talk.jsonl", tmp_path / "train.jsonl"
    for seconds, seeks in ((60, "beside"), (40, "last-line")):
        source.write_text(json.dumps({"video": "a.mp4", "content": talk(seconds)}))
        assert main([str(source), str(out), "--seeks", seeks]) == 0
    assert not seeks_file(out).exists() and len(SeekFile(out)) == 3


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path, small_disk, capsys):
    source, out = tmp_path / "talk.jsonl", small_disk(64 << 10) / "train.jsonl"
    source.write_text(json.dumps({"video": "a.mp4", "content": talk(2000)}))
    assert run(main, [str(source), str(out)]) == 2
    assert f"cannot write to {out.parent}: the disk is full" in capsys.readouterr().err
    assert not out.exists() and not list(out.parent.rglob("*.tmp"))


def test_mistakes_are_told(tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"video": "a"}\n')
    with pytest.raises(UserError, match="line 1"):
        main([str(bad), str(tmp_path / "out.jsonl")])
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(UserError, match="make it smaller"):
        list(chunks(Transcript.read(talk(3)), overlap_s=24.0))
    with pytest.raises(UserError, match="cannot read"):
        main([str(tmp_path / "none.jsonl"), str(tmp_path / "out.jsonl")])
