"""FunQA the whole way on a tiny model: clips, preparation, training, evaluation, table; the question arrives."""

import json

import pytest

from swwatch.cli import run
from swwatch.config import load_settings
from swwatch.data.annotations import read_jsonl
from swwatch.data.prepare import command as prepare
from swwatch.data.prompt import load_prompts, prompt_ids, question_of
from swwatch.data.tasks import SUBTASKS
from swwatch.engine import choose, door
from swwatch.errors import UserError
from swwatch.evaluate.caption import command as evaluation
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.metrics import captions
from swwatch.paths import ROOT
from swwatch.policies.speak import WaitK
from swwatch.rules.layout import Kind
from swwatch.toy import command as toy
from swwatch.train import command as training
from swwatch.train.settings import TrainSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_checkpoint):
    """A folder with funqa_train.jsonl and funqa_test.jsonl of toy clips."""
    root = tmp_path_factory.mktemp("funqa") / "data"
    assert toy.main(["funqa", str(root), "--clips", "6", "--test-clips", "3", "--noise", "0"]) == 0
    flags = ["--task", "funqa", "--dataset-root", str(root), "--tokenizer-model-id", str(tiny_checkpoint)]
    assert prepare.main([*flags, "--splits", "train", "test"]) == 0
    return root


def test_preparation_keeps_the_six_tasks(data):
    assert len(read_jsonl(data / "funqa_train.jsonl")) == 12
    assert [record["task"] for record in read_jsonl(data / "funqa_test.jsonl")] == list(SUBTASKS), "they take turns"


def test_a_records_question_is_in_the_prompt_of_its_training_sample_in_every_epoch(data, load_tiny):
    from tests.helpers.small_clips import clip_dataset

    loaded = load_tiny("group")
    dataset = clip_dataset(loaded, data / "funqa_train.jsonl", "group", WaitK(3), prompts=load_prompts())
    for epoch in (0, 1):
        for i, record in enumerate(dataset.records[:4]):
            sample = dataset[epoch, i].sample
            asked = sample.input_ids[sample.tokens.where(Kind.PROMPT)].tolist()
            assert asked == prompt_ids(loaded.tokenizer, load_prompts().system, record["question"], loaded.markup)
            said = sample.input_ids[sample.tokens.where(Kind.ANSWER)].tolist()
            assert loaded.tokenizer.decode(said[:-1]) == record["output"].strip()
    assert len({record["question"] for record in dataset.records[:4]}) > 1


def test_a_record_without_a_question_is_asked_what_the_prompts_say():
    assert question_of({"video_id": 1}, "What?") == "What?" == question_of({"question": None}, "What?")
    assert question_of({"question": "Why?"}, "What?") == "Why?"


def test_a_question_that_is_no_text_is_an_error_with_its_line(data, tmp_path):
    record = read_jsonl(data / "funqa_train.jsonl")[0]
    (tmp_path / "a.jsonl").write_text(json.dumps(record | {"question": ["Why?"]}) + "\n")
    with pytest.raises(UserError, match="a.jsonl, line 1: question"):
        read_jsonl(tmp_path / "a.jsonl")


def test_from_clips_to_the_table_of_sub_tasks(data, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")
    prompts = []

    def open_session(engine, model, prompt, **options):
        prompts.append(list(prompt))
        return choose.open_session(engine, model, prompt, **options)

    monkeypatch.setattr(door, "open_session", open_session)
    model = tmp_path / "model"
    flags = ["--task", "funqa", "--variant", "group", "--model-path", str(tiny_checkpoint), "--output-dir", str(model)]
    flags += ["--train-data", str(data / "funqa_train.jsonl"), "--max-steps", "2", "--accumulation", "1"]
    assert run(training.main, flags) == 0
    flags = ["--task", "funqa", "--model-path", str(model), "--data-dir", str(data), "--output-dir", str(tmp_path)]
    assert run(evaluation.main, [*flags, "--max-new-tokens", "20"]) == 0
    records = read_jsonl(data / "funqa_test.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "funqa_group_infer.json").read_text().splitlines()]
    assert [row["task"] for row in rows] == list(SUBTASKS)
    for row, record in zip(rows, records, strict=True):
        assert (row["video_id"], row["annotation"]) == (record["video_id"], record["human_caption"])
        assert row["messages"][0]["value"] == record["question"]
    from swwatch.model.loading import load

    loaded, system = load(model, device="cpu"), load_prompts().system
    assert prompts == [prompt_ids(loaded.tokenizer, system, record["question"], loaded.markup) for record in records]
    metrics = json.loads((tmp_path / "funqa_group_metrics.json").read_text())
    assert list(metrics["by_task"]) == [*SUBTASKS, "mean"] and metrics["settings"]["task"] == "funqa"
    printed = capsys.readouterr().out
    assert "M3 (1 clips)" in printed and "group, here, mean of 6" in printed and "paper 3B, mean of six" in printed


def test_the_task_chooses_the_default_places(monkeypatch):
    monkeypatch.delenv("QWEN2_5_VL_TRAIN_DATA", raising=False)
    plain, funqa = load_settings(TrainSettings), load_settings(TrainSettings, env={"QWEN2_5_VL_TASK": "funqa"})
    assert plain.train_data == ROOT / "dataset/train_3_5.jsonl"
    assert funqa.train_data == ROOT / "dataset/funqa_train.jsonl"
    given = load_settings(TrainSettings, flags={"task": "funqa", "train_data": "mine.jsonl"})
    assert str(given.train_data) == "mine.jsonl"
    settled = training.complete(load_settings(TrainSettings, flags={"task": "funqa", "variant": "gap"}))
    assert settled.output_dir == ROOT / "output/qwen2_5vl-funqa-gap"
    plain, funqa = EvalSettings(), load_settings(EvalSettings, flags={"task": "funqa"})
    assert (plain.data_path.name, funqa.data_path.name) == ("test_3_5.jsonl", "funqa_test.jsonl")
    assert (plain.label, funqa.label) == ("3_5", "funqa")
    assert (plain.predictions_path("gap").name, funqa.predictions_path("gap").name) == (
        "gap_infer.json",
        "funqa_gap_infer.json",
    )
    with pytest.raises(UserError, match="--dataset 4_6 names test data of pe-video"):
        EvalSettings(task="funqa", dataset="4_6")
    with pytest.raises(UserError, match="not one of pe-video, funqa"):
        load_settings(EvalSettings, flags={"task": "funq"})
