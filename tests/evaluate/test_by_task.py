"""FunQA's scores: each sub-task a corpus of its own, the mean over tasks and not over clips."""

import pytest

from swwatch.data.tasks import SUBTASKS
from swwatch.evaluate.caption.by_task import by_task, describe_tasks
from swwatch.evaluate.caption.scoring import describe, score
from swwatch.metrics import captions
from swwatch.metrics.captions import caption_scores
from swwatch.metrics.paper import COLUMNS

MEANT = ["a dog pushes the door", "the cat drinks from a glass", "a man turns into a bird", "two children swim away"]
SAID = ["a dog opens the door", "the cat drinks water", "a man becomes a bird", "two fish swim away"]


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


def rows(task, count=4, start=0):
    """`count` predictions of a task."""
    numbers = range(start, start + count)
    return [
        {"video_id": f"{task}-{i}", "annotation": MEANT[i % 4], "result": SAID[(i + start) % 4], "task": task}
        for i in numbers
    ]


def texts(predictions):
    return ({row["video_id"]: row[field] for row in predictions} for field in ("result", "annotation"))


def corpus_of(predictions):
    return caption_scores(*texts(predictions))["corpus"]


def test_every_sub_task_is_scored_as_a_corpus_of_its_own():
    predictions = [row for n, task in enumerate(SUBTASKS) for row in rows(task, 2 + n)]
    scores = by_task(predictions[::-1])
    assert list(scores) == [*SUBTASKS, "mean"]
    for task in SUBTASKS:
        alone = corpus_of([row for row in predictions if row["task"] == task])
        assert scores[task]["num_clips"] == sum(row["task"] == task for row in predictions)
        assert scores[task]["corpus"]["CIDEr"] == pytest.approx(alone["CIDEr"])
        assert scores[task]["corpus"]["BLEU-1"] == pytest.approx(alone["BLEU-1"])
    clips = caption_scores(*texts(predictions))["per_clip"]
    together = sum(clips[f"H2-{i}"]["CIDEr"] for i in range(2)) / 2
    assert scores["H2"]["corpus"]["CIDEr"] != pytest.approx(together), "CIDEr's weights are those of the task"


def test_the_mean_is_over_tasks_whatever_their_sizes():
    good = [row | {"result": row["annotation"]} for row in rows("H2", 8)]
    bad = [row | {"result": "nothing"} for row in rows("M3", 2)]
    scores = by_task(good + bad)
    assert (scores["H2"]["corpus"]["ROUGE-L"], scores["M3"]["corpus"]["ROUGE-L"]) == (1, 0)
    assert scores["mean"]["corpus"]["ROUGE-L"] == 0.5 and scores["mean"]["num_clips"] == 10


def test_missing_tasks_are_named_and_the_table_says_that_it_is_not_the_papers_mean():
    scores = by_task(rows("H2") + rows("C3"))
    assert scores["mean"]["missing"] == ["H3", "C2", "M2", "M3"] and scores["mean"]["num_tasks"] == 2
    text = "\n".join(describe_tasks("group", scores, "group"))
    assert "H2 (4 clips)" in text and "group, here, mean of 2" in text and "lacks H3, C2, M2, M3" in text
    whole = by_task([row for task in SUBTASKS for row in rows(task)])
    assert whole["mean"]["missing"] == [] and "lacks" not in "\n".join(describe_tasks("group", whole, "group"))


def test_a_metric_that_one_task_lacks_has_no_mean_and_says_why():
    mean = by_task(rows("H2") + rows("H3"))["mean"]["corpus"]
    assert mean["METEOR"]["value"] is None and "java" in mean["METEOR"]["why"] and "H2" in mean["METEOR"]["why"]
    given = {row["video_id"]: {"BLEURT": 0.5} for row in rows("H2")} | {"H3-0": {"BLEURT": 0.9}}
    scores = by_task(rows("H2") + rows("H3"), given)
    assert scores["H2"]["corpus"]["BLEURT"] == 0.5 and "BLEURT" not in scores["H3"]["corpus"]
    assert scores["mean"]["corpus"]["BLEURT"] == {"value": None, "why": "H3: no value for every clip"}


def test_metrics_computed_per_clip_elsewhere_are_averaged_within_each_task():
    given = {"H2-0": {"BLEURT": 0.2}, "H2-1": {"BLEURT": 0.4}, "M2-0": {"BLEURT": 0.9}}
    scores = by_task(rows("H2", 2) + rows("M2", 1), given)
    assert scores["H2"]["corpus"]["BLEURT"] == pytest.approx(0.3)
    assert scores["mean"]["corpus"]["BLEURT"] == pytest.approx(0.6)


def test_predictions_of_other_tasks_have_no_sub_tasks():
    assert by_task([row | {"task": "3_5"} for row in rows("x")]) == {}
    assert "by_task" not in score([row | {"task": "3_5"} for row in rows("x")])
    mixed = by_task([row | {"task": "3_5"} for row in rows("x")] + rows("M2"))
    assert list(mixed) == ["M2", "mean"]


def test_a_row_without_a_reference_does_not_count():
    assert by_task([*rows("H2"), {"video_id": "H2-9", "result": "a dog", "task": "H2"}])["H2"]["num_clips"] == 4


def test_the_report_shows_each_sub_task_and_the_papers_mean_and_no_rows_of_pe_video():
    predictions = [row for task in SUBTASKS for row in rows(task)]
    report = score(predictions)
    assert list(report["by_task"]) == [*SUBTASKS, "mean"]
    text = describe(report, "group", 0)
    assert all(f"{task} (4 clips)" in text for task in SUBTASKS)
    paper = next(line for line in text.splitlines() if line.startswith("group, paper 3B"))
    assert paper.split()[-len(COLUMNS) :] == ["3.22", "31.32", "3.32", "21.82", "18.96", "41.16", "4.13"]
    assert "paper 7B" not in text
