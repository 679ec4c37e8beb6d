"""The HTTP addresses of a real server process."""

import json
import urllib.request

import pytest


def test_health_and_info_tell_what_is_there(server):
    assert server.json("/health").keys() == {"status", "sessions", "places", "held", "version"}
    info = server.json("/api/info")
    assert info["version"] == 1 and info["variants"] == ["group"] and "serial" in info["engines"]
    assert info["sources"] == ["frames", "upload", "file"] and info["token_needed"] is False
    assert all(isinstance(about, str) and about for about in info["engines"].values())


def test_the_page_is_served_with_its_files_and_may_load_nothing_from_elsewhere(server):
    status, page = server.get("/")
    assert status == 200 and b"<html" in page.lower()
    assert server.get("/page/index.html") == (200, page)
    assert server.get("/page/..%2fapp.py")[0] == 404 and server.get("/page/../app.py")[0] == 404


def test_the_addresses_are_documented_for_people_and_programs(server):
    paths = json.loads(server.get("/openapi.json")[1])["paths"]
    status, page = server.get("/docs")
    assert status == 200 and b"http" not in page.replace(b"<!doctype html>", b"").lower().split(b"<table>")[0]
    for path in ("/health", "/metrics", "/api/info", "/api/uploads", "/api/uploads/{name}", "/api/files"):
        assert path in paths and path.encode() in page


def test_metrics_count_sessions_frames_tokens_lags_and_errors(server, client):
    connection = client(open={})
    connection.frame(0)
    connection.frame(1)
    connection.socket.send("{")
    connection.until("error")
    connection.send(type="end")
    end = connection.until("end")
    text = server.get("/metrics")[1].decode()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert values['swwatch_sessions_ended_total{reason="finished"}'] >= 1
    assert values["swwatch_frames_total"] >= 2 and values["swwatch_tokens_total"] >= end.tokens
    assert values["swwatch_token_lag_seconds_count"] == values["swwatch_tokens_total"]
    assert values['swwatch_errors_total{code="bad_message"}'] >= 1


def test_subtitles_grow_while_the_session_runs(server, client):
    connection = client(open={"record": True})
    name = connection.until("opened").recording
    for number in range(4):
        connection.frame(number)
    connection.until("token")
    with urllib.request.urlopen(f"{server.url}/sessions/{name}.vtt", timeout=60) as growing:
        assert growing.headers["content-type"].startswith("text/vtt") and growing.readline() == b"WEBVTT\n"
        connection.send(type="end")
        connection.until("end")
        rest = growing.read()
    assert b"WEBVTT\n" + rest == server.get(f"/api/recordings/{name}.vtt")[1] and rest.count(b" --> ") >= 1
    srt = server.get(f"/sessions/{name}.srt")[1]
    assert srt == server.get(f"/api/recordings/{name}.srt")[1] and srt.startswith(b"1\n00:00:00,")
    assert srt.count(b" --> ") == rest.count(b" --> ")


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/sessions/x.vtt", 404, "not_found"),
        ("GET", "/sessions/x.srt", 404, "not_found"),
        ("GET", "/sessions/x.exe", 400, "bad_message"),
        ("GET", "/api/recordings/x.srt", 404, "not_found"),
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/uploads/x", 405, "bad_message"),
        ("DELETE", "/api/uploads/x", 404, "not_found"),
        ("POST", "/api/uploads", 400, "bad_message"),
        ("GET", "/api/recordings/x.exe", 404, "not_found"),
    ],
)
def test_errors_have_one_form(server, method, path, status, code):
    got, body = server.get(path, method, b"x" if method == "POST" else None)
    assert got == status
    error = json.loads(body)["error"]
    assert error["code"] == code and error["message"] and "Traceback" not in body.decode()


def test_an_upload_over_its_limit_is_refused(server):
    status, answer = server.upload(bytes(3_000_001))
    assert status == 413 and answer["error"]["code"] == "too_large"
    assert b"swwatch_upload_bytes" in server.get("/metrics")[1]


def test_another_sites_page_is_refused(server):
    assert server.get("/api/info", Origin="http://evil.example")[0] == 403
    assert server.upload(b"x", Origin="http://evil.example")[0] == 403
    assert server.get("/api/info", Origin=server.url)[0] == 200
    assert server.get("/api/info", Host="evil.example")[0] == 403, "a name made to lead here"


def test_logs_are_json_lines_without_what_was_asked_said_or_shown(server, client):
    connection = client(open={"question": "Where is the marmalade?"})
    connection.frame(0)
    connection.frame(1)
    connection.send(type="end")
    connection.until("end")
    server.get("/api/info?token=marmalade")
    lines = server.lines()
    assert {"session opened", "session ended", "request", "serving"} <= {line["event"] for line in lines}
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    log = server.log.read_text()
    assert "marmalade" not in log and connection.of("opened")[0].session not in log and "Traceback" not in log
