"""Several servers behind one door: who goes where, what passes through, and what cannot be reached is told."""

import base64
import json
import select
import socket
import time
from contextlib import contextmanager

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed

from swwatch.client.codes import CLOSE_RESTART
from swwatch.serve.files import BODIES
from tests.helpers.server_process import WAIT_S, Client, ServerProcess, picture
from tests.helpers.thread_server import ThreadFront, ThreadServer

TOKEN, THEIRS = "the-token-of-the-door", "the-token-of-the-servers"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Door(ServerProcess):
    """What a ServerProcess can be asked, of a door in a thread of this process."""

    def __init__(self, servers):
        self.front = ThreadFront(servers, token=TOKEN, their_token=THEIRS, max_sessions=1)
        self.url = self.front.url
        self.ws_url = self.url.replace("http", "ws", 1) + f"/api/live?token={TOKEN}"

    def health(self) -> dict:
        return self.json("/health")


@pytest.fixture(scope="module")
def servers(tiny_checkpoint):
    """Two, with a place each."""
    how = {"token": THEIRS, "max_sessions": 1, "max_tokens": 12, "grace_s": 20.0}
    made = [ThreadServer(tiny_checkpoint, ["group"], **how) for _ in range(2)]
    yield made
    for one in made:
        one.close()


@contextmanager
def before(servers):
    door = Door(servers)
    try:
        yield door
    finally:
        door.front.close()


def wait_for_room(servers) -> None:
    """Until no session has a place: it gives it back a moment after its client has the end."""
    over = time.monotonic() + WAIT_S
    while any(server.sessions for server in servers):
        assert time.monotonic() < over
        time.sleep(0.02)


@pytest.fixture
def door(servers):
    with before(servers) as made:
        yield made
    wait_for_room(servers)


def told(client: Client) -> list[int]:
    return [message.n for message in client.got if getattr(message, "n", None) is not None]


def speak_to_the_end(client: Client, begin: int = 0) -> None:
    for number in range(begin, 6):
        client.frame(number)
    client.send(type="end")
    assert client.until("end").reason == "finished" and client.closed() == 1000


def test_newcomers_go_to_the_emptier_server_and_stay_and_one_too_many_is_told(servers, door):
    first, second = Client(door, open={}), Client(door, open={})
    for one in (first, second):
        one.until("opened")
    assert [server.sessions for server in servers] == [1, 1]
    third = Client(door, open={})
    assert third.next().code == "full" and third.closed() == 4429
    for one in (first, second):
        speak_to_the_end(one)
        assert one.of("token") and told(one) == list(range(len(told(one)))), "all passed through, in order"


def test_who_comes_back_finds_its_session_also_through_a_door_that_does_not_know_it(servers, door):
    client = Client(door, open={"record": True})
    session, recording = client.until("opened").session, client.got[0].recording
    client.frame(0)
    client.frame(1)
    client.until("watched")
    client.socket.socket.close()  # no goodbye
    with before(reversed(servers)) as another:
        again = Client(another, open={"resume": session, "seen": told(client)[-1]})
        assert again.until("opened").resumed
        speak_to_the_end(again, 2)
        assert told(again)[0] == told(client)[-1] + 1
        status, lines = another.get(f"/api/recordings/{recording}.jsonl", **BEARER)
        assert status == 200 and [json.loads(line).get("n") for line in lines.splitlines()][1:3] == [0, 1]
        stranger = Client(another, open={"resume": "nobody's"})
        assert stranger.next().code == "not_found" and stranger.closed() == 4400
        assert another.get(f"/api/recordings/{recording}x.jsonl", **BEARER)[0] == 404


def test_uploads_are_found_where_they_are(servers, door, clip):
    files = [door.upload(clip.read_bytes(), **BEARER) for _ in range(2)]
    assert [status for status, _ in files] == [201, 201]
    client = Client(door, open={"source": {"kind": "upload", "id": files[0][1]["id"]}, "policy": "block"})
    client.until("watched")
    client.send(type="stop")
    client.until("end")
    wait_for_room(servers)
    with before(servers) as another:  # which has not seen the uploads
        part = {"type": "file", "file": {"file_id": files[1][1]["id"]}}
        body = {"model": "group", "max_tokens": 3, "messages": [{"role": "user", "content": [part]}]}
        how = {"method": "POST", "data": json.dumps(body).encode(), "content_type": "application/json", **BEARER}
        answer = another.json("/v1/chat/completions", **how)
        assert answer["usage"]["completion_tokens"] == 3
        wait_for_room(servers)
        status, stream = another.get(
            "/v1/chat/completions", **how | {"data": json.dumps(body | {"stream": True}).encode()}
        )
        assert status == 200 and stream.endswith(b"data: [DONE]\n\n")
    for _, file in files:
        assert door.get(f"/api/uploads/{file['id']}", "DELETE", **BEARER)[0] == 204
        assert door.get(f"/api/uploads/{file['id']}", "DELETE", **BEARER)[0] == 404


def test_the_door_has_the_page_and_its_own_token(door):
    assert b"<html" in door.get("/")[1] and door.get("/page/main.js")[0] == 200
    for path in ("/metrics", "/api/info", "/v1/models"):
        assert door.get(path)[0] == 401 and door.get(path, Authorization=f"Bearer {THEIRS}")[0] == 401
        assert door.get(path, **BEARER)[0] == 200
    info = door.json("/api/info", **BEARER)
    assert info["token_needed"] and info["variants"] == ["group"]
    assert door.health() | {"version": ""} == {
        "status": "ok",
        "sessions": 0,
        "places": 2,
        "replicas": 2,
        "up": 2,
        "version": "",
    }
    stranger = Client(door, url=door.ws_url.replace(TOKEN, "x"))
    assert stranger.next().code == "unauthorised" and stranger.closed() == 4401


def test_metrics_are_those_of_all_by_their_names(servers, door):
    client = Client(door, open={})
    client.until("opened")
    text = door.get("/metrics", **BEARER)[1].decode()
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    sessions = {sample.labels["replica"]: sample.value for sample in families["swwatch_sessions"]}
    assert sorted(sessions.values()) == [0, 1]
    assert sorted(sessions) == sorted(server.url.removeprefix("http://") for server in servers)
    assert all("replica" in sample.labels for samples in families.values() for sample in samples)
    assert text.count("# TYPE swwatch_sessions ") == 1 and sum(s.value for s in families["swwatch_replica_up"]) == 2
    client.send(type="stop")
    client.until("end")


def test_openais_realtime_form_passes_through(door):
    where = door.ws_url.replace("/api/live", "/v1/realtime") + "&model=group"
    client = Client(door, url=where, subprotocols=["realtime"])
    assert json.loads(client.socket.recv(WAIT_S))["type"] == "session.created"
    client.socket.send('{"type": "session.close"}')
    assert json.loads(client.socket.recv(WAIT_S))["error"]["code"] == "not_open"
    client.close()
    stranger = Client(door, url=where.replace(TOKEN, "x"), subprotocols=["realtime"])
    assert json.loads(stranger.socket.recv(WAIT_S))["error"]["code"] == "unauthorised" and stranger.closed() == 4401


@pytest.mark.parametrize("path", ["/health/../metrics", "/healthy", "/page%09/../v1/models"])
def test_no_way_leads_around_the_doors_token(door, path):
    """What the door answers itself needs none; what it passes on would have that of the servers."""
    assert door.get(path)[0] == 401 and door.get(path, "POST", b"{}")[0] == 401


def test_uploads_that_stand_still_make_room_at_the_door(servers, door):
    host, port = door.url.removeprefix("http://").split(":")
    head = f"POST /api/uploads HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b"
    stalled = [socket.create_connection((host, int(port)), timeout=WAIT_S) for _ in range(2 + BODIES)]
    for one in stalled:
        one.sendall(head.encode())
    while not (answered := select.select(stalled, [], [], 0.02)[0]):
        assert door.upload(b"x", **BEARER)[0] == 201
    assert b" 429 " in answered[0].recv(4096)
    for one in stalled:
        one.close()


@pytest.mark.long
def test_a_killed_server_costs_its_own_sessions_and_the_end_is_orderly(tiny_checkpoint, tmp_path):
    """Two real processes, of which one is killed while both speak; most of it is importing torch."""
    model = ("--model", f"group={tiny_checkpoint}", "--max-sessions", "1", "--max-tokens", "2000")
    folders = ("--record-folder", str(tmp_path / "recordings"), "--keep-sessions", str(tmp_path / "kept"))
    server = ServerProcess(tmp_path, "--replicas", "2", *model, *folders, "--grace-s", "60").wait()
    try:
        replicas = [one for one in psutil.Process(server.process.pid).children() if "spawn_main" in str(one.cmdline())]
        assert len(replicas) == 2
        clients = [Client(server, open={"record": True}) for _ in range(2)]
        sessions = [client.until("opened").session for client in clients]
        for number in range(8):
            for client in clients:
                client.frame(number)
        for client in clients:
            client.until("token")
        replicas[0].kill()
        closed = []
        for client in clients:  # one of them hears of it, the other goes on
            try:
                client.frame(8)
                client.frame(9)
                while client.next(10).type != "watched" or client.got[-1].step < 4:
                    pass
            except ConnectionClosed as error:
                closed.append((client, error.rcvd.code))
        ((lost, code),) = closed
        assert code == CLOSE_RESTART
        again = Client(server, open={"resume": sessions[clients.index(lost)], "seen": -1})
        assert again.next().code in ("not_found", "full")
        over = time.monotonic() + 4 * WAIT_S
        while server.json("/health")["up"] < 2:
            assert time.monotonic() < over
            time.sleep(0.2)
        newcomer = Client(server, open={})
        newcomer.until("opened")
        (name,) = {path.stem for path in (tmp_path / "recordings").glob("*.jsonl")} - {_recording(clients, lost)}
        assert server.get(f"/api/recordings/{name}.jsonl")[0] == 200, "of the one that was killed, from the folder"
        began_s = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - began_s < 10
        assert newcomer.closed() == CLOSE_RESTART and len(list((tmp_path / "kept").rglob("*.session"))) == 2
        assert not any(one.is_running() for one in replicas)
    finally:
        server.stop()


def _recording(clients, lost) -> str:
    return next(client for client in clients if client is not lost).of("opened")[0].recording


@pytest.mark.long
def test_servers_come_and_go_with_the_sessions(tiny_checkpoint, tmp_path):
    """Three real processes, one after the other; most of it is importing torch."""
    model = ("--model", f"group={tiny_checkpoint}", "--max-sessions", "1", "--max-tokens", "2000")
    flags = ("--replicas", "1:2", "--replica-idle-s", "1", "--grace-s", "1", "--idle-s", "600")
    flags += ("--record-folder", str(tmp_path / "kept"))
    server = ServerProcess(tmp_path, *model, *flags).wait()
    try:
        assert server.json("/health")["replicas"] == server.json("/health")["up"] == 1
        first = Client(server, open={"record": True}, ping_interval=None)  # which reads nothing for a while
        first.until("opened")
        second = Client(server, open={})
        full = second.next()
        assert full.code == "full" and "another server is starting" in full.message and second.closed() == 4429
        part = {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpeg;base64,{base64.b64encode(picture()).decode()}"},
        }
        body = json.dumps({"model": "group", "messages": [{"role": "user", "content": [part]}]}).encode()
        status, answer = server.get("/v1/chat/completions", "POST", body, content_type="application/json")
        assert status == 429 and "another server is starting" in json.loads(answer)["error"]["message"]
        _wait_until(lambda: server.json("/health")["up"] == 2)
        second = Client(server, open={})
        second.until("opened")
        for number in range(4):
            second.frame(number)
        second.until("token")
        for client in (first, second):
            client.send(type="stop")
            client.until("end")
        _wait_until(lambda: server.json("/health")["replicas"] == 1)
        text = server.get("/metrics")[1].decode()
        families = {family.name: family.samples for family in text_string_to_metric_families(text)}
        told = {
            name: sum(sample.value for sample in families[f"swwatch_replica_{name}"]) for name in ("starts", "stops")
        }
        assert told == {"starts": 2, "stops": 1} and [one.value for one in families["swwatch_replica_up"]] == [1]
        Client(server, open={}).until("opened")
        _wait_until(lambda: server.json("/health")["replicas"] == 2)
        began_s = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - began_s < 10, "also while one is starting"
        events = [line["event"] for line in server.lines() if line["event"] in ("replica begins", "replica rests")]
        assert events == ["replica begins", "replica rests", "replica begins"]
    finally:
        server.stop()


def _wait_until(true) -> None:
    over = time.monotonic() + 4 * WAIT_S
    while not true():
        assert time.monotonic() < over
        time.sleep(0.1)
