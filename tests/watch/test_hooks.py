"""Commands and web addresses that are told of a narration."""

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from swwatch.client.protocol import Decided, End, Token, Turn
from swwatch.errors import UserError
from swwatch.watch.command import WatchSettings
from swwatch.watch.hooks import Hooks, parse_on

NASTY = "$(touch /tmp/x); `id` | 'a' \"b\" \n& <\0>"
WRITE = "import os,sys; open(sys.argv[1],'a').write(sys.stdin.read()+chr(10)+os.environ['SWWATCH_EVENT']+chr(10))"


def token(step: int, text: str) -> Token:
    times = {"t_frame_s": step + 0.5, "t_emit_s": step + 0.6, "lag_s": 0.1}
    return Token(text=text, step=step, newest_visible_step=step, index=0, **times)


EVENTS = [
    token(0, " A"),
    token(0, NASTY),
    token(1, "then"),
    Decided(step=2, tokens=0, t_s=2.0, why={}),
    Turn(turn=0, start_s=3.0, end_s=4.0, text="a turn", t_s=4.0),
    End(reason="finished", tokens=3),
]
SAID = [" ".join(f"A{NASTY}".split()), "then", "a turn"]


@contextmanager
def web(status: int = 200, **headers: str):
    """(address, what was posted to it)."""
    got = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", got
        server.shutdown()


def test_a_command_gets_what_was_said_as_json_and_no_shell_sees_it(tmp_path, capfd):
    out = tmp_path / "told; touch $HOME"
    command = f"{sys.executable} -c \"{WRITE}\" '{out}'"
    with Hooks([f"said={command}", f"end={command}"]) as hooks:
        assert list(hooks.heard(EVENTS)) == EVENTS, "all pass through"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[::2] == lines[1::2], "by stdin and in the environment"
    assert [line["text"] for line in lines[:-2:2]] == SAID and lines[-1]["type"] == "end"
    assert lines[0] == {"type": "said", "start_s": 0.6, "end_s": 1.6, "text": SAID[0]}
    assert [(line["start_s"], line["end_s"]) for line in lines[2:-2:2]] == [(1.6, 2.0), (3.0, 4.0)]
    assert capfd.readouterr().err == ""


def test_an_address_is_posted_what_was_said_and_the_end(capfd):
    with web() as (address, got):
        with Hooks(webhook=address) as hooks:
            list(hooks.heard(EVENTS))
        assert [event["type"] for event in got] == ["said", "said", "said", "end"]
        assert [event["text"] for event in got[:-1]] == SAID
    assert capfd.readouterr().err == ""


def test_trouble_is_told_and_the_narration_goes_on(capfd):
    with web() as (elsewhere, never), web(302, location=elsewhere) as (address, got):
        with Hooks([f"said={sys.executable} -c 'exit(3)'"], address) as hooks:
            assert list(hooks.heard(EVENTS)) == EVENTS
        assert len(got) == 4 and never == [], "no redirect is followed"
    printed = capfd.readouterr().err
    assert printed.count("ended with code 3") == 3 and printed.count("--webhook answered 302") == 4
    with Hooks(webhook=address) as hooks:
        list(hooks.heard(EVENTS[-1:]))
    assert "--webhook did not answer" in capfd.readouterr().err


def test_who_is_too_slow_misses_events_and_is_told(capfd, monkeypatch):
    monkeypatch.setattr("swwatch.watch.hooks.MAX_WAITING", 2)
    free = threading.Event()
    with Hooks(["token=true"]) as hooks:
        monkeypatch.setattr(hooks, "_run", lambda arguments, text: free.wait(30))
        assert len(list(hooks.heard([token(0, "x")] * 9))) == 9
        free.set()
    printed = capfd.readouterr().err
    assert "6 events were not handed over" in printed or "7 events were not handed over" in printed, (
        printed
    )  # one is at work, or none


@pytest.mark.parametrize(
    "how, told",
    [
        ({"on": ["said"]}, "write EVENT=COMMAND"),
        ({"on": ["shouted=true"]}, "with an event of said, "),
        ({"on": ["said=no-such-command"]}, "there is no command 'no-such-command'"),
        ({"on": ["said="]}, "there is no command ''"),
        ({"on": ["said=echo 'x"]}, "No closing quotation"),
        ({"webhook": "ftp://example.org"}, "must begin with http"),
        ({"webhook": "http:///x"}, "names no host"),
        ({"webhook": "http://exa mple.org"}, "blanks"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(how, told):
    with pytest.raises(UserError, match=told):
        WatchSettings(source="camera:0", **how)


def test_a_command_may_hold_an_equals_sign():
    assert parse_on("said=env A=1 true") == ("said", ["env", "A=1", "true"])
