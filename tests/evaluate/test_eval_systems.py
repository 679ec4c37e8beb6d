"""Systems of chat turns as rows of the evaluation: captioned, scored, disturbed and reported like the variants."""

import json
import shutil

import pytest

from swwatch.cli import run
from swwatch.data.prompt import load_prompts
from swwatch.data.video import iter_steps
from swwatch.engine.requests import drive
from swwatch.evaluate.caption import command
from swwatch.evaluate.disturb import command as disturb
from swwatch.evaluate.report import command as report
from swwatch.evaluate.run_files import read_run
from swwatch.metrics import captions
from swwatch.model.loading import load
from swwatch.narrate.words import Turn, narrate, narration
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")


@pytest.fixture
def evaluated(tiny_checkpoint, small_test_set, tmp_path):
    """evaluated(system, *flags) -> the run's files."""
    data = small_test_set(tmp_path, 3)

    def call(system, *flags, out="out"):
        argv = ["--model-path", str(tiny_checkpoint), "--variant", system, "--data-dir", str(data), "--device", "cpu"]
        assert run(command.main, [*argv, "--output-dir", str(tmp_path / out), *flags]) == 0
        return read_run(tmp_path / out / f"{system}_infer.json")

    return call


def flags_of(limit: int | None) -> list[str]:
    return [] if limit is None else ["--max-new-tokens", str(limit)]


@pytest.mark.parametrize("system", TURNS)
def test_a_caption_is_the_words_of_all_turns(evaluated, tiny_checkpoint, tmp_path, system):
    limit = 6 if SYSTEMS[system].thinks else None  # a thought of random weights knows no end
    found = evaluated(system, *flags_of(limit))
    loaded, asked = load(tiny_checkpoint, variant=system, device="cpu"), load_prompts().eval_question
    assert list(found.rows) == ["0", "1", "2"] and found.facts["settings"]["schedule"] is None
    for key, row in found.rows.items():
        steps = iter_steps(tmp_path / "videos" / f"{key}.mp4")
        events = drive(loaded.model, narration(loaded, steps, question=asked, clip_key=key, limit=limit))
        turns = [event.text for event in events if isinstance(event, Turn) and not event.thought]
        assert row["result"] == " ".join(text for text in turns if text) and (row["result"] or limit)
        assert len({token["step"] for token in found.tokens[key]}) == len(turns)
    assert any(row["result"] for row in found.rows.values())
    assert found.metrics["timing"]["staleness_s"]["median"] >= 0


def test_a_repetition_penalty_that_is_given_is_a_chat_systems_own(evaluated):
    few = ("--max-count", "1", "--max-new-tokens", "4")
    own, other = evaluated("livecc", *few), evaluated("livecc", *few, "--repetition-penalty", "3.5", out="other")
    assert own.rows["0"]["result"] != other.rows["0"]["result"]
    assert [run.facts["settings"]["repetition_penalty"] for run in (own, other)] == [None, 3.5]


@pytest.mark.parametrize("system", [name for name in TURNS if not SYSTEMS[name].thinks])
def test_several_clips_at_once_and_a_cut_change_no_byte(evaluated, system):
    alone = evaluated(system).path.read_bytes()
    path = evaluated(system, "--clips-at-once", "3", out="together").path
    assert path.read_bytes() == alone
    path.write_bytes(alone[:-30])
    assert evaluated(system, out="together").path.read_bytes() == alone


def test_a_schedule_is_refused_before_any_clip_is_skipped_for_it(tiny_checkpoint, small_test_set, tmp_path, capsys):
    data = small_test_set(tmp_path, 1)
    argv = ["--model-path", str(tiny_checkpoint), "--variant", "livecc", "--data-dir", str(data), "--device", "cpu"]
    assert run(command.main, [*argv, "--schedule", "wait-k:3", "--output-dir", str(tmp_path)]) == 2
    assert "speaks once in a turn, by no schedule" in capsys.readouterr().err


def test_scores_and_report_know_that_the_paper_has_no_such_row(evaluated, tmp_path, capsys):
    path = evaluated("livecc").path
    assert run(command.main, ["--score-only", "--output-file", str(path)]) == 0
    assert run(report.main, [str(path), "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr()
    assert "livecc: not in the paper" in printed.out and not printed.err.startswith("error")
    assert "livecc: not in the paper" in (tmp_path / "page" / "report.md").read_text().replace("\\", "")


def test_disturb_evaluates_a_chat_system_once(tiny_checkpoint, small_test_set, tmp_path):
    models, data = tmp_path / "models", small_test_set(tmp_path, 2)
    for variant in ("group", "streamingvlm"):
        shutil.copytree(tiny_checkpoint, models / variant)
        load(tiny_checkpoint, variant=variant, device="cpu").model.config.save_pretrained(models / variant)
    argv = [str(models / "group"), str(models / "streamingvlm"), "--data-dir", str(data), "--device", "cpu"]
    argv += ["--max-new-tokens", "12", "--output-dir", str(tmp_path / "out"), "--schedules", "burst:3:every=2"]
    assert run(disturb.main, argv) == 0
    table = json.loads((tmp_path / "out" / "disturbance.json").read_text())
    group, chat = table["rows"]
    assert list(group["runs"]) == ["wait-k:3", "burst:3:every=2"] and list(chat["runs"]) == ["turns"]
    shown = (tmp_path / "out" / "disturbance.txt").read_text()
    assert "Chat systems speak once in every turn" in shown and "not affected" in shown


def test_a_narration_is_evaluated_as_it_is_kept_and_thinks(evaluated, tiny_checkpoint, tmp_path):
    keep, think, text = "window:1:text_sink=1:text_window=2", "notes:1:window=3", {}
    found = evaluated("group", "--keep", keep, "--think", think, "--max-new-tokens", "12", "--max-count", "1")
    assert found.facts["settings"]["keep"] == keep and found.facts["settings"]["think"].startswith("notes:1:")
    loaded, asked = load(tiny_checkpoint, variant="group", device="cpu"), load_prompts().eval_question
    for kept in (keep, "all"):
        steps = iter_steps(tmp_path / "videos" / "0.mp4")
        words = narrate(loaded, steps, question=asked, clip_key="0", limit=12, keep=kept, think=think)
        text[kept] = [token.token_id for token in words]
    assert [token["token_id"] for token in found.tokens["0"]] == text[keep] != text["all"]
