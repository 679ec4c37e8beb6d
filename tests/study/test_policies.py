"""The comparison of policies: every row of the tables has a cell, cells hold what happened, the page tells it."""

import json
import re
from dataclasses import replace

import pytest

from swwatch.config import read_settings
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.paths import make_folder
from swwatch.policies.see import SEE
from swwatch.policies.speak import SPEAK
from swwatch.study import policies
from swwatch.study.compared import read_found
from swwatch.study.policy_page import PUBLIC, write_page
from swwatch.study.policy_plan import PLAIN, PLANS, TABLES, TESTS, cell_path, examples, rows
from swwatch.study.policy_runs import ask_questions, clips_of, narrated
from swwatch.toy.clips import Recipe, write_dataset
from swwatch.toy.questions import questions_of
from swwatch.train.settings import TrainSettings


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """(record, video) of a still clip."""
    root = tmp_path_factory.mktemp("still")
    write_dataset(root, Recipe(0, 1, 3, "still"))
    return next(clips_of(root, 1))


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_a_table_is_compared_with_what_is_plain(table):
    compared = {policy.split(":")[0] for _, of, policy in rows() if of == table}
    windows = {name for name, kind in SEE.items() if kind.reuses}  # which the towers of the study's models have
    assert compared == set(TABLES[table]) - windows and examples(table)[0] == PLAIN[table]


def test_a_new_row_comes_in_by_itself(monkeypatch):
    class Tenth(SPEAK["wait-k"]):
        name = "tenth"

    monkeypatch.setitem(SPEAK, "tenth", Tenth)
    assert ("told, still", "schedule", "tenth:3") in rows()


def test_a_narration_counts_what_happened_and_what_it_cost(load_tiny, clip):
    record, video = clip
    plain = narrated(load_tiny("group"), record, video, 12, schedule="wait-k:3")
    assert plain["steps"] == 12 and plain["said"] == 36 and plain["arrived"] == 48 and plain["dropped"] == 0
    seen = narrated(load_tiny("group"), record, video, 12, see="dtd_pixels:0.37")
    assert seen["dropped"] > 0 and seen["arrived"] == 48 and seen["fed"] == plain["fed"] - seen["dropped"]
    assert seen["cache_bytes"] < plain["cache_bytes"]
    assert plain["events"]["num_events"] == sum(event["end_s"] <= 12 for event in record["events"])
    again = narrated(load_tiny("group"), record, video, 12, keep="recent:4")
    assert again["fed"] > plain["fed"] and again["cache_bytes"] < plain["cache_bytes"]


def test_questions_are_asked_when_they_are_due_and_leave_no_trace(load_tiny, clip):
    record, video = clip
    loaded, until_s = load_tiny("streamingvlm"), 20
    due = [question.kind for question in questions_of(record, until_s)]
    whole = ask_questions(loaded, record, video, until_s, "all")
    assert due and [kind for kind, *_ in whole["asked"]] == due
    parked = ask_questions(loaded, record, video, until_s, "rekv:2:vision_s=4")
    assert parked["host_bytes"] > 0 == whole["host_bytes"] and parked["steps"] == until_s
    assert parked["cache_bytes"] < whole["cache_bytes"]
    silent = ask_questions(loaded, record | {"events": record["events"][:1]}, video, until_s, "all")
    assert (silent["fed"], silent["cache_bytes"]) == (whole["fed"], whole["cache_bytes"])  # whatever was asked


def made_up(test, policy, number):
    """A clip's result: recent windows know the present alone, memories the past as well, sved makes nothing up."""
    cost = {"fed": 100, "cache_bytes": 1000, "host_bytes": 0, "early_s": 0.01, "late_s": 0.02, "steps": 10}
    if TESTS[test].asks:
        past = 1 if policy.startswith("recent") else 4
        told = [["colour now", True, 0.0, 0.1]] * 4 + [["first colour", i < past, 9.0, 0.1] for i in range(4)]
        return {"asked": told, "recalled": 0} | cost
    counts = {"num_events": 10, "num_told": 8, "num_repeated": 1, "num_mentions": 10, "time_diff_s": [1.0, None]}
    counts["num_unfounded"] = 0 if policy.startswith(("sved", "change", "gate", "head")) else 3
    right = {"counts": {"right": [2 if policy.startswith("stc") else 8, 10]}, "events": counts}
    return right | {"arrived": 100, "dropped": 50, "said": 36} | cost


def trained_from(folder, base):
    """Let a comparison's models have been fine-tuned from this."""
    make_folder(folder / "jobs")
    argv = ["train", "--model-path", str(base)]
    write_atomic(folder / "jobs/group-0.json", [json.dumps({"argv": argv})])


def test_the_page_tells_intervals_costs_verdicts_and_refusals(tmp_path):
    plan = replace(PLANS["quick"], clips=4)
    for seed, test, table, policy in plan.cells():
        path = cell_path(tmp_path, plan, seed, test, table, policy)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"clips": [made_up(test, policy, number) for number in range(4)]}
        path.write_text(json.dumps({"clips": [], "refused": "not so"} if policy == "flush:16" else result))
    trained_from(tmp_path, tmp_path / "base")
    text = write_page(plan, tmp_path, tmp_path / "report").read_text()
    verdicts = re.findall(r"^### (\w+).*\nMeasured: .*\*\*(.*)\.\*\*$", text, re.MULTILINE)
    assert [first for first, _ in verdicts] == ["Most", "No", "A", "Who"]
    found = {first: told for first, told in verdicts}
    assert (
        found["Most"] == "Reproduced: `dtd`, `dtd_pixels`, `flash`, `curve`; not reproduced: `stc`"
    )  # lost 60 points
    assert found["Who"] == "Reproduced: `change`, `sved`, `gate`, `head`; undecided at this scale: `pace`"
    assert found["No"].startswith("Reproduced: ") and found["A"].startswith("Reproduced: `key_norm`, `rekv`")
    assert "- `flush:16` was refused: not so" in text
    assert "| keep | `recent:4` | 100 [100, 100] | 25 [25, 25] |" in text
    assert "| schedule | `wait-k:3` | 80 [80, 80] | 80 [80, 80] | 10 [10, 10] | 30 [30, 30] | 1.0 [1.0, 1.0] |" in text
    assert str(tmp_path) not in text and (tmp_path / "report/policies_study.png").exists()
    with pytest.raises(UserError, match="is missing"):
        write_page(replace(plan, seconds=7), tmp_path, tmp_path / "report")


def test_a_comparison_says_nothing_where_the_plain_policy_has_not_learned(tmp_path):
    plan = PLANS["quick"]
    for seed, test, table, policy in plan.cells():
        path = cell_path(tmp_path, plan, seed, test, table, policy)
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = made_up(test, policy, 0)
        clip = clip | ({"asked": [["colour now", False, 0, 0.0]]} if TESTS[test].asks else {})
        path.write_text(json.dumps({"clips": [clip] * 4}))
    found = read_found(plan, tmp_path)
    see, now, *_ = (public.claims(found).values() for public in PUBLIC)
    assert all(one.signs == (0,) and one.unlearned == (True,) for claim in now for one in claim.evidence)
    assert all(one.unlearned == (False,) for claim in see for one in claim.evidence)


def test_flags_are_those_of_the_programs_that_are_run(tmp_path):
    plan = PLANS["quick"]
    jobs = {job.name: job for job in policies.jobs_of(plan, tmp_path, tmp_path / "base")}
    questions = {f"questions-{world}-{plan.clips}" for world in ("count", "still")}
    assert set(jobs["streamingvlm-0"].after) == questions <= jobs.keys()
    for name, variant in {"gate": "group", "head": "group", "group": "group", "streamingvlm": "streamingvlm"}.items():
        settings = read_settings(TrainSettings, list(jobs[f"{name}-0"].argv[1:]), program="", about="")
        assert settings.variant == variant and settings.max_steps == plan.steps
        assert settings.schedule == (name if name in ("gate", "head") else None)
    assert len(settings.annotations) == 2
    assert {policies.model_of(row) for row in rows()} == {"gate", "head", "group", "streamingvlm"}
