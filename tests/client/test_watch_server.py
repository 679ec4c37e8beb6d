"""`swwatch watch --server`: a running server narrates what is read here, or what it reads itself."""

import json
import os
import subprocess
import sys

import pytest

from swwatch import cli
from swwatch.watch import command as watch

CODE = """
import sys
from swwatch import cli
from swwatch.watch import command
code = cli.run(command.main, sys.argv[1:])
assert 'torch' not in sys.modules
sys.exit(code)
"""


@pytest.fixture
def run(server, tmp_path):
    """run(source, *flags) -> (exit code, events)."""

    def go(source, *flags):
        out = tmp_path / "events.jsonl"
        code = cli.run(watch.main, [str(source), "--server", server.address, "--jsonl", str(out), *flags])
        return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    return go


@pytest.mark.parametrize("remote", [False, True])
def test_a_clip_is_narrated_through_a_server(run, clip, capsys, remote):
    code, events = run(*(["clip.mp4", "--remote"] if remote else [clip]), "--question", "What moves?")
    assert code == 0 and events[-1]["reason"] == "finished"
    assert [event["n"] for event in events] == list(range(len(events)))
    assert [event["step"] for event in events if event["type"] == "watched"] == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    assert "group, wait-k:3 | What moves?" in lines[0] and lines[1].startswith("engine serial: ")
    assert [line.split()[1] for line in lines if line.startswith("seen")] == ["0-1", "0-2"]
    assert lines[-1].startswith(f"frames sent {0 if remote else 4}, skipped 0, lost 0; dropped there 0; tokens ")


def test_a_client_machine_needs_no_model_library_and_may_keep_its_terminal_open(server, clip):
    """The token comes from the environment; stdin stays open, and is no reason to stay or to crash."""
    argv = [sys.executable, "-c", CODE, str(clip), "--server", server.url, "--ask"]
    environment = os.environ | {"SWWATCH_TOKEN": "a-good-token"}
    process = subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.stdin.write("What now?\n")
        process.stdin.flush()
        assert process.wait(60) == 0, process.stderr.read()
        assert "asked, from second" in process.stdout.read()
    finally:
        process.kill()
        process.communicate()


def test_what_the_server_says_no_to_is_an_error(run, server, clip, capsys):
    assert run("nothing.mp4", "--remote")[0] == 2
    assert run("http://127.0.0.1:1/x.mp4", "--remote")[0] == 2
    assert run(clip, "--variant", "gap")[0] == 2
    assert cli.run(watch.main, [str(clip), "--server", server.url, "--token", "wrong-token"]) == 2
    page = server.url  # a page is no video: that is the reason, not that no frame came
    assert run(page)[0] == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    words = ("no such file", "--allow-urls", "no such variant", "give its token", "read as video")
    for line, word in zip(printed, words, strict=True):
        assert word in line
