"""Accuracies as each benchmark averages them, beside what guessing gives."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.quiz import command, tasks
from swwatch.evaluate.quiz.page import describe, summarize


def rows_of(*parts) -> list[dict]:
    """(group, right answers, questions, choices) -> rows, each about a video of its own."""
    rows = []
    for group, right, count, choices in parts:
        for i in range(count):
            letters = list("ABCDEFGHIJ"[:choices])
            row = {"video": f"{group}{i}", "group": group, "tags": [], "choices": letters, "answer": "A"}
            rows.append(row | {"correct": i < right})
    return rows


def test_questions_groups_and_modes_are_averaged_as_the_task_says():
    rows = rows_of(("short", 4, 8, 4), ("long", 2, 2, 2))
    report = summarize(rows, tasks.get("videomme"), 12, 2)
    assert report["accuracy"] == pytest.approx(6 / 10) and report["guessing"] == pytest.approx((8 / 4 + 2 / 2) / 10)
    assert {name: row["accuracy"] for name, row in report["groups"].items()} == {"short": 0.5, "long": 1.0}
    by_task = summarize(rows, tasks.get("mvbench"), 10, 0)
    assert by_task["accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert by_task["guessing"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    rows = rows_of(("OCR", 1, 2, 4), ("ATR", 4, 4, 4), ("EPM", 0, 3, 4), ("REC", 1, 10, 10), ("CRR", 3, 4, 2))
    report = summarize(rows, tasks.get("ovobench"), len(rows), 0)
    modes = {name: row["accuracy"] for name, row in report["modes"].items()}
    assert modes == pytest.approx({"real-time": (1 / 2 + 1) / 2, "backward": 0, "forward": (0.1 + 0.75) / 2})
    assert report["accuracy"] == pytest.approx(sum(modes.values()) / 3)
    assert report["guessing"] == pytest.approx((1 / 4 + 1 / 4 + (1 / 10 + 1 / 2) / 2) / 3)


def test_an_answer_that_cannot_be_said_cannot_be_guessed():
    rows = rows_of(("REC", 0, 2, 10))
    rows[1]["answer"] = "12"
    assert summarize(rows, tasks.get("ovobench"), 2, 0)["guessing"] == pytest.approx((0.1 + 0) / 2)


def test_questions_about_one_video_rise_and_fall_together():
    apart = rows_of(("What", 20, 40, 4))
    joined = [row | {"video": row["video"][:5] if row["correct"] else "x" + row["video"][:5]} for row in apart]
    wide, narrow = (summarize(rows, tasks.get("livesports"), 40, 0) for rows in (joined, apart))
    assert wide["accuracy"] == narrow["accuracy"] == 0.5
    assert wide["num_videos"] < narrow["num_videos"] == 40

    def width(report):
        return report["ci95"][1] - report["ci95"][0]

    assert width(wide) > 1.5 * width(narrow) and narrow["ci95"][0] < 0.5 < narrow["ci95"][1]


def test_one_video_alone_has_no_interval():
    rows = [row | {"video": "v"} for row in rows_of(("What", 2, 4, 4))] + rows_of(("Who", 1, 2, 4))
    report = summarize(rows, tasks.get("livesports"), 6, 0)
    assert report["groups"]["What"]["ci95"] is None and report["groups"]["Who"]["ci95"] == [0.0, 1.0]
    assert "| What | 50.0 | - | 25.0 | 4 |" in describe(report)


def test_tags_count_the_questions_that_carry_them_in_the_table_too():
    rows = rows_of(("What", 1, 2, 4), ("Who", 1, 2, 4))
    rows[0]["tags"] = rows[1]["tags"] = ["OCR"]
    report = summarize(rows, tasks.get("livesports"), 5, 1)
    assert report["tags"]["OCR"]["num_questions"] == 2
    lines = describe(report).splitlines()
    assert "| **all questions** | 50.0 |" in "\n".join(lines)[:400] and any(
        line.startswith("| OCR | 50.0 |") for line in lines
    )
    assert "4 of 5 questions about 4 videos answered, 1 skipped" in lines[-1]


def test_nothing_to_count_is_told():
    with pytest.raises(UserError, match="no answer to count"):
        summarize([], tasks.get("videomme"), 3, 3)


@pytest.mark.parametrize(
    ("file", "told", "words"),
    [
        ("livesports.jsonl", {"correct": "yes"}, "q0 correct: true or false is wanted, not 'yes'"),
        ("livesports.jsonl", {"group": "\ud800"}, "q0 group: .* holds half a character"),
        ("livesports.jsonl", {"when": "late"}, "q0: no due_s"),
        ("livesports.jsonl", {"num_frames": 10**400}, "q0 num_frames: a whole number is wanted"),
        ("livesports_run.json", {"settings": []}, "run.json settings: NAME: VALUE is wanted"),
        ("livesports_run.json", {"about": {"num_items": "3"}}, "num_items: a whole number is wanted"),
        ("livesports_trace.jsonl", {"took_s": None}, "trace.jsonl took_s: a number is wanted"),
        ("livesports_judge.json", {"scales": {}}, "judge.json: no model"),
    ],
)
def test_damaged_files_are_told_and_not_counted(tmp_path, file, told, words):
    row = {"video_id": "q0", **rows_of(("What", 1, 1, 4))[0]}
    files = {"livesports.jsonl": row, "livesports_trace.jsonl": {"video_id": "q0", "took_s": 1.0}}
    files |= {"livesports_run.json": {}, "livesports_judge.json": {}}
    for name, content in files.items():
        content = {**content, **(told if name == file else {})}
        (tmp_path / name).write_text(json.dumps(content) + "\n")
    with pytest.raises(UserError, match=words):
        command.main(["livesports", "--report", "--output-dir", str(tmp_path)])
