"""What is compared: texts of segments and clips, segments of games, and rows of generation files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.commentary import games
from swwatch.evaluate.commentary.events import read_events, read_predictions
from swwatch.evaluate.commentary.texts import Utterance, has_words, joined, text_between
from tests.helpers.toy_game import words_between, write_rows


def test_a_segment_has_the_turns_that_end_behind_its_start_and_no_later_than_its_end():
    items = [Utterance(str(end), end - 1, end) for end in (1099.0, 1100.0, 1100.9, 1101.0, 1200.0, 1200.9, 1201.0)]
    assert text_between(items, 1100, 1200) == "1101.0 1200.0 1200.9"
    assert text_between(items, 1000, 1100) == "1099.0 1100.0 1100.9"
    assert text_between(items, 1300, 1400) == ""


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 9))
def test_segments_that_follow_one_another_share_no_turn_and_lose_none(ends, length):
    items = [Utterance(f"w{i}", end - 1.0, end + 0.5) for i, end in enumerate(ends)]
    parts = [text_between(items, start, start + length).split() for start in range(0, 60, length)]
    assert sorted(sum(parts, [])) == sorted(item.response for item in items)


def test_turns_become_one_text_with_one_ending():
    said = ["He shoots ...", " ...", "", "and scores", "...", "wait... no ..."]
    assert joined(said) == "He shoots and scores wait... no"
    assert joined(said, ending="...") == "He shoots and scores wait... no..."
    assert joined([" ...", ""], ending="...") == "..." and not has_words("...") and not has_words(" ...\n")
    assert has_words("2") and has_words("ну")


def test_games_are_cut_where_enough_is_said(tmp_path):
    words = words_between(950, 1100, 2.0) + words_between(1100, 1200, 1.9) + words_between(1200, 1250, 9.0)
    words[-1] = [words[-1][1], words[-1][0], "last"]  # start behind end
    path = write_rows(tmp_path / "eval.jsonl", [{"video": "a.mp4", "content": words}])
    (game,) = games.read_games(path)
    assert game.transcript.mended == 1
    segments = games.segments_of([game])
    assert [(segment.start_s, segment.end_s, len(segment.words)) for segment in segments] == [
        (1000, 1100, 200),
        (1200, 1300, 450),
    ]
    assert segments[0].key == "a.mp4:1000-1100"
    assert not games.segments_of([game], start_s=2000)


def test_segments_may_come_cut_already(tmp_path):
    rows = [
        {"video": "a.mp4", "title": "Final", "content": words_between(1000, 1100, 2.0)},
        {"video": "a.mp4", "content": words_between(1100, 1150, 2.0)},
        {"video": "a.mp4", "start": 1200, "end": 1300, "content": words_between(1201, 1299, 3.0)},
    ]
    rows[0]["content"][3] = [1002.0, 1001.0, "mended"]
    found, mended = games.read_segments(write_rows(tmp_path / "cut.jsonl", rows))
    assert mended == 1 and [(part.title, part.start_s) for part in found] == [("Final", 1000.0), ("", 1200.0)]
    assert 1099 < found[0].end_s < 1100 and found[1].end_s == 1300


def row(start, ends, said="x", video="a.mp4"):
    items = [{"response": f"{said}{end}", "start_time": end - 1, "end_time": end} for end in ends]
    return {"video": video, "chunk_start": start, "chunk_end": max(ends, default=start), "items": items}


def test_rows_become_one_a_video_and_the_longest_of_equal_starts_counts(tmp_path):
    rows = [row(1100, [1101, 1102]), row(1000, [1001]), row(1000, [1001, 1002]), row(5, [6], video="b.mp4")]
    rows[0]["items"][1] = {"text": "x1102", "end_time": 1102}  # as other programs may write it
    rows += [row(1001, [1002, 1003], said="late")]  # overlaps: what is there already counts
    path = write_rows(tmp_path / "out.jsonl", rows)
    said = games.read_said(path)
    assert [item.response for item in said["a.mp4"]] == ["x1001", "x1002", "late1003", "x1101", "x1102"]
    assert [item.response for item in said["b.mp4"]] == ["x6"]
    rows = [games.row_of(one | {"video": f"NBA/{one['video']}"}, "here") for one in rows]
    assert [(one["video"], one["chunk_start"], one["chunk_end"]) for one in games.merged(rows)] == [
        ("a.mp4", 1000, 1102),
        ("b.mp4", 5, 6),
    ]


def test_predictions_of_others_are_read_whatever_they_call_the_text(tmp_path):
    rows = [{"video_id": "a", "event_id": 1, "pred": "x"}, {"video_id": "a", "event_id": "2", "response": None}]
    assert read_predictions(write_rows(tmp_path / "p.jsonl", rows)) == {"a_1": "x", "a_2": ""}
    with pytest.raises(UserError, match="another text"):
        read_predictions(write_rows(tmp_path / "q.jsonl", [rows[0], rows[0] | {"pred": "y"}]))


EVENT = {"video": "a.mp4", "video_id": "a", "event_id": 0, "begin": 1, "end": 12.5, "event_title": "T"}
EVENT |= {"preasr_text": None, "event_asr_text": "said"}


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_events_come_in_the_public_forms(tmp_path, ending):
    path, rows = tmp_path / f"events.{ending}", [EVENT, EVENT | {"event_id": 1, "preasr_text": " before "}]
    if ending == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text(json.dumps(rows) if ending == "json" else "\n".join(map(json.dumps, rows)))
    events = read_events(path)
    assert [(event.key, event.previous) for event in events] == [("a_0", ""), ("a_1", "before")]
    assert (events[0].video, events[0].begin_s, events[0].end_s, events[0].reference) == ("a.mp4", 1, 12.5, "said")


def test_mistakes_in_files_are_told(tmp_path):
    with pytest.raises(UserError, match="lasts from 5 to 5"):
        read_events(write_rows(tmp_path / "e.jsonl", [EVENT | {"begin": 5, "end": 5}]))
    with pytest.raises(UserError, match="stand there twice"):
        read_events(write_rows(tmp_path / "f.jsonl", [EVENT, EVENT]))
    with pytest.raises(UserError, match="stands there twice"):
        games.read_games(write_rows(tmp_path / "g.jsonl", [{"video": "a", "content": []}] * 2))
    with pytest.raises(UserError, match="no list content"):
        games.read_games(write_rows(tmp_path / "h.jsonl", [{"video": "a"}]))
    with pytest.raises(UserError, match="not a row of a generation file"):
        games.read_said(write_rows(tmp_path / "i.jsonl", [{"video": "a", "items": [{"response": "x"}]}]))
    with pytest.raises(UserError, match="swwatch commentary generate"):
        games.read_said(tmp_path / "none.jsonl")
