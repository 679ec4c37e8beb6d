"""The BASE: kept by its recipe, free of a variant, and asked about what it has not seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from swwatch.config import read_settings
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.study import base
from swwatch.study.base import BaseSettings, as_plain, ask, describe, job_to_answer, jobs_to_see
from swwatch.toy.clips import Recipe, write_dataset
from swwatch.toy.questions import at_the_end
from swwatch.train.settings import TrainSettings


def test_a_base_is_found_by_its_recipe(tmp_path, monkeypatch):
    settings = BaseSettings(tmp_path)
    others = [replace(settings, clips=7), replace(settings, steps=7), replace(settings, seed=7)]
    found = {other.folder for other in [settings, *others]}
    config = tmp_path / "another.yaml"
    config.write_text("max_steps: 7\n")
    monkeypatch.setattr(base, "TO_ANSWER", config)
    assert len(found | {settings.folder}) == 5 and BaseSettings(tmp_path).folder == settings.folder


def test_a_comment_in_a_configuration_makes_no_other_base(tmp_path, monkeypatch):
    folder = BaseSettings(tmp_path).folder
    config = tmp_path / "commented.yaml"
    config.write_text("# hours: none\n" + base.TO_SEE.read_text())
    monkeypatch.setattr(base, "TO_SEE", config)
    assert BaseSettings(tmp_path).folder == folder


def test_it_learns_to_see_and_then_to_answer(tmp_path):
    settings = BaseSettings(tmp_path, steps=3)
    (narrator,) = [job for job in jobs_to_see(settings) if job.name == "narrator"]
    answerer = job_to_answer(settings)
    found = [read_settings(TrainSettings, list(job.argv[1:]), program="", about="") for job in (narrator, answerer)]
    assert [one.variant for one in found] == ["interleave", "livecc"]
    assert all(one.max_steps == 3 and one.train_vision for one in found)
    assert found[1].train_data.name == "chat_train.jsonl" and Path(found[1].model_path).name == "sees"


@pytest.fixture
def trained(tmp_path, tiny_checkpoint):
    """(start, trained): a folder, and one as training leaves it, with other weights."""
    start = tmp_path / "start"
    shutil.copytree(tiny_checkpoint, start)
    loaded = load(start, variant="livecc", device="cpu")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.zero_()
    loaded.model.save_pretrained(tmp_path / "trained")
    return start, tmp_path / "trained"


def test_a_base_has_the_trained_weights_and_names_no_variant(trained, tmp_path):
    as_plain(*trained, tmp_path / "base")
    with pytest.raises(UserError, match="does not name a variant"):
        load(tmp_path / "base")
    assert not load(tmp_path / "base", variant="group").model.get_input_embeddings().weight.any()


def test_it_is_asked_everything_about_held_out_clips(trained, tmp_path):
    write_dataset(tmp_path / "data", Recipe(0, 2, 0, "basics"))
    knows = ask(trained[0], tmp_path / "data", 2)
    records = [json.loads(path.read_text()) for path in (tmp_path / "data/PE-Video/test").glob("*.json")]
    assert sum(count for _, count in knows.values()) == sum(len(at_the_end(record)) for record in records)
    assert all(0 <= right <= count for right, count in knows.values())


def test_what_is_below_the_mark_is_named(tmp_path):
    (tmp_path / base.MADE).write_text(json.dumps({"colour now": [95, 100], "how many": [94, 100]}))
    text = describe(tmp_path / "base")
    assert "(below 95 %: how many)" in text and "| colour now | 95.0 | 100 |" in text
