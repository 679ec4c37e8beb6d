"""Numbers of a set of predictions: caption scores, toy events, and what is printed."""

import json

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.caption.scoring import describe, score
from swwatch.metrics import captions
from swwatch.toy.world import make_scene


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


def prediction(key, result, annotation="The video shows a red circle moving left."):
    return {"video_id": key, "annotation": annotation, "result": result}


def test_events_in_the_records_are_scored_for_the_predicted_clips_only():
    scenes = [make_scene(0, i) for i in range(3)]
    records = [{"video_id": i, "events": scene.record()} for i, scene in enumerate(scenes)]
    report = score([prediction(i, scenes[i].caption, scenes[i].caption) for i in (0, 2)], records)
    toy = report["toy_events"]
    assert toy["num_clips"] == 2 and toy["color"] == toy["shape"] == toy["direction"] == toy["parses"] == 1
    assert report["scores"]["corpus"]["BLEU-4"] == pytest.approx(1)
    json.dumps(report, allow_nan=False)


def test_another_data_sets_field_named_events_is_left_alone():
    records = [{"video_id": 1, "events": ["goal", "foul"]}, {"video_id": 2, "events": "none"}]
    assert "toy_events" not in score([prediction(1, "a"), prediction(2, "b")], records)


def test_printed_report_names_counts_paper_rows_and_what_is_missing():
    report = score([prediction(1, "The video shows a red circle moving left."), prediction(2, " ")])
    text = describe(report, "group", num_skipped=3)
    assert "2 clips scored, 3 skipped, 1 empty" in text and "ptb-python" in text
    assert "METEOR is not available: no `java` on the PATH" in text
    assert "group, here" in text and "group, paper 3B" in text and "group, paper 7B" in text
    assert "paper" not in describe(report, None, 0) and "95 % from" in text
    assert "CIDEr of a single clip is 0" in describe(score([prediction(1, "a")]), "gap", 0)


def test_reference_comes_from_the_data_where_the_prediction_has_none_and_the_rest_is_counted():
    records = [{"video_id": 2, "human_caption": "a red circle"}]
    rows = [prediction(1, "a circle"), prediction(2, "a red circle", None), prediction(3, "a square", " ")]
    report = score(rows, records)
    assert report["num_clips"] == 2 and report["without_reference"] == ["3"]
    assert report["scores"]["per_clip"]["2"]["ROUGE-L"] == 1
    assert "1 more have no reference and were left out: 3" in describe(report, None, 0)
    with pytest.raises(UserError, match="none of the 1 predictions has a reference"):
        score([prediction(3, "a square", None)], records)


def test_timing_and_intervals_of_toy_clips_are_in_the_report():
    scenes = [make_scene(0, i) for i in range(4)]
    records = [
        {"video_id": i, "human_caption": scene.caption, "events": scene.record()} for i, scene in enumerate(scenes)
    ]
    token = {"step": 0, "token_id": 1, "newest_visible_step": 0, "t_frame_s": 0.0, "t_emit_s": 0.25}
    traces = {str(i): [{**token, "text": scene.caption}] for i, scene in enumerate(scenes)}
    texts = [scenes[0].caption, scenes[1].caption, "no", "word"]
    report = score([prediction(i, texts[i], scenes[i].caption) for i in range(4)], records, traces=traces)
    assert report["timing"]["num_clips"] == 4 and report["timing"]["time_to_first_token_s"]["median"] == 0.25
    assert report["timing"]["events"]["coverage"] == 1
    low, high = report["toy_ci95"]["parses"]
    assert low <= report["toy_events"]["parses"] == 0.5 <= high and low < high
    assert score([prediction(1, "a")], records)["toy_events"]["num_clips"] == 1
    assert "timing" not in score([prediction(1, "a")], records)
    json.dumps(report, allow_nan=False)


def test_events_of_another_data_set_are_kept_from_the_toy_matcher():
    records = [{"video_id": 1, "human_caption": "a goal", "events": [{"label": "goal", "start_s": 1, "end_s": 2}]}]
    token = {"step": 0, "newest_visible_step": 0, "t_frame_s": 0.0, "t_emit_s": 0.5, "text": "a goal"}
    report = score([prediction(1, "a goal")], records, traces={"1": [token]})
    assert report["timing"]["events"]["value"] is None and "toy_events" not in report


def test_learned_metrics_stand_in_the_table_with_what_they_computed_with():
    class Half:
        about = {"BLEURT": "a/checkpoint", "BERTScore": "an encoder, layer 3"}

        def __call__(self, texts, references):
            return {name: [0.5 for _ in texts] for name in self.about}

    report = score([prediction(1, "a"), prediction(2, "b")], learned=[Half()])
    assert report["scores"]["learned"] == Half.about and report["scores"]["corpus"]["BLEURT"] == 0.5
    text = describe(report, None, 0)
    assert "BERTScore 50.00 (an encoder, layer 3)" in text and "BLEURT by --bleurt" not in text
    assert "BLEURT by --bleurt" in describe(score([prediction(1, "a")]), None, 0)


def test_funqa_is_not_set_beside_the_video_descriptions():
    rows = [{**prediction(i, "a red circle"), "task": task} for i, task in enumerate(("H2", "H2", "M3"))]
    report = score(rows)
    assert report["by_task"]["mean"]["num_tasks"] == 2
    text = describe(report, "group", 0)
    assert "paper 7B" not in text and "group, paper 3B, mean of six" in text


def test_times_of_clips_that_shared_forwards_are_said_to_be_so():
    token = {"step": 0, "newest_visible_step": 0, "t_frame_s": 0.5, "t_emit_s": 0.6, "text": "a"}
    traces = {"1": [token]}
    alone, shared = (score([prediction(1, "a")], traces=traces, clips_at_once=n)["timing"] for n in (1, 4))
    assert "note" not in alone and "4 clips shared each forward" in shared["note"]
