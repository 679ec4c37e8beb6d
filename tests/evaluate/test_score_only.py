"""Scoring predictions that are there, sound or not: what was wrong is told and counted, the file is left as it is."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel

from swwatch.cli import run as run_program
from swwatch.errors import UserError
from swwatch.evaluate.caption import command, measure
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.launch.ranks import SingleProcess
from swwatch.metrics import captions

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue circle square moves".split()


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


@pytest.fixture
def files(tmp_path):
    """A predictions file of six lines, two of them without a reference, and a test file that knows one of these."""
    rows = [{"video_id": i, "annotation": "a red circle moves", "result": "a red square moves"} for i in range(4)]
    rows += [{"video_id": i, "annotation": None, "result": " "} for i in (4, 5)]
    (tmp_path / "run_infer.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"video_id": 4, "human_caption": "a blue circle moves", "video_duration_in_s": 4}
    (tmp_path / "test_3_5.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def score_only(folder, *flags):
    return run_program(
        command.main,
        ["--score-only", "--output-file", str(folder / "run_infer.json"), "--data-dir", str(folder), *flags],
    )


def metrics_of(folder):
    return json.loads((folder / "run_metrics.json").read_text())


def test_cut_doubled_and_unreferenced_lines_are_told_counted_and_left_in_the_file(files, capsys):
    path = files / "run_infer.json"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[0], '{"video_id": 9, "ann']))
    before = path.read_bytes()
    assert score_only(files) == 0 and path.read_bytes() == before
    found, printed = metrics_of(files), capsys.readouterr()
    assert found["problems"] == {
        "cut_last_line": 8,
        "identical_duplicates": 1,
        "without_reference": ["4", "5"],
        "empty_captions": ["4", "5"],
    }
    assert (found["num_clips"], found["num_empty"], found["without_reference"]) == (5, 1, ["5"])
    assert "line 8: the last line is cut" in printed.err and "1 repeated lines" in printed.err
    assert "5 clips scored" in printed.out and "1 more have no reference and were left out: 5" in printed.out
    assert found["scores"]["per_clip"]["4"]["ROUGE-L"] == 0 and "timing" not in found


def test_contradicting_lines_end_it_before_anything_is_written(files, capsys):
    with (files / "run_infer.json").open("a") as file:
        file.write(json.dumps({"video_id": 1, "annotation": "a", "result": "other"}) + "\n")
    assert score_only(files) == 2 and "1: lines 2, 7" in capsys.readouterr().err
    assert not (files / "run_metrics.json").exists()


def test_broken_facts_of_the_run_are_named(files, capsys):
    (files / "run_run.json").write_text('{"settings": ')
    assert score_only(files) == 2 and "run_run.json is not a JSON file" in capsys.readouterr().err


@pytest.fixture
def encoder(tmp_path):
    path = tmp_path / "encoder"
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(WORDS), initializer_range=0.5, **sizes)).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return str(path)


def test_bertscore_by_flag_is_in_the_file_with_its_model_and_layer(files, encoder, capsys):
    flags = ("--bertscore", encoder, "--bertscore-layer", "1", "--device", "cpu")
    assert score_only(files, *flags) == 0
    scores = metrics_of(files)["scores"]
    assert scores["learned"]["BERTScore"] == f"{encoder}, layer 1"
    assert 0 < scores["corpus"]["BERTScore"] < 1 and scores["per_clip"]["4"]["BERTScore"] == 0
    assert {"BERTScore", "BERTScore-P", "BERTScore-R"} <= set(scores["ci95"])
    assert f"({encoder}, layer 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--bleurt", "./not/there"), "no BLEURT checkpoint './not/there'"),
        (("--bertscore", "./not/there", "--bertscore-layer", "3"), "no model for BERTScore at './not/there'"),
        (("--bertscore", "./not/there"), "give --bertscore-layer"),
        (("--bertscore-idf",), "go with --bertscore"),
    ],
)
def test_a_metric_that_was_asked_for_and_cannot_be_had_is_an_error(files, capsys, flags, said):
    assert score_only(files, *flags) == 2 and said in capsys.readouterr().err
    assert not (files / "run_metrics.json").exists()


def test_it_is_an_error_before_the_model_is_loaded_and_any_clip_captioned(files, monkeypatch):
    monkeypatch.setattr(measure, "load_model", lambda *args, **kwargs: pytest.fail("the model was loaded"))
    settings = EvalSettings(data_dir=files, model_path="m", output_dir=files, bleurt=str(files / "none"))
    with pytest.raises(UserError, match="no BLEURT checkpoint"):
        measure.evaluate(settings, [], SingleProcess())
