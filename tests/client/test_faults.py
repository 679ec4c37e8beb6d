"""What a client does when things go wrong: broken connections, refusals, slow acknowledgements, slow readers."""

import asyncio
import socket
import threading
import time

import pytest

from swwatch.client import AsyncClient, Client, Dropped, End, Error, Reconnected, ServerError, Token, Unreachable
from swwatch.errors import UserError

WAIT_S = 30


def indices(events) -> list[int]:
    return [event.n for event in events if isinstance(event, Token)]


def wait_until(true) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def test_a_broken_connection_goes_on_without_loss_or_doubling(scripted):
    s = scripted

    async def first(line):
        await line.until("open")
        await line.tell(s.opened(), s.token(0), s.token(1), s.token(2))
        await line.next()  # a frame, never acknowledged
        await line.until("pause")
        line.break_off()

    async def second(line):
        message = await line.until("open")
        assert (message["resume"], message["seen"]) == ("secret", 2)
        line.break_off()  # before it answers

    async def third(line):
        message = await line.until("open")
        assert (message["resume"], message["seen"]) == ("secret", 2)
        # a sloppy server: two of them again
        await line.tell(s.opened(resumed=True), s.token(1), s.token(2), s.token(3), s.token(4))
        await line.until("pause")  # told again
        await line.until("end")
        await line.tell(s.token(5), s.end(6))

    with s.Scripted(first, second, third) as server, Client(server.url) as client:
        client.open()
        events = []
        while len(indices(events)) < 3:
            events += client.read()
        assert client.send(0.0, b"picture")
        client.pause()
        while not any(isinstance(event, Reconnected) for event in events):
            events += client.read()
        client.end()
        events += list(client)
        assert client.ended and client.read() == []
    assert indices(events) == [0, 1, 2, 3, 4, 5] and isinstance(events[-1], End)
    (back,) = [event for event in events if isinstance(event, Reconnected)]
    assert (back.missed, back.lost) == (0, 1) and back.away_s > 0
    assert (client.counts.lost, client.counts.missed, client.counts.reconnects) == (1, 0, 1)
    assert client.end_message.tokens == 6
    with pytest.raises(UserError, match="is closed"):
        client.read()


def test_events_that_the_server_no_longer_has_are_counted(scripted):
    s = scripted

    async def first(line):
        await line.until("open")
        await line.tell(s.opened(), s.token(0))
        line.break_off()

    async def second(line):
        await line.until("open")
        await line.tell(s.opened(resumed=True, missed=4), s.token(5), s.end(6))

    with s.Scripted(first, second) as server, Client(server.url) as client:
        client.open()
        events = list(client)
    assert indices(events) == [0, 5] and client.counts.missed == 4
    assert [event.missed for event in events if isinstance(event, Reconnected)] == [4]


def test_frames_and_orders_while_there_is_no_connection(scripted):
    """Frames are skipped and counted; an order waits until it can be told."""
    s, go = scripted, threading.Event()

    async def first(line):
        await line.until("open")
        await line.tell(s.opened(grace_s=WAIT_S))
        line.break_off()

    async def second(line):
        await line.until("open")
        await asyncio.to_thread(go.wait, WAIT_S)
        await line.tell(s.opened(resumed=True))
        assert (await line.until("ask"))["question"] == "Who?"
        await line.tell(s.end(0))

    with s.Scripted(first, second) as server, Client(server.url) as client:
        client.open()
        wait_until(lambda: len(server.lines) == 2)
        assert not client.send(0.0, b"picture")
        asking = threading.Thread(target=client.ask, args=("Who?",))
        asking.start()
        go.set()
        assert isinstance(list(client)[-1], End)
        asking.join(WAIT_S)
    assert client.counts.skipped == 1 and client.counts.sent == 0


def test_a_connection_that_stays_away_longer_than_the_grace_is_told(scripted):
    s = scripted

    async def first(line):
        await line.until("open")
        await line.tell(s.opened(grace_s=0.3), s.token(0))
        line.break_off()

    async def never(line):
        line.break_off()

    with s.Scripted(first, *[never] * 50) as server, Client(server.url) as client:
        client.open()
        events = client.read()
        with pytest.raises(Unreachable, match="0.3 s of grace are over"):
            while True:
                events += client.read()
        assert indices(events) == [0] and client.read() == []
        with pytest.raises(UserError, match="has ended"):
            client.ask("Anybody?")


def test_a_session_that_ended_meanwhile_is_told(scripted):
    s = scripted

    async def first(line):
        await line.until("open")
        await line.tell(s.opened())
        line.break_off()

    async def second(line):
        await line.until("open")
        await line.tell(Error(code="not_found", message="no such session", fatal=True))
        await line.socket.close(4400)

    with s.Scripted(first, second) as server, Client(server.url) as client:
        client.open()
        with pytest.raises(ServerError, match="not_found: no such session") as caught:
            list(client)
    assert caught.value.code == "not_found"


def test_a_server_that_falls_silent_counts_as_gone(scripted):
    s = scripted

    async def first(line):
        await line.until("open")
        await line.tell(s.opened())
        await line.socket.wait_closed()

    async def second(line):
        assert (await line.until("open"))["resume"] == "secret"
        await line.tell(s.opened(resumed=True), s.end(0))

    with s.Scripted(first, second) as server, Client(server.url, silence_s=0.2) as client:
        client.open()
        assert [type(event) for event in client] == [Reconnected, End]


def test_frames_are_skipped_and_counted_while_acknowledgements_lag(scripted):
    s, go = scripted, threading.Event()

    async def slow(line):
        await line.until("open")
        await line.tell(s.opened())
        for _ in range(3):
            await line.next()
        await asyncio.to_thread(go.wait, WAIT_S)
        await line.tell(s.ack(2, frames=3, dropped=5), Dropped(n=0, steps=2, total=2, reason="full"))
        frame = await line.next()
        assert (frame.number, frame.timestamp_s) == (3, 9.0)
        await line.tell(s.ack(3, taken=False, dropped=6, reason="late"), s.end(1))

    with s.Scripted(slow) as server, Client(server.url, max_in_flight=3) as client:
        client.open()
        assert [client.send(i / 2, b"picture") for i in range(5)] == [True] * 3 + [False] * 2
        go.set()
        client.send(9.0, b"picture", wait=True)  # for the acknowledgement
        assert isinstance(list(client)[-1], End)
    counts = client.counts
    assert (counts.sent, counts.skipped, counts.refused, counts.dropped) == (4, 2, 1, 6)


def test_a_client_that_is_not_read_takes_a_bounded_number_of_events(scripted):
    """20 MB of events: the rest stays with the server, and all comes when it is read."""
    s, told = scripted, []

    async def eager(line):
        await line.until("open")
        await line.tell(s.opened())
        for number in range(1000):
            await line.tell(s.token(number, 20_000))
            told.append(number)
        await line.tell(s.end(1000))

    with s.Scripted(eager) as server, Client(server.url, max_events=10) as client:
        client.open()
        wait_until(lambda: told)
        while (before := len(told)) != (time.sleep(0.3) or len(told)):
            pass
        assert before < 1000, "held back by the connection"
        assert len(client._client._inbox) == 10
        assert indices(client) == list(range(1000))


def test_fatal_errors_are_raised_behind_what_was_said_before(scripted):
    s = scripted

    async def failing(line):
        await line.until("open")
        await line.tell(s.opened(), s.token(0), Error(code="bad_frame", message="not a picture"), s.token(1))
        await line.tell(Error(n=2, code="model_error", message="out of memory", fatal=True), s.end(3, "error"))

    with s.Scripted(failing) as server, Client(server.url) as client:
        client.open()
        events = []
        with pytest.raises(ServerError, match="model_error: out of memory"):
            for event in client:
                events.append(event)
        assert indices(events) == [0, 1] and [e.code for e in events if isinstance(e, Error)] == ["bad_frame"]
        assert client.end_message.reason == "error" and client.read() == []


@pytest.mark.parametrize(
    ("code", "close", "told"),
    [
        ("version", 4400, "of the same release"),
        ("full", 4429, "try again later"),
        ("unauthorised", 4401, "give its token"),
        ("unsupported", 4400, "no such variant"),
    ],
)
def test_refusals_say_what_to_do(scripted, code, close, told):
    async def refusing(line):
        await line.until("open")
        await line.tell(Error(code=code, message="no such variant", fatal=True))
        await line.socket.close(close)

    with scripted.Scripted(refusing) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match=told) as refused:
            client.open()
        assert refused.value.code == code
        with pytest.raises(UserError, match="call open first"):
            client.read()


def test_a_message_of_another_version_is_no_puzzle(scripted):
    async def newer(line):
        await line.until("open")
        await line.socket.send('{"type":"opened","colour":"red"}')
        await line.socket.wait_closed()

    with scripted.Scripted(newer) as server, Client(server.url) as client:
        with pytest.raises(ServerError, match="of the same release"):
            client.open()


def test_what_is_no_swwatch_server_is_told(scripted):
    async def other(line):
        await line.socket.wait_closed()

    with scripted.Scripted(other, subprotocols=()) as server, Client(server.url) as client:
        with pytest.raises(Unreachable, match="does not speak swwatch.v1"):
            client.open()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with Client(url) as client:
        with pytest.raises(Unreachable, match="is `swwatch serve` running there"):
            client.open()
        with pytest.raises(Unreachable, match="cannot reach"):
            client.info()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://host:many", ""])
def test_what_is_no_address_is_told(url):
    with pytest.raises(UserError, match="write a server's address|malformed"):
        AsyncClient(url)
