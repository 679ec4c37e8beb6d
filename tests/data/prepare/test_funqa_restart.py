"""Preparation of FunQA can be killed anywhere, opens no video twice, and gives the same files."""

import json
import os
import subprocess
import sys

import pytest

from swwatch.cli import run
from swwatch.data.prepare import durations
from swwatch.data.prepare.command import main
from swwatch.data.prepare.funqa import FunQASettings, plan, prepare_split
from swwatch.data.video import VideoError
from swwatch.toy.funqa import FunqaRecipe, write_funqa
from tests.helpers.pe_video_files import REPOSITORY, count_words

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{repository!r}]
import decord
from tests.helpers.pe_video_files import count_words
from swwatch.data.prepare.funqa import FunQASettings, plan, prepare_split
files = set("open write writelines flush fsync replace unlink mkdir close".split())

def prepare(output, left):
    \"\"\"Prepare in a process that kills itself before its `left`-th file operation: (exit status, steps made).\"\"\"
    job = plan(FunQASettings(dataset_root=Path({root!r}), output_dir=Path(output)), Path())[0]
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(os.read(read, 20) or 0)
    made = 0
    def count(frame, event, function):
        nonlocal made
        if event == "c_call" and function.__name__ in files:
            made += 1
            if made == left:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)
    prepare_split(job, count_words)
    sys.setprofile(None)
    os.write(write, str(made).encode())
    os._exit(0)

status, total = prepare("whole", 0)
assert status == 0 and total > 30, (status, total)
for left in range(2, total, total // 12):
    assert prepare(str(left), left) == (-signal.SIGKILL, 0)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("funqa")
    write_funqa(folder, FunqaRecipe(9, 3, noise=0.3))
    return folder


@pytest.fixture
def flags(root, tiny_checkpoint, tmp_path):
    places = ["--dataset-root", str(root), "--output-dir", str(tmp_path), "--tokenizer-model-id", str(tiny_checkpoint)]
    return ["--task", "funqa", *places, "--splits", "train", "--workers", "1"]


def outputs(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def opened(monkeypatch):
    """Names of the videos that were opened."""
    names, measure = [], durations.measure_duration_s
    monkeypatch.setattr(durations, "measure_duration_s", lambda path: names.append(path.name) or measure(path))
    return names


def test_after_a_kill_at_any_step_a_restart_gives_the_same_files(root, tmp_path):
    script = KILLED.format(repository=str(REPOSITORY), root=str(root))
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stderr
    wanted, killed = outputs(tmp_path / "whole"), sorted(set(tmp_path.iterdir()) - {tmp_path / "whole"})
    assert len(wanted) == 3 and len(killed) >= 10
    for output in killed:
        job = plan(FunQASettings(dataset_root=root, output_dir=output), tmp_path)[0]
        prepare_split(job, count_words)
        assert outputs(output) == wanted, f"killed at step {output.name}"


def test_a_restart_opens_only_the_videos_that_were_not_measured(flags, tmp_path, opened, monkeypatch):
    assert main(flags) == 0
    everything, wanted = list(opened), outputs(tmp_path)
    kept = tmp_path / ".funqa_train.jsonl.parts" / "durations.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    assert len(lines) == len(everything) == len(set(everything)) == 9
    for tail in (b"", lines[4][:10], lines[4][:-1], b"\xff\xfe\n"):  # what a kill may leave behind
        kept.write_bytes(b"".join(lines[:4]) + tail)
        opened.clear()
        assert main(flags) == 0 and outputs(tmp_path) == wanted
        assert opened == everything[5 if tail == lines[4][:-1] else 4 :]
    opened.clear()
    assert main(flags) == 0 and opened == []


def test_a_changed_video_is_measured_again_and_failures_are_not_kept(flags, root, tmp_path, opened, monkeypatch):
    assert main(flags) == 0
    wanted, video = outputs(tmp_path), next((root / "FunQA" / "train_humor").iterdir())
    stat = video.stat()
    os.utime(video, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    opened.clear()
    assert main(flags) == 0 and opened == [video.name]
    assert outputs(tmp_path) == wanted

    def fail(path):
        opened.append(path.name)
        raise VideoError(path, "the disk is ill")

    (tmp_path / ".funqa_train.jsonl.parts" / "durations.jsonl").unlink()
    with monkeypatch.context() as ill:
        ill.setattr(durations, "measure_duration_s", fail)
        assert run(main, flags) == 2
        assert run(main, [*flags, "--max-bad-fraction", "1"]) == 0
        report = json.loads((tmp_path / "funqa_train_report.json").read_text())
        assert report["kept"] == 0 and report["dropped"]["video_unreadable"] == 18
    assert main(flags) == 0 and outputs(tmp_path) == wanted, "the disk is well again"


def test_two_runs_cannot_write_one_output(flags, monkeypatch, capsys):
    def second(path):
        assert run(main, flags) == 2
        assert "another run is writing" in capsys.readouterr().err
        raise KeyboardInterrupt

    monkeypatch.setattr(durations, "measure_duration_s", second)
    assert run(main, flags) == 130
