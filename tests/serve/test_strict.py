"""A server that wants a token, and has short times, few places and a low rate."""

import base64
import socket
import time

import pytest
from websockets.exceptions import ConnectionClosed

TOKEN = "a-good-token"


@pytest.fixture
def enter(client, strict):
    """enter(**open) -> a connection that shows the token as a browser does."""
    return lambda **fields: client(server=strict, open=fields, subprotocols=["swwatch.v1", f"swwatch.token.{TOKEN}"])


def test_the_address_that_is_printed_has_the_token_where_browsers_keep_it(strict):
    assert strict.address == f"{strict.url}/#token={TOKEN}"


def test_without_the_token_only_the_page_and_health_are_there(strict):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/", "/health", "/page/index.html"):
        assert strict.get(path)[0] == 200
    for path in ("/api/info", "/metrics", "/docs", "/openapi.json", "/api/files", "/api/recordings/x.vtt", "/nowhere"):
        assert strict.get(path)[0] == 401, path
        assert strict.get(path, Authorization="Bearer another-token")[0] == 401
    assert strict.upload(b"x")[0] == 401
    assert strict.json("/api/info", **bearer)["token_needed"] is True
    assert strict.get(f"/api/info?token={TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"subprotocols": ["swwatch.v1", "swwatch.token.another-token"]},
        {"additional_headers": {"Authorization": "Bearer another-token"}},
        {"additional_headers": {"Authorization": "Basic " + base64.b64encode(TOKEN.encode()).decode()}},
    ],
)
def test_a_socket_without_the_token_is_told_so_and_closed(client, strict, how):
    connection = client(server=strict, **how)
    error = connection.next()
    assert (error.code, error.fatal) == ("unauthorised", True) and connection.closed() == 4401


def test_the_token_opens_the_socket_in_each_of_its_three_ways(client, strict, enter):
    ways = [
        {"additional_headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"subprotocols": ["swwatch.v1", f"swwatch.token.{TOKEN}"]},
        {"url": f"{strict.ws_url}?token={TOKEN}", "subprotocols": None},
    ]
    for how in ways:
        connection = client(server=strict, open={}, **how)
        connection.until("opened")
        assert connection.socket.subprotocol == ("swwatch.v1" if how.get("subprotocols", ()) is not None else None)
        connection.send(type="stop")
        connection.until("end")


def test_pages_of_other_sites_are_refused_and_allowed_ones_are_not(client, strict):
    how = {"server": strict, "additional_headers": {"Authorization": f"Bearer {TOKEN}"}}
    connection = client(origin="http://evil.example", **how)
    assert connection.next().code == "origin" and connection.closed() == 4403
    for origin in ("https://friend.example", strict.url):
        connection = client(origin=origin, open={}, **how)
        connection.until("opened")
        connection.send(type="stop")
        connection.until("end")


def test_frames_beyond_the_rate_are_told_and_not_decoded(enter):
    connection = enter()
    for number in range(12):
        connection.frame(number)
    error = connection.until("error")
    assert (error.code, error.fatal) == ("too_fast", False)
    while sum(ack.frames for ack in connection.of("ack")) < 12:
        connection.next()
    assert connection.of("ack")[-1].dropped >= 6
    connection.send(type="stop")
    connection.until("end")
    assert len(connection.of("error")) <= 3, "told once a second, not for every frame"


def test_a_session_that_nothing_comes_for_ends(enter):
    connection = enter()
    connection.until("opened")
    try:
        while True:
            connection.send(type="ping")
            if connection.next().type == "end":
                break
    except ConnectionClosed:  # amid a ping: what came before the close is still to be read
        connection.closed()
    assert connection.of("end")[-1].reason == "idle", "a ping does not keep it alive"


def test_a_session_has_a_total_time(enter):
    connection, number = enter(), 0
    assert connection.until("opened").left_s == pytest.approx(4)
    while (message := connection.next()).type != "end":
        if message.type == "stats":
            connection.frame(number)
            number += 1
    assert message.reason == "limit" and connection.closed() == 1000


def test_a_session_nobody_comes_back_for_is_stopped_after_its_grace(enter, strict):
    connection = enter()
    session = connection.until("opened").session
    connection.frame(0)
    connection.until("ack")
    connection.socket.socket.shutdown(2)
    while strict.json("/health")["sessions"]:
        time.sleep(0.1)
    back = enter(resume=session, seen=-1)
    if (message := back.next()).type == "opened":  # the last words can be fetched for another grace time
        message = back.until("end")
    assert "not_found" == getattr(message, "code", "") or message.reason == "idle"


def test_what_needs_no_token_is_bounded_too(strict):
    """Pings to a socket that was refused, and is not read: it is cut."""
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw, pytest.raises(OSError):
        ask = f"GET /api/live HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        raw.sendall(f"{ask}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        for _ in range(400):
            raw.sendall(500 * (bytes([0x89, 0x80 | 125]) + bytes(4 + 125)))
