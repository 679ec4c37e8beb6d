"""`swwatch judge` from predictions to the file of grades, against a judge on loopback."""

import json
import threading

import pytest

from swwatch.cli import run
from swwatch.evaluate.judge import command as program
from swwatch.evaluate.judge import session
from swwatch.judge.rate_limit import RateLimit
from tests.helpers.judge_runs import CAPTIONS, by_caption, read, write_run
from tests.helpers.judge_server import KEY, better, cut, drop, error, grade, hang, length, raw, tagged


def test_grades_become_a_mean_with_an_interval_and_a_table(server, swwatch_judge, tmp_path, capsys):
    path = write_run(tmp_path, "group", CAPTIONS)
    assert swwatch_judge(path, "--input-price", "1", "--output-price", "10") == 0
    got = read(tmp_path / "group_judge.json")
    assert got["per_clip"] == {"1": 5, "2": 2, "3": 4, "4": 1}
    assert got["fluency"] == 3 and got["fluency_non_empty"] == pytest.approx(11 / 3)
    assert (got["num_clips"], got["num_judged"], got["num_empty"], got["num_failed"]) == (4, 4, 1, 0)
    assert got["scale"] == [1, 5] and got["model"] == "judge" and len(got["rubric_sha256"]) == 64
    assert got["ci95"][0] < 3 < got["ci95"][1] and got["why"]["1"] == "so A dog runs."
    assert got["grades"] == {"1": 1, "2": 1, "3": 0, "4": 1, "5": 1}
    assert got["tokens"]["this_run"] == {
        "num_answers": 3,
        "prompt_tokens": 300,
        "completion_tokens": 30,
        "num_unmetered": 0,
    }
    assert got["cost"] == {"this_run": pytest.approx(600e-6), "from_cache": 0}
    assert len(server.requests) == 3  # the empty caption is not asked
    assert all(request["temperature"] == 0 and request["model"] == "judge" for request in server.requests)
    assert all("grass" not in json.dumps(request) for request in server.requests)  # the reference is not shown
    out = capsys.readouterr().out
    assert "group" in out and "3.00" in out and "3 answers" in out and "cost 0.0006" in out


def test_a_second_run_asks_nothing_and_says_the_same(server, swwatch_judge, tmp_path):
    path = write_run(tmp_path, "group", CAPTIONS)
    server.plan = ["no idea"] * 3  # some replies are unusable: these are kept as well
    assert swwatch_judge(path, "--reasks", "1", "--concurrency", "1") == 0
    first, num_asked = read(tmp_path / "group_judge.json"), len(server.requests)
    assert first["num_failed"] == 1 and num_asked == 5
    assert swwatch_judge(path, "--reasks", "1") == 0
    second = read(tmp_path / "group_judge.json")
    assert len(server.requests) == num_asked
    assert second["tokens"]["from_cache"] == first["tokens"]["this_run"]
    assert second["tokens"]["this_run"]["num_answers"] == 0
    assert {**second, "tokens": 0} == {**first, "tokens": 0}


def test_more_reasks_ask_the_failed_clips_alone(server, swwatch_judge, tmp_path):
    path = write_run(tmp_path, "group", {"1": "A dog runs.", "2": "A cat sleeps."})
    server.plan = ["no idea"]
    assert swwatch_judge(path, "--reasks", "0", "--concurrency", "1") == 0
    assert read(tmp_path / "group_judge.json")["failed"] == ["1"]
    assert swwatch_judge(path, "--reasks", "1") == 0
    assert read(tmp_path / "group_judge.json")["per_clip"] == {"1": 5, "2": 4}
    assert len(server.requests) == 3


def test_unusable_replies_are_asked_again_then_counted_and_left_out(server, swwatch_judge, tmp_path, capsys):
    odd = {
        "bad": "{",
        "high": grade(9),
        "none": '{"why": "x"}',
        "text": grade("good"),
        "cut": length('{"score": 4, "w'),
    }
    server.brain = lambda request: odd.get(tagged(request, "text")) or grade(4)
    path = write_run(tmp_path, "group", {**{key: key for key in odd}, "fine": "fine"})
    assert swwatch_judge(path) == 0
    got = read(tmp_path / "group_judge.json")
    assert sorted(got["failed"]) == sorted(odd) and got["num_judged"] == 1 and got["fluency"] == 4
    assert len(server.requests) == 3 * len(odd) + 1
    assert "--max-tokens" in got["why_failed"]["cut"] and "9" in got["why_failed"]["high"]
    assert "5 clips" in capsys.readouterr().out


def test_a_judge_that_misbehaves_in_every_way_changes_no_grade(server, swwatch_judge, tmp_path):
    captions = {str(n): f"Caption number {n}." for n in range(12)}
    server.brain = lambda request: grade(int(tagged(request, "text").split()[-1][:-1]) % 5 + 1)
    tricks = [
        error(500),
        error(429),
        error(429, Retry_After="0"),
        drop,
        cut,
        raw(b"<html>"),
        "no idea",
        grade(7),
        hang,
    ]
    server.plan = list(tricks)
    assert swwatch_judge(write_run(tmp_path, "group", captions), "--timeout-s", "0.5", "--concurrency", "4") == 0
    got = read(tmp_path / "group_judge.json")
    assert got["per_clip"] == {str(n): n % 5 + 1 for n in range(12)}
    assert got["num_failed"] == 0 and len(server.requests) == 12 + len(tricks)


def test_questions_are_under_way_at_once_but_never_more_than_allowed(server, swwatch_judge, tmp_path):
    barrier = threading.Barrier(3)

    def together(request):
        barrier.wait(10)  # passes only if three questions are open at the same time
        return grade(3)

    server.brain = together
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(9)})
    assert swwatch_judge(path, "--concurrency", "3") == 0
    assert server.most_open == 3


def test_equal_captions_are_asked_once(server, swwatch_judge, tmp_path):
    path = write_run(tmp_path, "group", {str(n): "A dog runs." for n in range(20)})
    assert swwatch_judge(path) == 0
    assert len(server.requests) == 1 and read(tmp_path / "group_judge.json")["num_judged"] == 20


def test_several_runs_share_a_cache_where_one_is_named(server, swwatch_judge, tmp_path, capsys):
    paths = [write_run(tmp_path / name, name, CAPTIONS) for name in ("gap", "group")]
    assert swwatch_judge(*paths, "--cache", tmp_path / "kept") == 0
    assert len(server.requests) == 3 and all(
        (path.parent / f"{path.parent.name}_judge.json").exists() for path in paths
    )
    assert not list(tmp_path.rglob("judge_cache"))
    out = capsys.readouterr().out
    assert "gap" in out and "group" in out


def test_the_key_is_nowhere_but_in_the_header(server, swwatch_judge, tmp_path, capsys):
    server.brain = lambda request: grade(5, why=f"key {KEY}") if len(server.requests) < 3 else error(401, f"bad {KEY}")
    path = write_run(tmp_path, "group", CAPTIONS)
    assert swwatch_judge(path, "--concurrency", "1") == 2
    server.brain = by_caption()
    assert swwatch_judge(path) == 0
    assert set(server.keys) == {f"Bearer {KEY}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 5 and all(KEY.encode() not in file.read_bytes() for file in files)
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err and "OPENAI_API_KEY" in printed.err


def test_a_key_given_where_its_name_is_wanted_is_not_repeated(swwatch_judge, tmp_path, capsys):
    assert swwatch_judge(write_run(tmp_path, "group", CAPTIONS), "--key-env", KEY) == 2
    assert KEY not in capsys.readouterr().err


def test_a_missing_key_a_missing_model_and_no_key_wanted(server, swwatch_judge, tmp_path, capsys, monkeypatch):
    path = write_run(tmp_path, "group", CAPTIONS)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert swwatch_judge(path) == 2
    assert "OPENAI_API_KEY" in (told := capsys.readouterr().err) and "--key-env none" in told
    assert swwatch_judge(path, model=None) == 2
    assert "--model" in capsys.readouterr().err
    assert server.requests == []
    assert swwatch_judge(path, "--key-env", "none") == 0
    assert set(server.keys) == {None}


def test_a_refusal_stops_the_run_and_keeps_what_was_answered(server, swwatch_judge, tmp_path, capsys):
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(30)})
    server.plan = [grade(3)] * 10 + [error(403, "no access")] * 30
    assert swwatch_judge(path, "--concurrency", "2") == 2
    assert "no access" in capsys.readouterr().err and len(server.requests) <= 12
    assert not (tmp_path / "group_judge.json").exists()
    asked, server.plan, server.brain = len(server.requests), [], lambda request: grade(3)
    assert swwatch_judge(path) == 0
    assert len(server.requests) - asked == 20


def test_an_endpoint_that_is_down_stops_the_run(server, swwatch_judge, tmp_path, capsys):
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(50)})
    server.brain = lambda request: error(503, "loading")
    assert swwatch_judge(path, "--retries", "1", "--concurrency", "2") == 2
    assert "does not answer" in (told := capsys.readouterr().err) and "503 loading" in told
    assert len(server.requests) <= 8


def test_single_questions_without_answer_do_not_count_as_an_endpoint_that_is_down(server, swwatch_judge, tmp_path):
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(12)})
    server.plan = [error(500), grade(3)] * 6
    assert swwatch_judge(path, "--retries", "0", "--concurrency", "1") == 1
    assert read(tmp_path / "group_judge.json")["num_unanswered"] == 6


def test_a_clip_that_gets_no_answer_is_counted_and_asked_again_by_the_next_run(
    server, swwatch_judge, tmp_path, capsys
):
    path = write_run(tmp_path, "group", CAPTIONS)
    server.brain = lambda request: error(500) if tagged(request, "text") == "A cat sleeps." else grade(5)
    assert swwatch_judge(path, "--retries", "1") == 1
    got = read(tmp_path / "group_judge.json")
    assert got["failed"] == ["3"] and got["num_unanswered"] == 1 and got["num_judged"] == 3
    assert "1 clips got no answer" in capsys.readouterr().err
    asked, server.brain = len(server.requests), by_caption()
    assert swwatch_judge(path) == 0
    assert len(server.requests) == asked + 1 and read(tmp_path / "group_judge.json")["num_unanswered"] == 0


def test_no_usable_grade_at_all_is_an_error_and_no_file(server, swwatch_judge, tmp_path, capsys):
    server.brain = lambda request: "I will not."
    assert swwatch_judge(write_run(tmp_path, "group", CAPTIONS | {"4": "a"})) == 2
    assert "no clip could be judged" in capsys.readouterr().err
    assert not (tmp_path / "group_judge.json").exists()


def test_a_rate_limit_spaces_the_requests_of_all_threads(server, swwatch_judge, tmp_path, monkeypatch):
    waits, now, lock = [], [0.0], threading.Lock()

    def sleep(seconds):
        with lock:
            waits.append(seconds)

    monkeypatch.setattr(
        session, "RateLimit", lambda per_minute: RateLimit(per_minute, clock=lambda: now[0], sleep=sleep)
    )
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(6)})
    server.brain = lambda request: grade(3)
    assert swwatch_judge(path, "--requests-per-minute", "60", "--concurrency", "3") == 0
    assert sorted(waits) == [1, 2, 3, 4, 5]  # slots a second apart; the first needs no waiting


def test_settings_come_from_the_file_then_the_environment_then_flags(server, swwatch_judge, tmp_path, monkeypatch):
    config = tmp_path / "my.yaml"
    config.write_text("model: from-file\nmax_tokens: 7\nextra: '{\"seed\": 3}'\n")
    path = write_run(tmp_path, "group", {"1": "A dog runs."})
    assert swwatch_judge(path, "--config", config, model=None) == 0
    assert {k: server.requests[-1][k] for k in ("model", "max_tokens", "seed")} == {
        "model": "from-file",
        "max_tokens": 7,
        "seed": 3,
    }
    monkeypatch.setenv("SWWATCH_JUDGE_MODEL", "from-env")
    assert swwatch_judge(path, "--config", config, "--max-tokens", "none", model=None) == 0
    assert server.requests[-1]["model"] == "from-env" and "max_tokens" not in server.requests[-1]
    assert swwatch_judge(path, "--config", config, model="from-flag") == 0
    assert server.requests[-1]["model"] == "from-flag"


def test_a_judge_that_takes_no_temperature_and_another_limit_can_be_asked(server, swwatch_judge, tmp_path):
    path = write_run(tmp_path, "group", {"1": "A dog runs."})
    server.brain = lambda request: grade(3) if "temperature" not in request else error(400, "unsupported temperature")
    flags = ["--temperature", "none", "--max-tokens", "none", "--extra", '{"max_completion_tokens": 2000}']
    assert swwatch_judge(path) == 2 and swwatch_judge(path, *flags) == 0
    assert server.requests[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert read(tmp_path / "group_judge.json")["request"] == {"max_completion_tokens": 2000}


@pytest.mark.parametrize(
    "flags",
    [
        ["--concurrency", "0"],
        ["--retries", "-1"],
        ["--requests-per-minute", "0"],
        ["--max-tokens", "0"],
        ["--temperature", "-1"],
        ["--extra", "{"],
        ["--extra", "[]"],
        ["--extra", '{"temperature": 1}'],
        ["--input-price", "1"],
        ["--timeout-s", "0"],
        ["--criterion", "narration"],
        ["--rubric", "no.yaml"],
        ["--base-url", "nowhere"],
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_asked(server, swwatch_judge, tmp_path, flags, capsys):
    path = write_run(tmp_path, "group", CAPTIONS)
    arguments = [str(path), "--base-url", server.url, "--model", "judge", *flags]
    assert run(program.main, arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ") and server.requests == []


def test_predictions_with_flaws_are_judged_and_the_flaws_told(server, swwatch_judge, tmp_path, capsys):
    path = write_run(tmp_path, "group", CAPTIONS)
    path.write_bytes(path.read_bytes() + b'{"video_id": 9, "result": "A d')
    assert swwatch_judge(path) == 0
    assert "cut" in capsys.readouterr().err and read(tmp_path / "group_judge.json")["num_clips"] == 4


def test_two_runs_side_by_side(server, swwatch_judge, tmp_path, capsys):
    good, bad = {"1": "good 1", "2": "good 2", "3": "", "5": "x"}, {"1": "bad 1", "2": "bad 2", "3": "bad 3"}
    path_a, path_b = write_run(tmp_path / "a", "group", good), write_run(tmp_path / "b", "interleave", bad)
    server.brain = lambda request: better("first" if tagged(request, "first").startswith("good") else "second")
    assert swwatch_judge(path_a, "--against", path_b) == 0
    got = read(tmp_path / "a" / "group_vs_interleave_judge.json")
    assert got["win_rate"] == pytest.approx(2 / 3) and got["only_in"] == {"a": 1, "b": 0}
    assert got["per_clip"]["1"] == {"a_first": "a", "b_first": "a", "score": 1} and got["per_clip"]["3"]["score"] == 0
    assert got["position_bias"] == {"num_clips": 2, "first_in_both": 0, "second_in_both": 0, "first_share": 0.5}
    assert len(server.requests) == 4
    assert swwatch_judge(path_a, "--against", path_b) == 0
    assert len(server.requests) == 4
    assert "66.7 %" in capsys.readouterr().out


def test_a_criterion_with_reference_shows_it_and_has_a_file_of_its_own(server, swwatch_judge, tmp_path, capsys):
    path_a, path_b = (write_run(tmp_path / name, "group", {"1": f"caption {name}"}) for name in ("fixed", "random"))
    server.brain = lambda request: better("first")
    assert swwatch_judge(path_a, "--against", path_b, "--criterion", "narration") == 0
    assert {tagged(request, "reference") for request in server.requests} == {"A dog runs over grass."}
    got = read(tmp_path / "fixed" / "fixed-group_vs_random-group_narration_judge.json")
    assert got["win_rate"] == 0.5 and got["position_bias"]["first_in_both"] == 1
    other = write_run(tmp_path / "other", "gap", {"1": "caption"}, annotation="Something else.")
    assert swwatch_judge(path_a, "--against", other, "--criterion", "narration") == 2
    assert "reference" in capsys.readouterr().err
    assert swwatch_judge(path_a, "--against", other) == 0  # fluency needs none


def test_runs_that_cannot_be_compared(swwatch_judge, tmp_path, capsys):
    path = write_run(tmp_path, "group", CAPTIONS)
    assert swwatch_judge(path, "--against", path) == 2
    assert "itself" in capsys.readouterr().err
    assert swwatch_judge(path, "--against", write_run(tmp_path, "gap", {"x": "y"})) == 2
    assert "no clip in common" in capsys.readouterr().err
