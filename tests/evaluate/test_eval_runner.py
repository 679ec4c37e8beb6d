"""The loop: each clip once, unreadable ones skipped up to a limit, the narrator told nothing but the video."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from swwatch.errors import UserError
from swwatch.evaluate.caption.runner import ClipRequest, Unreadable, run
from swwatch.evaluate.results import Results
from swwatch.narrate.words import Token


def tokens(text):
    words = text.split(" ")
    return [
        Token(step=i, token_id=i, newest_visible_step=i, t_frame_s=i + 1, t_emit_s=i + 1.5, text=word + " ")
        for i, word in enumerate(words)
    ]


def record(key, **more):
    return {"video_id": key, "human_caption": f"secret {key}", "video_path": f"{key}.mp4", **more}


def go(tmp_path, records, bad=(), max_bad_fraction=0.01, narrator=None):
    """Run with a narrator that fails for the clips in `bad`; the clips it was asked for."""
    clips = []

    def default(clip):
        clips.append(clip)
        yield from tokens("it begins")
        if clip.key in bad:
            raise Unreadable(f"{clip.video}: broken in the middle")

    keys = [str(r["video_id"]) for r in records]
    with Results(tmp_path / "x_infer.json", {"settings": {}, "about": {}}, keys) as results:
        run(
            records,
            results,
            locate=lambda name: Path("/videos") / name,
            narrator=narrator or default,
            question="What?",
            task="3_5",
            max_bad_fraction=max_bad_fraction,
        )
        results.complete()
    return clips


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_output_has_the_releases_form_and_a_trace_per_token(tmp_path):
    go(tmp_path, [record(4), record("b", task="H2")])
    first, second = lines(tmp_path / "x_infer.json")
    assert first == {
        "video_id": 4,
        "annotation": "secret 4",
        "task": "3_5",
        "result": "it begins",
        "messages": [{"type": "text", "value": "What?"}, {"type": "video", "value": "/videos/4.mp4"}],
    }
    assert (second["video_id"], second["task"]) == ("b", "H2")
    trace = lines(tmp_path / "x_trace.jsonl")[0]
    assert trace["video_id"] == 4 and trace["tokens"][1] == {
        "step": 1,
        "token_id": 1,
        "newest_visible_step": 1,
        "t_frame_s": 2,
        "t_emit_s": 2.5,
        "text": "begins ",
    }


def test_narrator_gets_key_video_and_question_and_nothing_else(tmp_path):
    assert [field.name for field in fields(ClipRequest)] == ["key", "video", "question"]
    clips = go(tmp_path, [record(4)])
    assert clips == [ClipRequest("4", Path("/videos/4.mp4"), "What?")] and "secret" not in repr(clips)


def test_a_records_own_question_is_asked_and_told_in_the_results(tmp_path):
    clips = go(tmp_path, [record(4, question="Why is it funny?", task="H3"), record(5)])
    assert [clip.question for clip in clips] == ["Why is it funny?", "What?"]
    first, second = lines(tmp_path / "x_infer.json")
    assert [row["messages"][0]["value"] for row in (first, second)] == ["Why is it funny?", "What?"]
    assert [row["task"] for row in (first, second)] == ["H3", "3_5"]


def test_a_clip_that_breaks_in_the_middle_is_skipped_and_listed_without_a_half_caption(tmp_path):
    go(tmp_path, [record(key) for key in "abc"], bad="b", max_bad_fraction=0.5)
    assert [row["video_id"] for row in lines(tmp_path / "x_infer.json")] == ["a", "c"]
    (skipped,) = lines(tmp_path / "x_skipped.jsonl")
    assert skipped == {"video_id": "b", "path": "b.mp4", "reason": "/videos/b.mp4: broken in the middle"}


def test_too_many_unreadable_clips_stop_the_run_and_finished_clips_are_kept(tmp_path):
    records = [record(key) for key in "abcdef"]
    with pytest.raises(UserError, match=r"1 of 6 clips cannot be read.*allows.*broken(.|\n)*x_skipped.jsonl"):
        go(tmp_path, records, bad="bde")
    assert len(go(tmp_path, records)) == 5  # a is not asked for again


def test_a_set_without_a_readable_clip_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of the 1 clips"):
        go(tmp_path, [record("a")], bad="a", max_bad_fraction=1)


def test_any_other_failure_is_not_swallowed(tmp_path):
    def narrator(clip):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        go(tmp_path, [record("a")], narrator=narrator)
