"""`swwatch watch` with a model in this process: files, a stream over loopback, questions, Ctrl-C, mistakes."""

import json
import os
import signal
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from swwatch import cli
from swwatch.data.live import sources
from swwatch.watch import command as watch
from tests.helpers import live_servers as loopback

WAIT_S = 60


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """clips(seconds) -> an mp4 of 10 frames a second."""
    folder = tmp_path_factory.mktemp("clips")

    def make(seconds: int) -> Path:
        path = folder / f"{seconds}.mp4"
        if not path.exists():
            loopback.write(path, range(10 * seconds), Fraction(1, 10), rate=10, size=(56, 84))
        return path

    return make


@pytest.fixture
def run(tiny_checkpoint, tmp_path):
    """run(source, *flags) -> (exit code, events)."""

    def go(source, *flags):
        out = tmp_path / "events.jsonl"
        model = ("--model", str(tiny_checkpoint), "--variant", "group", "--device", "cpu")
        code = cli.run(watch.main, [str(source), *model, "--jsonl", str(out), "--max-new-tokens", "40", *flags])
        return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    return go


@pytest.fixture
def typed(monkeypatch):
    """What the terminal is: write lines into it."""
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield terminal


def of(kind: str, events) -> list[dict]:
    return [event for event in events if event["type"] == kind]


def when_written(path: Path, kind: str, act) -> threading.Thread:
    """Call `act` once there is an event of this kind."""

    def wait():
        deadline = time.monotonic() + WAIT_S
        while not (path.exists() and f'"type":"{kind}"' in path.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_file_is_narrated_as_fast_as_the_model_watches_it(run, clips, capsys):
    code, events = run(clips(4), "--no-realtime", "--schedule", "wait-k:2", "--question", "What moves?")
    assert code == 0
    assert [event["step"] for event in of("watched", events)] == [0, 1, 2, 3]
    assert [event["n"] for event in events] == list(range(len(events))), "numbered as a server's are"
    assert [event["type"] for event in events][-1] == "end" and events[-1]["reason"] == "finished"
    assert [event["index"] for event in of("token", events)] == list(range(events[-1]["tokens"]))
    lines = capsys.readouterr().out.splitlines()
    assert "group, wait-k:2 | What moves?" in lines[0] and lines[1].startswith("engine serial: ")
    assert [line.split()[1] for line in lines if line.startswith("seen")] == ["0-1", "0-2", "0-3", "0-4"]
    assert lines[-1].startswith("frames 40, dropped 0; seconds watched 4; tokens ")


def test_what_is_said_is_handed_to_a_command(run, clips, tmp_path):
    out = tmp_path / "said.jsonl"
    code, events = run(clips(2), "--no-realtime", "--schedule", "wait-k:2", "--on", f"said=tee -a {out}")
    assert code == 0
    said = [json.loads(text + "}") for text in out.read_text().split("}")[:-1]]
    assert [one["type"] for one in said] == ["said", "said"], "of two seconds, the rest with the last"
    words = "".join(event["text"] for event in of("token", events)).split()
    assert "".join(" ".join(one["text"] for one in said).split()) == "".join(words)


def test_chat_turns_are_told_with_their_seconds(run, clips, capsys):
    code, events = run(clips(4), "--no-realtime", "--variant", "livecc", "--max-new-tokens", "3")
    assert code == 0
    turns, newest = of("turn", events), -1
    assert [(turn["turn"], turn["start_s"], turn["end_s"]) for turn in turns] == [(0, 0.0, 3.0), (1, 3.0, 4.0)]
    assert [event["step"] for event in of("watched", events)] == [0, 1, 2, 3]
    for event in events:
        newest = event["step"] if event["type"] == "watched" else newest
        assert event["type"] != "token" or event["step"] == event["newest_visible_step"] == newest
    printed = capsys.readouterr().out
    silent = ["" if turn["text"] else ", silent" for turn in turns]
    assert f"(0-3 s{silent[0]})" in printed and f"(3-4 s{silent[1]})" in printed


def test_a_file_plays_at_its_own_pace_unless_told_otherwise(run, clips):
    began = time.monotonic()
    code, events = run(clips(2))
    assert code == 0 and time.monotonic() - began >= 1.5, "its last frame on the grid"
    assert len(of("watched", events)) + sum(event["steps"] for event in of("dropped", events)) == 2


def test_a_stream_over_http_is_watched_to_its_end(run, clips):
    with loopback.http_server(clips(4).read_bytes(), "endless") as server:
        code, events = run(server.url, "--no-realtime")
    assert code == 0 and of("watched", events) and events[-1]["reason"] == "finished"


def test_a_source_that_breaks_off_is_told_once_the_rest_is_said(run, clips, capsys, monkeypatch):
    frames_of = sources.frames_of
    monkeypatch.setattr(sources, "frames_of", lambda *a, **how: frames_of(*a, **how, reconnects=1, backoff_s=0.01))
    with loopback.http_server(clips(4).read_bytes(), "half") as server:
        code, events = run(server.url, "--no-realtime")
    assert code == 2 and events[-1]["reason"] == "finished"
    printed = capsys.readouterr().err
    assert "trying again" in printed and "error: " in printed.splitlines()[-1] and "Traceback" not in printed


def test_questions_and_orders_are_typed_meanwhile(run, clips, typed, capsys, tmp_path):
    def act():
        typed.write("/hop\nWhat <|im_end|>?\n\nAnd what now?\n")
        when_written(tmp_path / "events.jsonl", "asked", lambda: typed.write("/stop\n"))

    when_written(tmp_path / "events.jsonl", "token", act)
    code, events = run(clips(60), "--ask")
    assert code == 0 and events[-1]["reason"] == "stopped"
    (question,) = of("asked", events)
    assert question["question"] == "And what now?" and 0 < question["step"] < 59
    assert len(of("watched", events)) < 60
    out, err = capsys.readouterr()
    assert f"[asked, from second {question['step'] + 1} on: And what now?]" in out
    assert "[/hop: write a question, or one of /pause, /resume, /stop]" in err and "<|im_end|>" in err


def test_silence_and_speech_by_order(run, clips, typed, tmp_path):
    typed.write("/pause\n")
    when_written(tmp_path / "events.jsonl", "watched", lambda: typed.write("/resume\n"))
    code, events = run(clips(4), "--ask")
    assert code == 0 and of("token", events)
    assert all(token["step"] > 0 for token in of("token", events)), "nothing is said of the first second"


def interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_ctrl_c_ends_the_watching_and_the_rest_is_said(run, clips, tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT)
    when_written(tmp_path / "events.jsonl", "token", interrupt)
    code, events = run(clips(60))
    assert code == 0 and events[-1]["reason"] == "finished" and len(of("watched", events)) < 60
    assert events[-1]["tokens"] == 40, "the rest, to the limit"
    assert "the rest is said" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_leaves_at_once(run, clips, tmp_path, capsys, monkeypatch):
    """The video goes on until then, so that not all is said before it comes."""
    second, stop = threading.Event(), sources.FrameStream.stop

    def stop_late(source):
        second.wait(WAIT_S)
        stop(source)

    def twice():
        interrupt()
        while "again to leave" not in capsys.readouterr().err:
            time.sleep(0.01)
        interrupt()
        second.set()

    monkeypatch.setattr(sources.FrameStream, "stop", stop_late)
    when_written(tmp_path / "events.jsonl", "token", twice)
    code, events = run(clips(60), "--max-new-tokens", "100000")
    assert code == 130 and not of("end", events)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["missing.mp4"], "does not exist"),
        (["ftp://host/a.mp4"], "must begin with"),
        (["camera:"], "camera:0 is the first"),
        (["camera:0", "--server", "http://h", "--model", "m"], "--model is for a model here"),
        (["camera:0", "--server", "http://h", "--see", "all"], "--see is for a model here"),
        (["camera:0", "--see", "most"], "Write all"),
        (["camera:0", "--speak", "often"], "wait-k:3"),
        (["camera:0", "--speak", "wait-k:2", "--schedule", "wait-k:3"], "two names of one setting"),
        (["camera:0", "--server", "http://h", "--max-new-tokens", "9"], "--max-new-tokens is for a model here"),
        (["camera:0", "--server", "http://h", "--no-realtime"], "the stream's own pace"),
        (["camera:0", "--remote"], "are for --server"),
        (["camera:0", "--server", "h:1"], "write a server's address"),
        (["camera:0", "--jsonl", "no/folder/x"], "cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(argv, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(watch.main, argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and told in error


def test_a_mistake_costs_no_earlier_runs_events(run, clips, tmp_path, capsys):
    (tmp_path / "events.jsonl").write_text('{"type":"kept"}\n')
    assert run(clips(2), "--device", "abacus") == (2, [{"type": "kept"}])
    assert run(clips(2), "--jsonl", "/dev/full")[0] == 2 and "the disk is full" in capsys.readouterr().err
    assert run(tmp_path / "events.jsonl")[0] == 2 and (tmp_path / "events.jsonl").read_text()
