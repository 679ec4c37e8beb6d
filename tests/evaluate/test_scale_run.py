"""Several processes over one test set: each clip once, the same bytes as one process, whoever is killed when (P10)."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, PrefixStore, TCPStore
from tqdm import tqdm

from swwatch.errors import UserError
from swwatch.evaluate.caption.runner import Unreadable, run
from swwatch.evaluate.results import Results, Writer, beside, part_of
from swwatch.launch.ranks import SingleProcess, Stopped, Team
from swwatch.narrate.words import Token

ROOT = Path(__file__).parents[2]
RUN = {"settings": {"variant": "group"}, "about": {"clips_at_once": 1, "num_processes": 1}}
RECORDS = [
    {"video_id": f"clip{i}", "human_caption": f"reference {i}", "video_path": f"{i}.mp4"}
    for i in random.Random(0).sample(range(30), 30)
]


def narrate(clip):
    for i, word in enumerate(f"this is {clip.key}".split()):
        time.sleep(0.0005)
        yield Token(step=i, token_id=i, newest_visible_step=i, t_frame_s=i + 1, t_emit_s=i + 1.5, text=word + " ")


def evaluate(path, ranks, records=RECORDS, narrator=narrate, max_bad_fraction=0.01):
    """What `swwatch eval` does with a model that is always the same."""

    def work(results):
        places = {"locate": lambda name: Path("/videos") / name, "narrator": narrator, "ranks": ranks}
        run(records, results, **places, question="What?", task="3_5", max_bad_fraction=max_bad_fraction)

    with ranks:
        if ranks.rank:
            with Writer(part_of(path, ranks.rank), ranks.hear()) as part:
                work(part)
            ranks.leave()
            return
        with Results(path, RUN, [record["video_id"] for record in records]) as results:
            num_before = len(results.done)
            if ranks.size == 1:
                work(results)
            else:
                ranks.tell(sorted(results.done))
                with Writer(part_of(path, 0), results.done) as part:
                    work(part)
                ranks.wait_for_all()
            results.complete(num_before + ranks.add("ended", 0) - ranks.add("skipped", 0))


def together(size, work):
    """`work(team)` in a thread for each rank; rank -> the error it ended with."""
    store, errors = HashStore(), {}

    def one(rank):
        try:
            work(Team(store, rank, size))
        except BaseException as error:
            errors[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def ids(path):
    return [json.loads(line)["video_id"] for line in path.read_text().splitlines()]


def contents(path):
    return [file.read_bytes() for file in (path, beside(path, "trace.jsonl"), beside(path, "skipped.jsonl"))]


@pytest.fixture
def alone(tmp_path):
    """The files that one process writes."""
    path = tmp_path / "alone" / "group_infer.json"
    evaluate(path, SingleProcess())
    assert ids(path) == [record["video_id"] for record in RECORDS]
    return contents(path)


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_write_the_bytes_of_one(tmp_path, alone, size):
    path = tmp_path / "group_infer.json"
    assert together(size, lambda team: evaluate(path, team)) == {}
    assert contents(path) == alone


def test_a_slow_clip_does_not_hold_the_others_back(tmp_path):
    """The first clip ends only when all others have: possible only if the other rank takes every one of them."""
    path, others = tmp_path / "group_infer.json", threading.Semaphore(0)

    def narrator(clip):
        if clip.key == RECORDS[0]["video_id"]:
            for _ in RECORDS[1:]:
                assert others.acquire(timeout=60)
        yield from narrate(clip)
        others.release()

    assert together(2, lambda team: evaluate(path, team, narrator=narrator)) == {}
    assert ids(path) == [record["video_id"] for record in RECORDS]


def test_unreadable_clips_are_counted_over_all_ranks(tmp_path):
    bad = {record["video_id"] for record in RECORDS[::10]}  # 3 of 30

    def narrator(clip):
        if clip.key in bad:
            raise Unreadable("broken")
        yield from narrate(clip)

    def work(fraction):
        return lambda team: evaluate(tmp_path / "group_infer.json", team, narrator=narrator, max_bad_fraction=fraction)

    errors = together(3, work(0.07))
    told = [str(error) for error in errors.values() if not isinstance(error, Stopped)]
    assert len(told) == 1 and "3 of 30 clips cannot be read" in told[0] and "rank*_skipped.jsonl" in told[0]
    assert together(3, work(0.1)) == {}
    assert ids(beside(tmp_path / "group_infer.json", "skipped.jsonl")) == [r["video_id"] for r in RECORDS[::10]]


def test_a_failing_rank_stops_the_others_and_its_finished_clips_count(tmp_path, alone):
    path = tmp_path / "group_infer.json"

    def narrator(clip):
        yield from narrate(clip)
        if clip.key == RECORDS[7]["video_id"]:
            raise RuntimeError("CUDA error")

    errors = together(2, lambda team: evaluate(path, team, narrator=narrator))
    assert {type(error) for error in errors.values()} == {RuntimeError, Stopped}
    assert len(ids(path)) < len(RECORDS)
    evaluate(path, SingleProcess())
    assert contents(path) == alone


def process(path, port, attempt, rank, size):
    """One rank in a process of its own, as torchrun would start it; the store outlives it."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a fork shares its parent's, which one that is killed may hold for ever
    store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)

    def slowly(clip):  # so that on a fast machine, too, there is something left to kill
        time.sleep(0.1)
        yield from narrate(clip)

    try:
        team = Team(PrefixStore(str(attempt), store), rank, size, beat_s=0.05, patience_s=2)
        evaluate(path, team, narrator=slowly)
    except UserError:
        os._exit(2)


def test_any_rank_may_be_killed_at_any_moment_again_and_again(tmp_path, alone):
    path, draw, kills = tmp_path / "group_infer.json", random.Random(1), 0
    context = multiprocessing.get_context("fork")
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for attempt in range(40):
        size = draw.choice([2, 3])
        team = [context.Process(target=process, args=(path, server.port, attempt, rank, size)) for rank in range(size)]
        for member in team:
            member.start()
        if kills < 5:
            time.sleep(draw.uniform(0, 0.3))
            victim = draw.choice(team)
            victim.kill()
            victim.join()
            kills += victim.exitcode == -signal.SIGKILL
            if draw.random() < 0.5:  # torchrun ends the others at once; without it they notice
                for member in team:
                    member.kill()
        for member in team:
            member.join(60)
            assert member.exitcode is not None, "a rank hangs"
        if all(member.exitcode == 0 for member in team):
            break
    assert kills >= 3
    assert contents(path) == alone


@pytest.fixture
def begin(path_without_java):
    """begin(number of processes, *arguments): starts `bash eval.sh`, with this interpreter."""

    def start(num_processes, *argv) -> subprocess.Popen:
        own = {"NPROC_PER_NODE": str(num_processes), "SWWATCH_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | own | {"PATH": path_without_java}
        return subprocess.Popen(["bash", str(ROOT / "eval.sh"), *map(str, argv)], env=environment, **pipes)

    return start


@pytest.fixture
def launch(begin):
    """launch(number of processes, *arguments): `bash eval.sh` to its end."""

    def whole(num_processes, *argv) -> subprocess.CompletedProcess:
        process = begin(num_processes, *argv)
        out, printed = process.communicate(timeout=300)
        return subprocess.CompletedProcess(argv, process.returncode, out, printed)

    return whole


@pytest.mark.slow
def test_eval_sh_gives_the_same_captions_with_two_processes_and_with_several_clips_at_once(
    tiny_checkpoint, small_test_set, tmp_path, monkeypatch, launch
):
    from swwatch.evaluate.caption import command
    from swwatch.metrics import captions

    monkeypatch.setattr(captions, "java_problem", lambda: "no `java` on the PATH")  # starts quicker
    data = small_test_set(tmp_path, 4)
    argv = ["--model-path", tiny_checkpoint, "--variant", "group", "--data-dir", data, "--device", "cpu"]
    argv = [str(arg) for arg in [*argv, "--max-new-tokens", 12, "--schedule", "random:2:seed=5", "--output-dir"]]
    assert command.main([*argv, str(tmp_path / "one")]) == 0
    done = launch(2, *argv, tmp_path / "two", "--clips-at-once", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 clips scored, 0 skipped") == 1, "rank 0 alone scores"
    one, two = ((tmp_path / name / "group_infer.json").read_bytes() for name in ("one", "two"))
    assert one == two and len(one.splitlines()) == 4
    about = json.loads((tmp_path / "two/group_run.json").read_text())["about"]
    assert (about["clips_at_once"], about["num_processes"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_stop_signal_ends_eval_sh_with_75_and_the_same_command_ends_it(
    tiny_checkpoint, small_test_set, tmp_path, num_processes, begin, launch
):
    argv = ["--model-path", tiny_checkpoint, "--variant", "group", "--data-dir", small_test_set(tmp_path, 24)]
    argv += ["--device", "cpu", "--max-new-tokens", 30, "--output-dir", tmp_path / "out"]
    evaluation = begin(num_processes, *argv)
    while not any(path.stat().st_size for path in (tmp_path / "out").rglob("*.jsonl*")):
        assert evaluation.poll() is None, evaluation.stderr.read()
        time.sleep(0.02)
    evaluation.send_signal(signal.SIGTERM)
    _, printed = evaluation.communicate(timeout=100)
    assert evaluation.returncode == 75, printed
    assert printed.count("stopped by a signal: the same command continues") == 1 and "Traceback" not in printed
    done = launch(num_processes, *argv)
    assert done.returncode == 0 and "24 clips scored, 0 skipped" in done.stdout, done.stderr


def test_a_mistake_is_told_once_before_processes_are_started(launch):
    done = launch(2, "--clips-at-once", "many")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("--clips-at-once many: a whole number from 1 on, or auto") == 1
