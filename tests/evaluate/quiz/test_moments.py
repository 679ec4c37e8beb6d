"""Questions about when: polled and unasked, early, in time, late and never."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.evaluate.quiz import command, tasks
from swwatch.evaluate.quiz.asking import Answered
from swwatch.evaluate.quiz.items import Item, Moment
from swwatch.evaluate.quiz.itself import Itself, first_time
from swwatch.evaluate.quiz.page import describe, summarize
from swwatch.evaluate.quiz.rounds import ask_all, moments, says, when
from swwatch.evaluate.quiz.tasks import Form
from swwatch.evaluate.run_files import read_lines

MOMENT = Moment(asked_s=10, due_s=15, last_s=19)
ITEM = Item("k", "v", ("v.mp4",), "Now?", ("No", "Yes"), "Yes", "g", end_s=19.0, moment=MOMENT)


def asked(moment: Moment, yes_at: float, step_s: float = 1.0) -> tuple[Answered, list[tuple[float, str]]]:
    """The answer of a model that says yes from a second on, and what it was asked when."""
    seen = []

    def ask(item: Item) -> Answered:
        seen.append((item.end_s, item.prompt))
        said = "red" if item.prompt == "What?" else "Yes." if item.end_s >= yes_at else "No"
        return Answered(said, {}, {}, 2, (0, item.end_s), took_s=0.5)

    return ask_all(replace(ITEM, moment=moment), ask, step_s, Form()), seen


@given(st.floats(0.25, 4), st.floats(8, 25))
def test_it_is_asked_at_every_time_up_to_the_first_yes_and_nothing_later(every_s, yes_at):
    got, seen = asked(replace(MOMENT, every_s=every_s), yes_at)
    times = [at_s for at_s, _ in seen]
    assert times[0] == min(10 + every_s, 19) and times == sorted(times) and times[-1] <= 19
    assert all(at_s < yes_at for at_s in times[:-1])
    said_s = got.more["said_s"]
    assert said_s == (times[-1] if times[-1] >= yes_at else None) and (said_s is not None or times[-1] == 19)
    assert got.more["num_asked"] == len(times) and got.took_s == 0.5 * len(times)


def test_what_there_is_to_say_is_asked_once_and_then():
    got, seen = asked(replace(MOMENT, then="What?", output="red"), 14)
    assert seen[-2:] == [(14, "Now?"), (14, "What?")] and got.said == "red" and got.more["when"] == "in time"
    never, seen = asked(replace(MOMENT, then="What?"), 99)
    assert all(prompt == "Now?" for _, prompt in seen) and never.said == "" and never.more["when"] == "never"
    _, seen = asked(replace(MOMENT, asked_s=0), 99, step_s=4)
    assert seen[0][0] == 4, "nothing is asked before a step is over"


def test_an_error_in_the_place_of_an_answer_ends_it():
    told = UserError("too early")
    assert ask_all(ITEM, lambda item: told, 1.0, Form()) is told


@pytest.mark.parametrize(
    ("said_s", "told"),
    [(None, "never"), (12.9, "early"), (13, "in time"), (17, "in time"), (17.1, "late")],
)
def test_two_seconds_around_the_moment_are_in_time(said_s, told):
    assert when(MOMENT, said_s) == told


@pytest.mark.parametrize(
    ("text", "word", "told"),
    [
        ("Yes", "yes", True),
        ("yes, now", "yes", True),
        ("yesterday", "yes", False),
        ("No", "yes", False),
        ("3", "2", True),
        ("1 so far", "2", False),
        ("1, now 2", "2", True),
        ("none", "1", False),
    ],
)
def test_a_word_or_a_count_says_that_it_is_time(text, word, told):
    assert says(text, word) == told


def test_words_of_a_model_that_speaks_by_itself_count_from_when_they_are_wanted():
    spoken = [(9.0, "Yes"), (11.0, "It is "), (12.0, "red"), (16.0, " yes")]
    assert first_time(MOMENT, spoken) == 16
    assert first_time(replace(MOMENT, output="red"), spoken) == 11
    assert first_time(MOMENT, spoken[:3]) is None
    assert first_time(replace(MOMENT, output="red"), [(11.0, " "), (12.0, "")]) is None


def test_moments_are_told_apart_by_group_with_how_late_they_came():
    def row(group: str, said_s: float | None) -> dict:
        told = {"said_s": said_s, "due_s": 15, "when": when(MOMENT, said_s)}
        facts = {"video": f"{group}{said_s}", "group": group, "choices": [], "answer": "yes"}
        return told | facts | {"correct": told["when"] == "in time"}

    rows = [row("SSR", said_s) for said_s in (None, 11, 15, 18)] + [row("CRR", None)]
    found = moments(rows)
    assert [found["SSR"][name] for name in ("never", "early", "in time", "late")] == [0.25] * 4
    assert found["SSR"]["median_late_s"] == 0 and found["CRR"]["median_late_s"] is None
    report = summarize(rows, tasks.get("ovobench-moments"), 5, 0)
    assert report["accuracy"] == pytest.approx((0.25 + 0) / 2) and report["guessing"] is None
    table = describe(report)
    assert "| SSR | 25.0 | 25.0 | 25.0 | 25.0 | +0.0 | 4 |" in table
    assert "| CRR | 100.0 | 0.0 | 0.0 | 0.0 | - | 1 |" in table


def test_forward_records_of_ovobench_are_moments(tmp_path):
    records = [
        {"task": "REC", "activity": "jump", "start_times": [2, 9], "end_times": [6, 17]},
        {"task": "SSR", "all_steps": ["b", "a"], "start_time": [31, 25], "end_time": [49, 30]},
        {"task": "CRR", "question": "Why?", "ask_time": 7, "clue_time": 8, "test_info": [{"realtime": 38, "type": 1}]},
        {"task": "EPM", "realtime": 215},
    ]
    path = tmp_path / "ovo.json"
    path.write_text(json.dumps([{"id": i, "video": "a.mp4"} | record for i, record in enumerate(records)]))
    items = tasks.get("ovobench-moments").items(path)
    times = {item.key: (item.moment.asked_s, item.moment.due_s, item.moment.last_s) for item in items}
    assert times == {"0/1": (0, 6, 10), "0/2": (6, 17, 21), "1/0": (0, 25, 30), "1/1": (25, 31, 49), "2/0": (7, 8, 38)}
    assert [item.moment.word for item in items] == ["1", "2", "yes", "yes", "yes"]
    assert (
        items[3].moment.instruction.startswith("One of the steps of this video is: b.") and "\nb\n" in items[3].prompt
    )
    records[1]["end_time"] = [30]
    path.write_text(json.dumps([{"id": 1, "video": "a.mp4"} | records[1]]))
    with pytest.raises(UserError, match="2 steps begin 2 and end 1 times"):
        tasks.get("ovobench-moments").items(path)


@pytest.mark.parametrize("more", [[], ["--streaming", "--variant", "livecc"], ["--unasked", "--variant", "livecc"]])
def test_a_record_asked_after_its_clue_is_counted_and_listed(quiz, videos_of, tiny_checkpoint, tmp_path, more):
    records = json.loads(quiz["ovobench-moments"].read_text())
    clue = next(record for record in records if record["task"] == "CRR")
    late = clue | {"id": 999, "ask_time": clue["clue_time"] + 1}
    data = tmp_path / "ovo.json"
    data.write_text(json.dumps([late, clue]))
    flags = ["ovobench-moments", "--data", data, "--videos", videos_of("ovobench-moments"), "--model", tiny_checkpoint]
    flags += ["--device", "cpu", "--output-dir", tmp_path, "--output-file", "it.jsonl", *more]
    with pytest.raises(UserError, match="1 of 2 clips cannot be read, more than --max-bad-fraction 0.01"):
        command.main([str(flag) for flag in flags])
    command.main([*map(str, flags), "--max-bad-fraction", "0.5"])
    (skipped,) = map(json.loads, (tmp_path / "it_skipped.jsonl").read_text().splitlines())
    assert skipped["video_id"] == "999/0" and "these must follow one another" in skipped["reason"]
    report = json.loads((tmp_path / "it_metrics.json").read_text())
    assert (report["num_items"], report["num_skipped"], report["num_questions"]) == (2, 1, 1)


def test_sequential_questions_have_the_true_answers_to_those_before(quiz):
    items = tasks.get("streamingbench-sqa").items(quiz["streamingbench-sqa"])
    first, second = items[:2]
    assert "At timestamp" not in first.prompt and "Options: A. red, B. green, C. blue, D. yellow; " in second.prompt
    assert f"Answer: {first.answer}; \n\nHere is the question." in second.prompt


@pytest.mark.parametrize(
    ("task", "more", "how"),
    [
        ("streamingbench-proactive", [], "whole clips (mrope_full), asked every 4 s"),
        ("ovobench-moments", ["--streaming", "--variant", "livecc"], "streaming as livecc (flush, mrope_full), asked"),
        ("streamingbench-proactive", ["--unasked", "--variant", "livecc"], "speaking by itself (livecc)"),
        (
            "ovobench-moments",
            ["--unasked", "--variant", "group", "--schedule", "wait-k:1", "--context", "2"],
            "speaking by itself (group, wait-k:1)",
        ),
    ],
)
def test_moments_are_measured_polled_and_unasked(quiz, videos_of, tiny_checkpoint, tmp_path, capsys, task, more, how):
    where = ["--data", quiz[task], "--videos", videos_of(task), "--model", tiny_checkpoint, "--output-dir", tmp_path]
    where = [task, *map(str, where), "--device", "cpu", "--max-count", "1", *more]
    every = [] if "--unasked" in more else ["--every", "4", "--min-pixels", "3136", "--total-pixels", "31360"]
    assert command.main([*where, *every]) == 0
    (path,) = tmp_path.glob("*_metrics.json")
    report = json.loads(path.read_text())
    assert report["settings"]["how"].startswith(how)
    assert sum(group["num_questions"] for group in report["moments"].values()) == 1
    rows = [row for _, row in read_lines(path.with_name(path.name.replace("_metrics.json", ".jsonl"))).values()]
    for row in rows:
        assert row["said_s"] is None or row["asked_s"] <= row["said_s"] <= row["last_s"]
        assert ("num_asked" in row) != ("--unasked" in more) and ("official" in row) == ("proactive" in task)
    assert "| said, % | never | early | in time | late |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "more", "told"),
    [
        ("livesports", ["--unasked"], "livesports asks nothing about when: leave --unasked out"),
        ("livesports", ["--every", "2"], "leave --every out"),
        ("streamingbench-proactive", ["--schedule", "wait-k:3"], "--schedule goes with --unasked"),
        ("streamingbench-proactive", ["--unasked", "--streaming"], "leave --streaming, --every"),
        ("streamingbench-proactive", ["--unasked", "--schedule", "nothing"], "nothing"),
    ],
)
def test_mistakes_about_moments_are_told(task, more, told):
    with pytest.raises(UserError, match=told):
        command.main([task, "--data", "x.json", "--model", "x/y", *more])


@pytest.mark.parametrize(
    ("variant", "told"), [("origin", "'origin' speaks when all is over"), ("vst", "when it is asked alone")]
)
def test_a_model_that_speaks_when_all_is_over_or_when_it_is_asked_is_not_waited_for(load_tiny, variant, told):
    with pytest.raises(UserError, match=told):
        Itself(load_tiny(variant), Form(), "")


def test_a_schedule_that_must_be_learned_is_refused_before_any_video(quiz, tiny_checkpoint, tmp_path):
    task = "streamingbench-proactive"
    flags = [task, "--data", quiz[task], "--model", tiny_checkpoint, "--device", "cpu", "--output-dir", tmp_path]
    with pytest.raises(UserError, match="never learned to speak by gate"):
        command.main([*map(str, flags), "--unasked", "--variant", "group", "--schedule", "gate"])
    assert not list(tmp_path.iterdir())
