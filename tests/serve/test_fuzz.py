"""Whatever clients send, in whatever order and pace: the server stays up, answers in its protocol, keeps its memory,
and a session beside says exactly what it says alone."""

import contextlib
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.client.protocol import HEADER, MAGIC
from tests.helpers.hostile_clients import (
    FRAME_BYTES,
    GOOD,
    PIXELS,
    Beside,
    Wild,
    anything,
    memory_mb,
    story,
    wait_for_room,
)

MORE_MB = 150  # what one test may leave behind: allocators keep some of what was used once


@pytest.fixture(scope="module")
def fuzzed(server_process, tmp_path_factory, tiny_checkpoint):
    """A server of its own, whose memory is nobody else's."""
    model = ("--model", str(tiny_checkpoint), "--variant", "group", "--max-tokens", "60", "--log-level", "info")
    limits = ("--max-sessions", "24", "--grace-s", "0.3", "--max-frame-rate", "1000")
    limits += ("--max-frame-bytes", str(FRAME_BYTES), "--max-pixels", str(PIXELS))
    made = server_process(tmp_path_factory.mktemp("fuzzed"), *model, *limits)
    yield made.wait()
    assert made.stop() == 0, "after all that it still ends in an orderly way"
    # uvicorn logs text that is no UTF-8 with a trace
    broken = [line for line in made.lines() if "trace" in line and not line["event"].startswith("Invalid UTF-8")]
    assert not broken, broken[:3]


@pytest.fixture(scope="module")
def alone(fuzzed):
    """What a session says alone."""
    told = story(fuzzed)
    assert len(told) > 10 and story(fuzzed) == told
    return told


@pytest.fixture(autouse=True)
def unharmed(fuzzed, alone):
    """Around every test: a session beside is undisturbed, the server up, its memory bounded, no session left over."""
    before_mb = memory_mb(fuzzed)
    with Beside(fuzzed, alone):
        yield
    assert fuzzed.process.poll() is None and fuzzed.json("/health")["status"] == "ok"
    wait_for_room(fuzzed)
    grown_mb = memory_mb(fuzzed) - before_mb
    assert grown_mb < MORE_MB, f"{grown_mb:.0f} MB more than before"


@settings(max_examples=60)
@given(st.booleans(), st.lists(anything, min_size=1, max_size=12), st.sampled_from(["settle", "cut", "half", "leave"]))
def test_anything_in_any_order_gets_answers_of_the_protocol_only(fuzzed, begun, sent, ending):
    wait_for_room(fuzzed, 12)
    with Wild(fuzzed) as wild:
        if begun:
            wild.send({"type": "open", "version": 1})
        for message in sent:
            if not wild.send(message):
                break
        if ending == "cut":
            wild.cut()
        elif ending == "half":
            wild.half_close()
        elif ending == "settle":
            wild.settle()


valid = st.one_of(
    st.just("frame"),
    st.just("frame"),
    st.sampled_from(["pause", "resume", "ping", "stats", "cut"]),
    st.builds("ask {}".format, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)),
)


@settings(max_examples=30)
@given(st.lists(valid, max_size=16))
def test_any_interleaving_of_valid_messages_ends_well_with_nothing_lost_or_doubled(fuzzed, acts):
    wait_for_room(fuzzed, 12)
    got, number, made = [], 0, []
    try:
        made.append(Wild(fuzzed))
        made[-1].send({"type": "open", "version": 1, "schedule": "wait-k:2"})
        session = made[-1].until("opened").session
        for act in acts:
            wild = made[-1]
            if act == "frame":
                wild.send(HEADER.pack(MAGIC, number, number / 2) + GOOD[number % len(GOOD)])
                number += 1
            elif act == "cut":
                wild.settle()
                wild.cut()
                got += wild.got
                seen = max((m.n for m in got if getattr(m, "n", None) is not None), default=-1)
                made.append(Wild(fuzzed))
                made[-1].send({"type": "open", "version": 1, "resume": session, "seen": seen})
                assert made[-1].until("opened", "error").type == "opened"
            elif act.startswith("ask "):
                wild.send({"type": "ask", "question": act[4:]})
            elif act != "stats":
                wild.send({"type": act})
            else:
                wild.settle()
        made[-1].send({"type": "resume"})
        made[-1].send({"type": "end"})
        end = made[-1].until("end")
        got += made[-1].got
    finally:
        for one in made:
            one.__exit__()
    errors = [m for m in got if m.type == "error" and "settled?" not in m.message]
    assert {m.code for m in errors if not m.fatal} <= {"unsupported", "too_fast"}  # markup, or many questions
    assert end.reason == ("finished" if number else "error"), "a stream without a frame has nothing to tell"
    numbered = [m.n for m in got if getattr(m, "n", None) is not None]
    assert numbered == list(range(len(numbered)))
    tokens = [m for m in got if m.type == "token"]
    assert [m.index for m in tokens] == list(range(end.tokens))
    assert [m.step for m in tokens] == sorted(m.step for m in tokens)
    assert [m.step for m in got if m.type == "watched"] == list(range(max(number // 2, min(number, 1)))), "whole steps"


def handshake(fuzzed) -> socket.socket:
    """A socket that speaks WebSocket, with nothing between a test and its bytes."""
    host, port = fuzzed.url.removeprefix("http://").split(":")
    made = socket.socket()
    made.settimeout(60)
    made.connect((host, int(port)))
    ask = f"GET /api/live HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    made.sendall(f"{ask}Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    assert made.recv(4096).startswith(b"HTTP/1.1 101")
    return made


@st.composite
def wire(draw) -> bytes:
    """A WebSocket frame, with every part of it possibly wrong."""
    data = draw(st.binary(max_size=40) | st.just(b'{"type":"open","version":1}'))
    first = draw(st.sampled_from([0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A]) | st.integers(0, 255))
    masked = draw(st.sampled_from([0x80, 0x80, 0x80, 0]))
    length = draw(st.sampled_from([bytes([masked | len(data)])] * 4 + [bytes([masked | 127]) + b"\xff" * 8]))
    return bytes([first]) + length + (bytes(4) if masked else b"") + data


@settings(max_examples=40)
@given(st.lists(wire(), max_size=6), st.booleans())
def test_bytes_that_are_no_websocket_close_that_connection_alone(fuzzed, sent, half):
    wait_for_room(fuzzed, 12)
    with handshake(fuzzed) as raw:
        try:
            for data in sent:
                raw.sendall(data)
            if half:
                raw.shutdown(socket.SHUT_WR)
                while data := raw.recv(65536):
                    assert b"Traceback" not in data and b".py" not in data
        except TimeoutError:
            raise
        except OSError:  # it hung up
            pass


@settings(max_examples=25)
@given(
    st.binary(max_size=200) | st.sampled_from([b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, b"PRI * HTTP/2.0\r\n\r\n"])
)
def test_bytes_that_are_no_http_get_no_trace(fuzzed, sent):
    host, port = fuzzed.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        try:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            while data := raw.recv(65536):
                assert b"Traceback" not in data and b".py" not in data
        except TimeoutError:
            raise
        except OSError:  # it hung up
            pass


def test_a_reader_that_stops_reading_costs_a_fixed_amount_and_then_misses_nothing(fuzzed):
    """A flood of orders and frames from a client that reads nothing: it is itself what waits."""
    before_mb = memory_mb(fuzzed)
    sent = []
    with Wild(fuzzed, max_queue=1) as lazy:
        lazy.send({"type": "open", "version": 1})

        def flood():
            for number in range(12_000):
                kind = ("pause", "resume")[number % 2]
                if not lazy.send(
                    {"type": kind} if number % 50 else HEADER.pack(MAGIC, number, number / 100) + GOOD[0]
                ):
                    return
                sent.append(number)

        flooder = threading.Thread(target=flood)
        flooder.start()
        for _ in range(20):
            time.sleep(0.1)
            assert memory_mb(fuzzed) - before_mb < MORE_MB
        while flooder.is_alive():
            assert lazy.next() is not None
        lazy.settle()
        lazy.send({"type": "stop"})
        assert lazy.until("end").reason == "stopped"
    assert len(sent) == 12_000
    acks = lazy.of("ack")
    assert sum(ack.frames for ack in acks) == 240
    numbered = [m.n for m in lazy.got if getattr(m, "n", None) is not None]
    assert numbered == list(range(len(numbered)))


def test_a_flood_of_questions_is_bounded_and_told(fuzzed):
    """No frame comes, so no question takes effect: the server keeps a few, and refuses the rest."""
    with Wild(fuzzed) as wild:
        wild.send({"type": "open", "version": 1})
        for _ in range(200):
            wild.send({"type": "ask", "question": "x" * 900})
        wild.settle()
        refused = [m for m in wild.of("error") if m.code == "too_fast"]
        assert len(refused) >= 190 and not any(m.fatal for m in refused)
        for number in range(2):
            wild.send(HEADER.pack(MAGIC, number, number / 2) + GOOD[number])
        wild.send({"type": "end"})
        assert wild.until("end").reason == "finished"
        assert len(wild.of("asked")) == 200 - len(refused), "what was taken is answered"


def test_many_small_messages_are_answered_in_few(fuzzed):
    with Wild(fuzzed) as wild:
        wild.send({"type": "open", "version": 1})
        for _ in range(5000):
            wild.send({"type": "ping"})
        wild.settle()
        assert 1 <= len(wild.of("pong")) <= 5000
        wild.send({"type": "stop"})
        assert wild.until("end").reason == "stopped"


def test_half_closed_sockets_and_silent_ones_leave_no_session_behind(fuzzed):
    made = [Wild(fuzzed) for _ in range(8)]
    for number, wild in enumerate(made):
        if number % 2:
            wild.send({"type": "open", "version": 1})
            wild.until("opened")
        wild.half_close()
    wait_for_room(fuzzed, 1)
    for wild in made:
        wild.__exit__()


def test_sessions_that_come_and_go_leave_memory_flat(fuzzed, alone):
    """50 sessions from open to end after 50 that warm the allocators; some of their connections break."""

    def come_and_go(times: int) -> None:
        for number in range(times):
            wait_for_room(fuzzed, 8)
            with Wild(fuzzed) as wild:
                wild.send({"type": "open", "version": 1})
                for frame in range(4):
                    wild.send(HEADER.pack(MAGIC, frame, frame / 2) + GOOD[frame])
                wild.until("watched")
                if number % 5 == 0:
                    wild.cut()
                    continue
                wild.send({"type": "end" if number % 2 else "stop"})
                assert wild.until("end").reason == ("finished" if number % 2 else "stopped")

    come_and_go(50)
    before_mb = memory_mb(fuzzed)
    come_and_go(50)
    wait_for_room(fuzzed, 1)
    grown_mb = memory_mb(fuzzed) - before_mb
    assert grown_mb < 20, f"50 sessions left {grown_mb:.1f} MB behind"


def test_pings_that_are_answered_and_never_read_are_cut_at_a_bound(fuzzed):
    """The WebSocket library answers them, whatever the session does, and would keep every answer."""
    before_mb, ping = memory_mb(fuzzed), bytes([0x89, 0x80 | 125]) + bytes(4 + 125)
    with handshake(fuzzed) as raw, pytest.raises(OSError):
        for _ in range(400):
            raw.sendall(500 * ping)  # 26 MB in all; one side's and the other's system keep a few of them
    assert memory_mb(fuzzed) - before_mb < 20


def test_a_message_in_pieces_without_end_is_cut(fuzzed):
    with handshake(fuzzed) as raw, pytest.raises(OSError):
        raw.sendall(bytes([0x01, 0x80]) + bytes(4))
        while True:
            raw.sendall(100 * (bytes([0x00, 0x80]) + bytes(4)))
            time.sleep(0.01)


def test_sockets_that_say_nothing_make_room(fuzzed):
    """More than there are places, of every kind: requests without an end, WebSockets without an `open`."""
    host, port = fuzzed.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port)), timeout=60) for _ in range(16 * 24 + 128 + 10)]
    for number, raw in enumerate(silent):
        if number % 2:
            with contextlib.suppress(OSError):
                raw.sendall(b"GET / HTTP/1.1\r\n")
    unopened = [handshake(fuzzed) for _ in range(24 + 8 + 4)]
    try:
        assert fuzzed.json("/health")["status"] == "ok"
        assert story(fuzzed)
    finally:
        for raw in silent + unopened:
            raw.close()
