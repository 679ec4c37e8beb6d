"""The study: its jobs run once and in order, its verdicts follow the stated rule, its page says what was found."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest

from swwatch import cli
from swwatch.config import read_settings
from swwatch.errors import UserError
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.study import command
from swwatch.study.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED, claims, less, more, unchanged
from swwatch.study.commands import jobs_of
from swwatch.study.jobs import Job, run_all
from swwatch.study.outcome import Cell, Outcome, read_outcome
from swwatch.study.page import summary, write_page
from swwatch.study.plan import PLANS
from swwatch.toy.scores import MEANING, clip_counts, toy_events
from swwatch.toy.world import make_scene
from swwatch.train.settings import TrainSettings
from tests.helpers.forked import Forked
from tests.helpers.live_stages import WAIT_S, wait_for

NUM_CLIPS = 40
MACHINE = {"commit": "abc1234", "cpu": "a CPU", "cores": 2, "gpus": [], "load": [1.5, 1, 1]}
MACHINE |= {"python": "3.11", "torch": "2.11", "transformers": "5.17"}
SPREAD = {"median": 0.5}


def cell(counts: dict[str, float], said: dict[str, str]) -> Cell:
    """Shares that are the same in every clip; those not named are 1."""
    shares = {name: counts.get(name, 0.0 if name in ("broken", "repeats") else 1.0) for name in MEANING}
    rng = np.random.default_rng(0)
    filled = {
        name: np.stack([(rng.permutation(NUM_CLIPS) < share * NUM_CLIPS) * 1.0, np.ones(NUM_CLIPS)], axis=1)
        for name, share in shares.items()
    }
    timing = {"events": {"delay_s": SPREAD}, "staleness_s": SPREAD, "tail_s": SPREAD}
    scores = {"corpus": {"BLEU-4": 0.5, "ROUGE-L": 0.5, "CIDEr": 5.0}}
    return Cell(filled, said, {"scores": scores, "timing": timing})


@pytest.fixture
def outcome(tmp_path):
    """Interleave breaks under disturbance, all others are perfect but overlap, which loses some fluency."""
    plan = PLANS["small"]
    scene = make_scene(0, 0)
    records = [{"video_id": "a", "human_caption": scene.caption, "events": scene.record()}]
    lost = {("interleave", "random"): 0.1, ("interleave", "burst"): 0.1, ("overlap", "burst"): 0.8}
    cells = {
        (variant, seed, schedule): cell({"parses": lost.get((variant, schedule), 1.0)}, {"a": scene.caption})
        for variant in plan.variants
        for seed in plan.seeds
        for schedule in plan.schedules(variant)
    }
    argvs = {"group-0": ["train", str(tmp_path / "model")], "eval-group-0": ["eval"], "clips": ["toy"]}
    jobs = {
        name: {"argv": argv, "seconds": 60.0, "at_once": 2, "begin": MACHINE, "end": MACHINE}
        for name, argv in argvs.items()
    }
    return Outcome(plan, tmp_path, cells, records, jobs)


def verdicts(outcome):
    return [claim.verdict for claim in claims(outcome)]


def test_verdicts_follow_the_rule(outcome):
    offline, loses, keeps, fluent, order = verdicts(outcome)
    assert offline == order == UNDECIDED  # no difference anywhere
    assert (loses, fluent) == (REPRODUCED, REPRODUCED)
    assert keeps == NOT_REPRODUCED  # overlap fell by 20 points under bursts, with every seed


def test_one_seed_that_disagrees_leaves_a_claim_undecided(outcome):
    outcome.cells["interleave", 1, "random"] = outcome.cells["interleave", 1, "fixed"]
    assert verdicts(outcome)[1] == UNDECIDED


def test_content_is_not_judged_where_a_variant_had_not_learned(outcome):
    """Origin tells nothing right and its directions by chance: no verdict on what it could do, with more training."""
    for seed in (0, 1, 2):
        outcome.cells["origin", seed, "fixed"] = cell({"right": 0.1, "told_direction": 0.25}, {"a": ""})
    assert verdicts(outcome)[0] == UNDECIDED
    for seed in (0, 1, 2):
        outcome.cells["origin", seed, "fixed"] = cell({"right": 0.1, "told_direction": 0.75}, {"a": ""})
    assert verdicts(outcome)[0] == NOT_REPRODUCED


def test_signs():
    assert (more(0.1, 0.2), more(-0.1, 0.2), more(-0.2, -0.1), more(0, 0)) == (1, 0, -1, 0)
    assert (less(-0.2, -0.1), less(0.1, 0.2)) == (1, -1)
    assert (
        unchanged(0, 0),
        unchanged(-0.04, 0.04),
        unchanged(-0.06, 0.01),
        unchanged(-0.3, -0.06),
        unchanged(0.06, 0.1),
    ) == (1, 1, 0, -1, -1)


def test_a_plan_with_two_variants_is_asked_only_what_it_can_answer(outcome):
    quick = replace(outcome, plan=PLANS["quick"])
    assert [claim.text.split()[0] for claim in claims(quick)] == ["Interleave", "Decoupled", "Under"]


def test_the_page_tells_verdicts_numbers_commands_and_where(outcome, tmp_path):
    outcome.cells["batch", 1, "fixed"] = cell({"told_direction": 0.25}, {"a": ""})
    page = write_page(outcome, tmp_path / "report")
    text = page.read_text()
    assert "Not learned within 800 steps: `batch` (seed 1)." in text and "open, not learned, open" in text
    assert (
        "### Not reproduced: Decoupled positions (overlap, group, gap) keep" in text
        and "### Reproduced: Interleave" in text
    )
    assert "| `interleave` | random | 10.0 [10.0, 10.0] |" in text
    assert "abc1234" in text and "2 cores of a CPU, no GPU" in text and "swwatch train STUDY/model" in text
    assert str(tmp_path) not in text
    for picture in (tmp_path / "report").glob("*.png"):
        assert f"({picture.name})" in text
    numbers = json.loads((tmp_path / "report" / "toy_world.json").read_text())
    assert numbers["shares"]["interleave/random"]["parses"] == [0.1] * 3
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    write_page(outcome, tmp_path / "report")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert "10.0%" in summary(outcome) and NOT_REPRODUCED in summary(outcome)


def test_jobs_run_once_and_after_what_they_need(tmp_path, capsys):
    jobs = [Job("second", ("--help",), after=("first",)), Job("first", ("--help",))]
    assert run_all(jobs, tmp_path, at_once=2) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["first:", "second:"]
    note = json.loads((tmp_path / "first.json").read_text())
    assert note["argv"] == ["--help"] and note["at_once"] == 2 and note["begin"]["cores"] >= 1
    assert run_all(jobs, tmp_path, at_once=2) == 0


def test_a_failed_job_stops_the_study_shows_its_log_and_is_run_again(tmp_path):
    jobs = [
        Job("bad", ("toy", "data", "clips", "--clips", "1", "--nonsense")),
        Job("next", ("--help",), after=("bad",)),
    ]
    for _ in range(2):
        with pytest.raises(UserError, match="(?s)bad failed.*no option --nonsense"):
            run_all(jobs, tmp_path, at_once=1)
        assert not list(tmp_path.glob("*.json"))


def test_a_study_that_is_killed_leaves_no_job_behind(tmp_path):
    """Not even by SIGKILL, nor the job's own workers: what a job goes on writing would be locked when it continues."""
    job = Job("clips", ("toy", "data", str(tmp_path / "data"), "--clips", "1000000", "--workers", "2"))
    code = "import sys; from pathlib import Path; from swwatch.study.jobs import Job, run_all\n"
    code += f"run_all([{job!r}], Path(sys.argv[1]), at_once=1)"
    study = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL)
    log = tmp_path / "clips.log"
    wait_for(lambda: log.exists() and log.stat().st_size)
    wait_for(lambda: len(psutil.Process(study.pid).children(recursive=True)) >= 3)  # the job and its workers
    left = psutil.Process(study.pid).children(recursive=True)

    study.kill()
    study.wait()
    assert not psutil.wait_procs(left, timeout=WAIT_S)[1]


def test_plans_with_equal_data_share_a_folder_so_that_one_continues_the_other():
    assert PLANS["quick"].folder == PLANS["small"].folder != PLANS["large"].folder


def test_from_the_base_all_begin_alike_and_other_k_and_rates_are_tested(tmp_path):
    plan = PLANS["quick"].from_base()
    assert plan.folder != PLANS["quick"].folder and plan.steps == PLANS["quick"].steps // 4
    jobs = {job.name: job for job in jobs_of(plan, tmp_path, tmp_path / "base")}
    assert set(jobs["group-0"].after) <= jobs.keys() and "model-0" not in jobs
    settings = read_settings(TrainSettings, list(jobs["group-0"].argv[1:]), program="", about="")
    assert settings.model_path == str(tmp_path / "base")
    tested = {name.removeprefix("eval-group-0-") for name in jobs if name.startswith("eval-group")}
    assert tested == {"fixed", "random", "burst", "k=1", "k=2", "k=4", "k=6", "1fps", "4fps", "8fps"}
    slow = read_settings(EvalSettings, list(jobs["eval-group-0-1fps"].argv[1:]), program="", about="")
    assert (slow.fps, slow.other_fps, slow.schedule) == (1, True, "wait-k:6")
    assert not [
        cell for cell in PLANS["small"].from_base().cells() if cell[0] == "origin" and cell[2].startswith("k=")
    ]


def test_the_page_has_a_table_of_other_k_and_rates(outcome, tmp_path):
    plan = outcome.plan.from_base()
    first = plan.seeds[0]
    more = {(v, first, name): outcome.cells[v, first, "fixed"] for v, name in plan.sweep()}
    assert {seed for _, seed, name in plan.cells() if name == "k=6"} == {first}
    outcome.jobs["group-0"]["argv"] += ["--model-path", str(tmp_path / "base-1/base")]
    outcome = replace(outcome, plan=plan, folder=tmp_path / "mixed", cells=outcome.cells | more)
    text = write_page(outcome, tmp_path / "report").read_text()
    assert "--model-path OUT/base-1/base" in text and str(tmp_path) not in text
    assert "from the same BASE" in text and "| `gap` | k=6 | 100.0 | 100.0 | 100.0 |" in text
    assert "| `origin` | 8fps |" in text and "--size small --base`" in text


class Forks:
    """In place of `subprocess`: a job's command line in a process that has imported everything."""

    STDOUT = subprocess.STDOUT

    @staticmethod
    def run(command, *, stdout, env, **_):
        done = Forked(cli.main, command[command.index("swwatch.cli") + 1 :], env=env).end()
        stdout.write(done.stdout + done.stderr)
        return done


@pytest.mark.slow
def test_a_study_from_nothing_and_again(tmp_path, monkeypatch, capsys, path_without_java):
    monkeypatch.setattr("swwatch.study.jobs.subprocess", Forks)
    monkeypatch.setenv("PATH", path_without_java)
    small = {"variants": ("group",), "level": "single", "clips": 16, "test_clips": 2, "steps": 1}
    monkeypatch.setitem(command.PLANS, "quick", replace(PLANS["quick"], **small))
    argv = ["--quick", "--out", str(tmp_path), "--jobs", "2"]
    assert command.main(argv) == 0
    assert "[7/7]" in capsys.readouterr().out
    plan = command.PLANS["quick"]
    found = read_outcome(plan, tmp_path / plan.folder)
    key = str(found.records[0]["video_id"])
    said = found.cells["group", 0, "random"].said[key]
    part, whole = clip_counts(said, toy_events(found.records[0]))["right"]
    assert found.cells["group", 0, "random"].counts["right"][0].tolist() == [part, whole]
    assert command.main(argv) == 0
    assert "[1/" not in capsys.readouterr().out  # nothing is run twice
    assert (tmp_path / plan.folder / "report-quick" / "toy_world.md").exists()
