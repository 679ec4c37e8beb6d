"""What is asked of toy clips: the answers, worked by hand and from the pictures, and the files that hold them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.data.annotations import parse_line
from swwatch.data.seek_jsonl import parse_conversation
from swwatch.data.timed import captions_of
from swwatch.data.turns.conversation import TimedQuestion, asked_of, read
from swwatch.errors import UserError
from swwatch.evaluate.quiz import tasks
from swwatch.toy.clips import Recipe, write_dataset
from swwatch.toy.levels import WORLDS
from swwatch.toy.questions import DESCRIBE, KINDS, STREAM_S, ask, at_the_end, questions_of, write_questions
from swwatch.toy.world import SceneEvent, make_scene

EVENTS = [
    SceneEvent("red", "circle", "left", start_s=0, end_s=2),
    SceneEvent("blue", "square", "up", start_s=2, end_s=4),
    SceneEvent("red", "triangle", "down", start_s=9, end_s=11),
    SceneEvent("green", "circle", "right", start_s=20, end_s=22),
]


def answers(kind, color="red", num=3):
    return KINDS[kind].answer(EVENTS[:num], color)


def test_answers_by_hand():
    assert [answers(kind) for kind in ("colour now", "shape now", "way now")] == ["red", "triangle", "down"]
    assert (answers("first colour"), answers("third colour"), answers("last colour", num=2)) == ("red", "red", "blue")
    assert [answers("how many", color) for color in ("red", "blue", "green")] == ["2", "1", "0"]
    assert KINDS["how many"].answer(EVENTS[:1] * 7, "red") == "4 or more"


worlds = st.sampled_from(["basics", "still", "count"])


def asked_of_scene(level, index, seed):
    """(question, its kind, the events that are over when it is asked, the colour that it names or "") of each."""
    events = make_scene(1, index, level=level).events
    for question in ask(events, WORLDS[level].asks, seed):
        over = [event for event in events if event.end_s <= question.at_s]
        color = next((word for word in question.text.rstrip("?").split() if word in KINDS["colour now"].options), "")
        yield question, KINDS[question.kind], over, color


@given(worlds, st.integers(0, 200), st.integers(0, 200))
def test_a_question_is_about_nothing_that_comes_later(level, index, seed):
    """With the events that are over when it is asked, and no others, it has the same answer."""
    for question, kind, over, color in asked_of_scene(level, index, seed):
        assert question.answer == kind.answer(over, color) and question.answer in question.options
        assert kind.at_end == (over[-1].end_s == question.at_s) or not any(WORLDS[level].pause_s)


@given(worlds, st.integers(0, 50))
def test_what_is_asked_now_is_on_display_then(level, index):
    events = make_scene(2, index, level=level).events
    for question in ask(events, WORLDS[level].asks, index):
        if question.kind.endswith(" now"):
            (event,) = [event for event in events if event.start_s < question.at_s <= event.end_s]
            assert question.answer in (event.color, event.shape, event.direction)


def test_files_are_read_by_the_quiz_with_the_same_answers(tmp_path):
    write_dataset(tmp_path, Recipe(0, 2, 3, "basics"))
    path, *_ = write_questions(tmp_path)
    items = tasks.get("streamingbench").items(path)
    records = [json.loads(file.read_text()) for file in sorted((tmp_path / "PE-Video/test").glob("*.json"))]
    questions = [question for record in records for question in questions_of(record)]
    assert len(items) == len(questions) > 0
    for item, question in zip(items, questions, strict=True):
        assert (item.group, item.end_s) == (question.kind, question.at_s)
        assert f"{item.answer}. {question.answer}" in item.prompt
        assert item.locate(tmp_path).is_file()


def conversations(path):
    return [read(parse_conversation(line)) for line in path.read_bytes().splitlines()]


def test_files_to_train_on_hold_the_answers_in_a_word(tmp_path):
    write_dataset(tmp_path, Recipe(2, 0, 3, "count"))
    _, chat, asked, noted, watched, timed = write_questions(tmp_path)
    records = [json.loads(file.read_text()) for file in sorted((tmp_path / "PE-Video/train").glob("*.json"))]
    for record, talk, stream in zip(records, conversations(chat), conversations(asked), strict=True):
        told = {content[-1]: answer for content, answer in talk.turns}
        assert told.pop(DESCRIBE) == record["human_caption"]
        assert told == {question.text: question.word for question in at_the_end(record)} and len(told) == 7
        assert stream.words == () and 3 < len(stream.questions) <= 2 * len(WORLDS["count"].asks)
        times = [row.time_s for row in stream.questions]
        assert sorted(set(times)) == times and times[-1] <= STREAM_S
        for row in stream.questions:
            events = [SceneEvent(**event) for event in record["events"] if event["end_s"] <= row.time_s]
            if row.question == KINDS["third colour"].text:
                assert row.answer == events[2].color
    for record, stream, line in zip(records, conversations(noted), watched.read_bytes().splitlines(), strict=True):
        notes = {word.end_s: word.text for word in stream.words}
        assert notes == {
            event["end_s"]: SceneEvent(**event).words() for event in record["events"] if event["end_s"] <= 24
        }
        assert stream.ends_s[:2] == (8, 16) and stream.ends_s[-1] == max(notes)
        narration = parse_line(line)
        assert [TimedQuestion(*row[1:]) for row in narration["qa_stream"]] == list(asked_of(narration))
        assert len(narration["thoughts"]) == len(record["events"]) > len(notes)
    for record, line in zip(records, timed.read_bytes().splitlines(), strict=True):
        captions = captions_of(parse_line(line))
        assert captions == [(event["end_s"], SceneEvent(**event).words()) for event in record["events"]]


@given(worlds, st.integers(0, 200), st.integers(0, 200))
def test_who_remembers_what_an_answer_is_about_would_say_the_same(level, index, seed):
    for question, kind, over, color in asked_of_scene(level, index, seed):
        known = [event for event in over if event.end_s >= question.since_s]
        assert kind.answer(known, color) == question.answer
        less = [event for event in over if event.end_s > question.since_s]
        assert len(less) < kind.least or kind.answer(less, color) != question.answer


def test_clips_of_a_level_that_is_no_world_are_refused(tmp_path):
    write_dataset(tmp_path, Recipe(0, 1, 3, "single"))
    with pytest.raises(UserError, match="one of basics, still, count, ten_minutes"):
        write_questions(tmp_path)
