"""One process at a time writes a run's files, and what a disk does not take is told as such."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swwatch.cli import COMMANDS, run
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError, disk_problem
from swwatch.paths import CODE, need_room, only_one, only_one_writes, whole_folder, writing
from tests.helpers.judge_runs import write_run

HELD = """
import sys, time
from pathlib import Path
from swwatch.paths import only_one
with only_one(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(300)
"""


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.endswith("lock")}


def judge_asked(folder):
    return ["judge", write_run(folder, "group", {"1": "A dog."}), "--model", "x", "--base-url", "http://127.0.0.1:9"]


# what is asked of a program in a folder, and what another process writes there meanwhile
WRITERS = {
    "toy data": lambda folder: (["toy", "data", folder / "toy", "--clips", "2"], only_one(folder / "toy", "toy")),
    "toy funqa": lambda folder: (["toy", "funqa", folder / "toy", "--clips", "2"], only_one(folder / "toy", "toy")),
    "chunk": lambda folder: (["chunk", folder / "said.jsonl", folder / "out.jsonl"], folder / "out.jsonl"),
    "judge": lambda folder: (judge_asked(folder), folder / "group_judge.json"),
    "judge --against": lambda folder: (
        [*judge_asked(folder), "--against", write_run(folder, "origin", {"1": "A cat."})],
        folder / "group_vs_origin_judge.json",
    ),
    "eval --score-only": lambda folder: (
        ["eval", "--score-only", "--output-file", write_run(folder, "group", {"1": "A dog."})],
        folder / "group_metrics.json",
    ),
    "study": lambda folder: (
        ["study", "--quick", "--steps", "1", "--out", folder],
        only_one(folder / "mixed-2400-100-1", "study"),
    ),
    "bench": lambda folder: (["bench", "live", "--output", folder], folder / "bench_live.json"),
}


@pytest.mark.parametrize("program", WRITERS)
def test_the_second_of_a_program_is_refused_before_it_touches_anything(program, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    (tmp_path / "said.jsonl").write_text(json.dumps({"video": "a.mp4", "content": [[0, 1, "word"]]}) + "\n")
    argv, first = WRITERS[program](tmp_path)
    with only_one_writes(first) if isinstance(first, Path) else first:
        before = snapshot(tmp_path)
        assert run(importlib.import_module(COMMANDS[argv[0]][0]).main, list(map(str, argv[1:]))) == 2
        assert "another run is writing" in capsys.readouterr().err and snapshot(tmp_path) == before


def test_two_servers_keep_their_recordings_apart(tmp_path):
    from swwatch.serve.record import Recordings

    first = Recordings(tmp_path, 60)
    with pytest.raises(UserError, match="another run is writing recordings"):
        Recordings(tmp_path, 60)
    first.close()
    Recordings(tmp_path, 60).close()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(CODE)})
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match="another run is writing"), only_one(tmp_path, "it"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    with only_one(tmp_path, "it"):
        pass


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "out") as part:
        (part / "file").write_text("half")
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    with whole_folder(tmp_path / "out") as part:
        (part / "file").write_text("whole")
        with pytest.raises(UserError, match="another run is writing"), whole_folder(tmp_path / "out"):
            pass
    assert (tmp_path / "out" / "file").read_text() == "whole"


def torch_saves(path):
    torch.save({"a": torch.zeros(1 << 20)}, path)


def torch_saves_in_a_file(path):
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(1 << 20)}, file)


def safetensors_saves(path):
    save_file({"a": torch.zeros(1 << 20)}, path)


def python_writes(path):
    path.write_bytes(bytes(4 << 20))


WAYS = [torch_saves, torch_saves_in_a_file, safetensors_saves, python_writes]


@pytest.mark.parametrize("write", WAYS)
def test_a_full_disk_is_told_whoever_writes(write, small_disk):
    folder = small_disk(1 << 20)
    with pytest.raises(UserError, match=f"cannot write to {folder}: the disk is full, .* Make room"), writing(folder):
        write(folder / "weights")


@pytest.mark.parametrize("write", WAYS)
def test_a_read_only_disk_is_told_whoever_writes(write, small_disk):
    folder = small_disk(1 << 20)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(UserError, match=f"cannot use {folder}.*: the file system is read-only"), writing(folder):
        write(folder / "weights")


@pytest.mark.parametrize(
    "error",
    [ValueError("code: 7"), FileNotFoundError(errno.ENOENT, "no", "x"), RuntimeError("no"), UserError("os error 28")],
    ids=str,
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    assert disk_problem(error, tmp_path) is None
    with pytest.raises(type(error)) as found, writing(tmp_path):
        raise error
    assert found.value is error


def test_a_full_disk_is_one_line_at_the_edge_of_every_program(capsys):
    def full(argv):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run(full, []) == 2
    assert capsys.readouterr().err.startswith("error: cannot write to the disk: the disk is full")


def test_no_room_for_temporary_files_is_told(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert run(lambda _: tempfile.mkdtemp(), []) == 2
    assert "TMPDIR" in capsys.readouterr().err


def test_a_limit_of_the_size_of_files_is_told(tmp_path):
    code = (
        "import resource, sys; from pathlib import Path; from swwatch.errors import run; from swwatch.paths import *\n"
    )
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\nfolder = Path(sys.argv[1])\n"
    code += "def program(argv):\n    with only_one(folder, 'it'): (folder / 'large').write_bytes(bytes(9999))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(run(program, []))", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(CODE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: cannot write to {tmp_path}: a file may not be")


def test_room_that_is_not_there_is_told_with_what_is_needed(tmp_path):
    need_room(tmp_path, 1, "nothing")
    with pytest.raises(UserError, match=f"a checkpoint needs {1 << 60:,} bytes, and the disk of {tmp_path} has"):
        need_room(tmp_path, 1 << 60, "a checkpoint")


def test_a_full_disk_is_told_with_the_folder_whoever_catches_it(small_disk, capsys):
    folder = small_disk(8192)
    assert run(lambda _: write_atomic(folder / "rows.jsonl", [20_000 * "x"]), []) == 2
    told = f"error: cannot write to {folder}: the disk is full, "
    assert capsys.readouterr().err.startswith(told) and not list(folder.iterdir())
