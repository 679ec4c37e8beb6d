"""Does thinking help: arms watch and are asked, verdicts follow their rule, flags are those of the programs."""

import json
from dataclasses import replace

import pytest

from swwatch.config import read_settings
from swwatch.study import thinking
from swwatch.study.policy_plan import cell_path
from swwatch.study.thinking import ARMS, BUDGET, MODELS, PLANS, TESTS, run
from swwatch.study.thinking_page import write_page
from swwatch.toy.clips import Recipe, write_dataset
from swwatch.toy.questions import questions_of
from swwatch.train.settings import TrainSettings
from tests.study.test_policies import clips_of, trained_from

UNTIL_S = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    root = tmp_path_factory.mktemp("count")
    write_dataset(root, Recipe(0, 1, 3, "count"))
    return next(clips_of(root, 1))


@pytest.mark.parametrize("name", ["notes", "notes-all", "parallel"])
def test_an_arm_is_asked_what_is_due_and_tells_what_it_had_in_view(load_tiny, clip, name, monkeypatch):
    monkeypatch.setattr(thinking, "ROUNDS", 1)
    arm, row = ARMS[name], ("asked, count", "arm", name)
    form = {"seconds_per_turn": 8.0} if arm.model in ("vst", "tww") else {}
    loaded = load_tiny(MODELS[arm.model].variant, pixel_budget="declared", **form)
    told = run(loaded, row, *clip, UNTIL_S)
    due = questions_of(clip[0], UNTIL_S, thinking.ROUNDS)
    assert [kind for kind, *_ in told["asked"]] == [question.kind for question in due]
    assert told["steps"] == UNTIL_S and told["lag_s"] > 0
    assert told["thought"] > 0 and told["thoughts"] > 0 and told["video"] == 4 * UNTIL_S


def made_up(arm, seed):
    """Thoughts in parallel know all that has left the view, notes nothing more, and one seed of notes-all less; who
    watches the newest segment alone has learned nothing."""
    knows = {"parallel": 4, "notes-all": 0 if seed else 4, "segment": 0}.get(arm, 1)
    answers = [["colour now", arm != "segment", 0.0, 0.1]] * 4 + [
        ["first colour", i < knows, 40.0, 0.1] for i in range(4)
    ]
    return {"asked": answers, "thought": 20, "thoughts": 9, "video": 32, "mean_s": 0.01, "steps": 10, "lag_s": 0.1}


def test_verdicts_follow_the_rule_and_the_page_tells_what_was_out_of_view(tmp_path):
    plan = replace(PLANS["full"], clips=3, seeds=(0, 1))
    for seed, test, table, arm in plan.cells():
        path = cell_path(tmp_path, plan, seed, test, table, arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"clips": [made_up(arm, seed)] * 3}))
    trained_from(tmp_path, tmp_path / "base")
    text = write_page(plan, tmp_path, tmp_path / "report").read_text()
    for test in TESTS:
        assert f"### Helps: parallel instead of group-window: {test}" in text
        assert f"### Does not help: notes instead of recent: {test}" in text
        assert f"### Undecided: notes-all instead of all: {test}" in text
        assert f"### Undecided: notes instead of segment: {test}" in text and "not learned" in text
    assert "12 questions about the past to each arm and seed; the answer to 12 of them (100 %)" in text
    assert "| arm | `parallel` | 100 [100, 100] | 100 [100, 100] |" in text and str(tmp_path) not in text


def test_bounded_arms_have_one_budget_and_flags_are_those_of_the_programs(tmp_path):
    sink, window = (int(part.split("=")[1]) for part in thinking.NOTES.split(":")[-2:])
    assert sink + window + 4 * 8 == BUDGET == 4 * thinking.VIEW_S
    jobs = {job.name: job for job in thinking.jobs_of(PLANS["quick"], tmp_path, tmp_path / "base")}
    assert {arm.model for arm in ARMS.values()} == set(MODELS)
    for name, model in MODELS.items():
        settings = read_settings(TrainSettings, list(jobs[f"{name}-0"].argv[1:]), program="", about="")
        assert settings.variant == model.variant and settings.max_steps == PLANS["quick"].steps
