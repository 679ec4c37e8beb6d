"""What the judge is asked and how replies are read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.judge.rubric import (
    Malformed,
    ask_again,
    compare_messages,
    fingerprint,
    grade_messages,
    load_rubric,
    read_choice,
    read_grade,
)

RUBRIC = load_rubric(JudgeSettings.rubric)
FLUENCY, NARRATION = RUBRIC.get("fluency"), RUBRIC.get("narration")


def text_of(messages):
    return "\n".join(message["content"] for message in messages)


@pytest.mark.parametrize(
    "reply",
    [
        '{"score": 4, "why": "good"}',
        '```json\n{"score": 4, "why": "good"}\n```',
        'Sure! Here is my verdict: {"score": 4, "why": "good"} I hope it helps {really}.',
        '{"why": "good", "score": 4.0}',
        '{"score": "4", "why": "good"}',
        '<think>A {"score": 2} at first sight.</think>\n{"score": 4, "why": "good"}',
        '{"score": 4, "why": "good"}\n{"score": 4, "why": "good"}',
        '{broken {"score": 4, "why": "good"}',
    ],
)
def test_a_grade_is_read_through_fences_prose_and_thoughts(reply):
    assert read_grade(reply) == (4, "good")


@pytest.mark.parametrize(
    "reply, problem",
    [
        ("", "empty"),
        ("4", "no JSON object"),
        ("score: 4", "no JSON object"),
        ('{"score": 4, "why": "goo', "no JSON object"),
        ("{'score': 4}", "no JSON object"),
        ('{"grade": 4}', "'score'"),
        ('{"score": {"score": 4}}', "whole number"),
        ('{"score": 0}', "0"),
        ('{"score": 6}', "6"),
        ('{"score": -1}', "-1"),
        ('{"score": 4.5}', "4.5"),
        ('{"score": "four"}', "four"),
        ('{"score": true}', "True"),
        ('{"score": null}', "None"),
        ('{"score": NaN}', "nan"),
        ('{"score": 1e999}', "inf"),
        ('{"score": [4]}', "whole number"),
        ('{"score": 4} or perhaps {"score": 3}', "differ"),
        ("{" * 20_000, "no JSON object"),
        ('{"score": ' + "[" * 15_000, "no JSON object"),
    ],
)
def test_what_is_no_grade_is_malformed_and_the_reason_told(reply, problem):
    with pytest.raises(Malformed, match=problem):
        read_grade(reply)


@given(st.text() | st.text(alphabet='{}[]":1score, '))
def test_any_reply_is_a_grade_or_malformed_and_nothing_else(reply):
    try:
        assert read_grade(reply)[0] in (1, 2, 3, 4, 5)
    except Malformed:
        pass


@pytest.mark.parametrize("word", ["first", "second", "tie", "First", " TIE "])
def test_a_choice_is_one_of_three_words(word):
    assert read_choice(json.dumps({"better": word, "why": "x"})) == (word.strip().lower(), "x")


@pytest.mark.parametrize("reply", ['{"better": "A"}', '{"better": 1}', '{"better": null}', '{"score": 3}', "first"])
def test_another_word_is_malformed(reply):
    with pytest.raises(Malformed):
        read_choice(reply)


def test_fluency_shows_the_caption_alone_and_names_all_five_grades():
    text = text_of(grade_messages(RUBRIC, FLUENCY, "A dog runs."))
    assert "<text>\nA dog runs.\n</text>" in text and "reference" not in text
    assert all(f"\n{grade}: {FLUENCY.grades[grade]}" in text for grade in (1, 2, 3, 4, 5))


def test_the_reference_is_shown_only_where_the_criterion_needs_it():
    assert "A cat." not in text_of(compare_messages(RUBRIC, FLUENCY, "one", "two", "A cat."))
    text = text_of(compare_messages(RUBRIC, NARRATION, "one", "two", "A cat."))
    assert text.index("A cat.") < text.index("<first>\none") < text.index("<second>\ntwo")


def test_captions_that_are_no_valid_unicode_can_be_sent():
    json.dumps(grade_messages(RUBRIC, FLUENCY, "a \ud83d dog"), ensure_ascii=False).encode()


def test_asking_again_is_another_question_each_time_and_keeps_the_first():
    first = grade_messages(RUBRIC, FLUENCY, "A dog runs.")
    again = [ask_again(first, "it is empty", attempt) for attempt in (1, 2)]
    assert len({text_of(m) for m in [first, *again]}) == 3
    assert all(text_of(m).startswith(text_of(first)) and "it is empty" in text_of(m) for m in again)


def test_the_fingerprint_follows_the_words(tmp_path):
    path = tmp_path / "rubric.yaml"
    path.write_text(JudgeSettings.rubric.read_text().replace("No error", "No mistake"))
    changed = load_rubric(path)
    prints = {fingerprint(grade_messages(r, r.get("fluency"), "x")) for r in (RUBRIC, RUBRIC, changed)}
    assert len(prints) == 2


def test_a_criterion_without_grades_is_not_for_one_run():
    with pytest.raises(UserError, match="--against"):
        grade_messages(RUBRIC, NARRATION, "x")
    with pytest.raises(UserError, match="fluency, narration"):
        RUBRIC.get("beauty")


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "system: x", "system: x\ncriteria: {a: {about: b, grades: {1: bad, 2: good}}}", "a: [", "criteria: 3"]
    + ["system: x\ncriteria: {a: {abuot: b}}", "system: x\ncriteria: {a: {about: 3}}"],
)
def test_what_is_no_rubric_is_an_error_that_names_the_file(tmp_path, text):
    path = tmp_path / "rubric.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="rubric.yaml"):
        load_rubric(path)
