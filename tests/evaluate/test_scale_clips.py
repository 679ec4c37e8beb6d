"""Several clips at once: the same captions and traces, an error for its own clip alone, and how many fit."""

import json

import numpy as np
import pytest
import torch

from swwatch.cli import run as run_program
from swwatch.data.video import StepFrames
from swwatch.engine.batch import Batch, Ended
from swwatch.engine.requests import Feed, Look, Request, answer_to
from swwatch.errors import UserError
from swwatch.evaluate.caption import clips_at_once as room
from swwatch.evaluate.caption import command, runner
from swwatch.evaluate.caption.runner import run
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.results import Results, beside
from swwatch.launch.ranks import SingleProcess
from swwatch.metrics import captions
from swwatch.narrate.words import narration


@pytest.fixture
def clips(tmp_path, small_test_set):
    return small_test_set(tmp_path, 5)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("variant", ["group", "interleave", "origin"])
def test_captions_are_those_of_one_clip_at_a_time(tiny_checkpoint, clips, tmp_path, monkeypatch, variant):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")
    video = clips.parent / "videos" / "1.mp4"
    video.write_bytes(video.read_bytes()[:-200])  # cut short: skipped, and the others go on
    argv = ["--model-path", str(tiny_checkpoint), "--variant", variant, "--data-dir", str(clips), "--device", "cpu"]
    argv += ["--max-new-tokens", "16", "--schedule", "random:2:seed=5", "--max-bad-fraction", "0.5", "--output-dir"]
    names = ("infer.json", "trace.jsonl", "skipped.jsonl")
    told = {}
    for at_once in ("1", "3"):
        assert run_program(command.main, [*argv, str(tmp_path / at_once), "--clips-at-once", at_once]) == 0
        told[at_once] = {name: lines(tmp_path / at_once / f"{variant}_{name}") for name in names}
        for row in told[at_once]["trace.jsonl"]:
            for token in row["tokens"]:
                assert token.pop("t_emit_s") >= token["t_frame_s"]  # timings are of a shared device, and differ
    assert told["1"] == told["3"]
    assert [len(told["1"][name]) for name in names] == [4, 4, 1]
    assert json.loads((tmp_path / "3" / f"{variant}_run.json").read_text())["about"]["clips_at_once"] == 3


def test_a_finished_clips_place_is_refilled_before_the_others_end(tmp_path, monkeypatch):
    """Runs of 1, 9, 1, 1, ... rounds, two at a time: the short ones pass beside the long one."""
    order, rounds = [], {str(i): 9 if i == 1 else 1 for i in range(6)}
    records = [{"video_id": key, "human_caption": "x", "video_path": "v.mp4"} for key in rounds]

    class Rounds(Batch):
        def advance(self):
            (waiting, self._waiting), events = (self._waiting, {}), []
            assert 1 <= len(waiting) <= 2
            for key, (job, _) in waiting.items():
                events += self._resume(key, job, None)
            order.extend(key for key, event in events if isinstance(event, Ended))
            return events

    def narrator(clip):
        for _ in range(rounds[clip.key]):
            yield Look(None, None)

    monkeypatch.setattr(runner, "Batch", Rounds)
    with Results(tmp_path / "x_infer.json", {"settings": {}, "about": {}}, rounds) as results:
        places = {"locate": lambda name: tmp_path / name, "narrator": narrator, "clips_at_once": 2}
        run(records, results, question="?", task="t", **places)
        results.complete()
    assert order == ["0", "2", "3", "4", "5", "1"]
    assert [row["video_id"] for row in lines(tmp_path / "x_infer.json")] == list(rounds), "in the annotations' order"


def test_too_little_memory_is_told_and_finished_clips_are_kept(tmp_path):
    def narrator(clip):
        if clip.key == "b":
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from ()

    records = [{"video_id": key, "human_caption": "x", "video_path": "v.mp4"} for key in "abc"]
    with Results(tmp_path / "x_infer.json", {"settings": {}, "about": {}}, "abc") as results:
        with pytest.raises(UserError, match="out of GPU memory: give a smaller --clips-at-once"):
            options = {
                "locate": lambda name: tmp_path,
                "narrator": narrator,
                "clips_at_once": 2,
                "ranks": SingleProcess(),
            }
            run(records, results, question="?", task="t", **options)
    assert [row["video_id"] for row in lines(beside(tmp_path / "x_infer.json", "trace.jsonl"))] == ["a"]


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "some"])
def test_a_number_that_cannot_be_is_refused(asked):
    with pytest.raises(UserError, match=f"--clips-at-once {asked}: a whole number from 1 on, or auto"):
        EvalSettings(clips_at_once=asked)


def test_auto_is_what_half_of_the_free_memory_holds(load_tiny, monkeypatch):
    loaded, limits = load_tiny("group"), {"max_frames": 60, "max_new_tokens": 300}
    assert room.clips_at_once("7", loaded, **limits) == 7
    each = room.bytes_of_clip(loaded, **limits)
    pages = {"SC_PAGE_SIZE": 1}
    monkeypatch.setattr(room.os, "sysconf", pages.__getitem__)
    for fit, told in ((0, 1), (1, 1), (3, 3), (100, room.ON_CPU)):
        pages["SC_AVPHYS_PAGES"] = 2 * each * fit + each
        assert room.clips_at_once("auto", loaded, **limits) == told


def test_the_memory_of_a_clip_is_that_of_its_cache(load_tiny):
    """A clip of the greatest length and size, with a real cache at its end."""
    loaded, num_frames = load_tiny("group"), 8
    frames = np.random.default_rng(0).integers(0, 255, (2, *room.WIDE, 3), dtype=np.uint8)
    steps = [StepFrames(i, frames, i + 0.5, i == 3, num_frames) for i in range(num_frames // 2)]
    run, fed, answer = narration(loaded, steps, question="Q?", system="S", max_new_tokens=20), None, None
    with pytest.raises(StopIteration):
        while True:
            event = run.send(answer)
            answer = answer_to(loaded.model, event) if isinstance(event, Request) else None
            if isinstance(event, Feed):
                fed = event.cache
    assert (
        fed.held_nbytes < room.bytes_of_clip(loaded, max_frames=num_frames, max_new_tokens=20) < 1.3 * fed.held_nbytes
    )
