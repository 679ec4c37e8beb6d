"""`swwatch judge` in processes of its own: what a kill leaves, and two at once."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers.judge_runs import read, write_run
from tests.helpers.judge_server import KEY, grade, hang


def start(server, path, *arguments):
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    command = [
        sys.executable,
        "-c",
        "import sys; from swwatch.cli import run; from swwatch.evaluate.judge.command import main;",
    ]
    command[-1] += "sys.exit(run(main, sys.argv[1:]))"
    command += [str(path), "--base-url", server.url, "--model", "judge", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell's background job ignores Ctrl-C, and so would what it starts
    hears = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, preexec_fn=hears, **pipes)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.005)


def held_after(server, number):
    """A brain that answers `number` questions and holds back all others."""

    def brain(request):
        with server.lock:
            server.num_answered = getattr(server, "num_answered", 0) + 1
            late = server.num_answered > number
        return hang if late else grade(3)

    return brain


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_is_continued_with_what_is_missing_alone(server, swwatch_judge, tmp_path, how):
    path = write_run(tmp_path, "group", {str(n): f"caption {n}" for n in range(20)})
    server.brain = held_after(server, 7)
    process = start(server, path, "--concurrency", "2", "--timeout-s", "3", "--retries", "0")
    kept = tmp_path / "judge_cache"
    until(lambda: len(server.requests) == 9 and len(list(kept.glob("??/*[!k]"))) >= 7)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
    assert "Traceback" not in err and not (tmp_path / "group_judge.json").exists()
    asked, server.brain = len(server.requests), lambda request: grade(3)
    assert swwatch_judge(path) == 0
    assert len(server.requests) - asked == 13
    assert read(tmp_path / "group_judge.json")["num_judged"] == 20


def test_two_processes_with_one_cache_ask_each_question_once(server, tmp_path):
    captions = {str(n): f"caption {n}" for n in range(5)}
    paths = [
        write_run(tmp_path / "one", "group", captions),
        write_run(tmp_path / "two", "group", dict(reversed(captions.items()))),
    ]
    both = threading.Event()

    def brain(request):
        both.wait(20)
        return grade(3)

    server.brain = brain
    processes = [start(server, path, "--cache", str(tmp_path / "kept"), "--concurrency", "3") for path in paths]
    until(lambda: len(server.requests) == 5)  # one asks 0 1 2, the other 4 3, and one of them waits for the other's 2
    both.set()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(server.requests) == 5
    assert all(read(path.with_name("group_judge.json"))["num_judged"] == 5 for path in paths)
