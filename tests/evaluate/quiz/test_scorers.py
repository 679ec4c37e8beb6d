"""Replies: how they are made and what counts as right, by the benchmarks' own scorers and by the strict one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swwatch.errors import UserError
from swwatch.evaluate.quiz import command, frames, tasks
from swwatch.evaluate.quiz.asking import Plain
from swwatch.evaluate.quiz.page import describe, summarize
from swwatch.evaluate.quiz.scorers import first_letter, ovobench, strict
from swwatch.evaluate.quiz.streaming import Streaming
from swwatch.evaluate.run_files import read_lines
from tests.evaluate.quiz.test_asking import ITEM, LIVE, SMALL, noise, show  # noqa: F401 - a fixture

REPLY = replace(tasks.get("ovobench").form("official"), reply=3)


@pytest.mark.parametrize(
    ("reply", "answer", "generous", "exact", "begins"),
    [
        ("B", "B", True, True, True),
        ("B.", "B", True, True, True),
        ("(B)", "B", True, True, False),
        ("B. blue", "B", True, False, True),
        ("A or B", "B", True, False, False),
        ("A person", "A", True, False, True),
        ("b", "B", False, True, False),
        ("", "A", False, False, False),
        ("I have No idea, maybe Yes", "Yes", True, False, False),
        ("Y", "Yes", True, False, False),
        ("N", "No", True, False, False),
        ("yes", "Yes", False, True, False),
        ("Nothing", "No", True, False, False),
        ("3 of 4", "34", True, False, False),
        ("12", "12", True, True, False),
        ("12", "1", False, False, True),
    ],
)
def test_generous_scorers_and_the_strict_one_differ_where_a_reply_says_more(reply, answer, generous, exact, begins):
    assert ovobench(reply, answer) == generous
    assert strict(reply, answer) == exact
    assert first_letter(reply, answer) == (begins and len(answer) == 1)


def test_a_reply_is_what_step_by_step_forwards_choose(load_tiny, show):  # noqa: F811
    """Each token is the likeliest after a forward in which those before it stand as the answer's beginning."""
    loaded = load_tiny("origin")
    show(noise(8))
    asker, shown = Plain(loaded, REPLY, SMALL), frames.read_shown(ITEM, Path("v"), 480)
    text, logits, pieces = asker.reply(ITEM, shown)
    ids = list(pieces.values())
    for count, token in enumerate(ids):
        assert token == int(asker._read(ITEM, shown, tuple(ids[:count])).logits.argmax())
    assert len(ids) == 3 and logits == {} and text == loaded.tokenizer.decode(ids).strip()


def test_a_stream_replies_and_keeps_no_trace_of_it(load_tiny, show):  # noqa: F811
    show(noise(12))
    items = [replace(ITEM, key=str(end_s), end_s=float(end_s)) for end_s in (2, 4, 5)]
    made = Streaming(load_tiny("livecc"), REPLY, LIVE, choose="greedy:1")
    together = {item.key: got for item, got in made.answers(items, Path("v"))}
    alone = {item.key: got for each in items for item, got in made.answers([each], Path("v"))}
    assert together == alone and all(0 < len(got.tokens) <= 3 for got in together.values())
    assert together["2"].num_tokens < together["5"].num_tokens and together["5"].took_s > 0


def test_both_scorers_and_both_averages_stand_in_the_report_by_name():
    rows = [
        {"video": f"v{i}", "group": group, "choices": ["A", "B"], "answer": "A", "correct": i == 0, "official": i < 2}
        for group in ("EPM", "OCR", "REC")
        for i in range(4)
    ]
    report = summarize(rows, tasks.get("ovobench"), 12, 0, [0.5, 1.5])
    assert report["mean"] == "three modes" and report["seconds"] == 1
    assert list(report["averages"]) == ["three modes", "backward and real-time"]
    assert all((row["accuracy"], row["official"]) == (0.25, 0.5) for row in report["averages"].values())
    table = describe(report)
    assert "|  | strict | 95 % | official | 95 % | guessing | questions |" in table
    assert "| **three modes** | 25.0 |" in table and "| **backward and real-time** | 25.0 |" in table
    assert "25.0 / 50.0" in table
    part = summarize([row for row in rows if row["group"] != "REC"], tasks.get("ovobench"), 8, 0)
    assert list(part["averages"]) == ["three modes (without forward)", "backward and real-time"]


def test_two_runs_stand_in_one_table_with_how_they_were_asked(quiz, videos_of, tiny_checkpoint, tmp_path, capsys):
    where = ["--data", quiz["ovobench"], "--videos", videos_of("ovobench"), "--model", tiny_checkpoint]
    where = [*map(str, where), "--device", "cpu", "--min-pixels", "3136", "--total-pixels", "31360"]
    where += ["--output-dir", str(tmp_path), "--wording", "official", "--only", "EPM,ATR", "--max-count", "2"]
    assert command.main(["ovobench", *where]) == 0
    stream = ["--streaming", "--variant", "livecc", "--keep", "recent:4", "--context", "2"]
    assert command.main(["ovobench", *where, *stream]) == 0
    names = ("ovobench_official.jsonl", "ovobench_streaming_official_2s.jsonl")
    rows = [row for _, row in read_lines(tmp_path / names[1]).values()]
    assert {row["group"] for row in rows} == {"EPM", "ATR"} and all("official" in row for row in rows)
    assert all(row["seconds"][1] - row["seconds"][0] <= 2 for row in rows)
    capsys.readouterr()
    both = ["--output-file", names[0], "--beside", str(tmp_path / names[1])]
    assert command.main(["ovobench", "--report", "--output-dir", str(tmp_path), *both]) == 0
    table = (tmp_path / "ovobench_official_beside.md").read_text()
    assert table.strip() in capsys.readouterr().out
    whole, kept = table.strip().splitlines()[2:]
    version = tasks.get("ovobench").form("official").version
    assert version in whole and version in kept
    assert "| all | - |" in whole and "| 2 s | recent:4 |" in kept
    made = json.loads((tmp_path / "ovobench_official_run.json").read_text())
    assert made["settings"]["wording"]["prompts"] == tasks.get("ovobench").form("official").prompts
    assert "commit" in made["about"]


def test_what_a_model_without_ears_is_asked_is_refused_with_the_reason(tmp_path):
    options = ["A. x", "B. y"]
    asked = {"question": "?", "time_stamp": "00:00:09", "answer": "A", "options": options}
    kinds = ("Emotion Recognition", "Misleading Context Understanding", "Anomaly Context Understanding")
    rows = [{"video_path": f"./v/{i}.mp4", "questions": [asked | {"task_type": kind}]} for i, kind in enumerate(kinds)]
    path = tmp_path / "questions_omni.json"
    path.write_text(json.dumps(rows))
    task = tasks.get("streamingbench")
    with pytest.raises(
        UserError, match="1 of 3 questions are of Emotion Recognition: it asks about the sound"
    ) as caught:
        task.items(path)
    assert "--only 'Misleading Context Understanding','Anomaly Context Understanding'" in str(caught.value)
    assert [item.group for item in task.items(path, only=kinds[1:])] == list(kinds[1:])
    with pytest.raises(UserError, match="has no questions of 'Anomaly'"):
        task.items(path, only=["Anomaly"])


def test_logits_of_choices_are_not_scored_twice(load_tiny, show):  # noqa: F811
    show(noise(8))
    asker = Plain(load_tiny("origin"), tasks.get("ovobench").form(), SMALL)
    got = asker.answer(ITEM, Path("v"))
    assert got.said in ITEM.choices and got.num_tokens > 0
    assert torch.isfinite(torch.tensor(list(got.logits.values()))).all()
