"""The Python client against a real server process: sync and async, from frames, files and uploads to recordings."""

import asyncio
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.client import Asked, AsyncClient, Client, End, File, Reconnected, ServerError, Token, Watched, on_grid
from swwatch.client.address import locate
from swwatch.data.live.frames import LiveFrames
from swwatch.data.live.sources import frames_of
from swwatch.errors import UserError


def pictures(count: int, per_s: float = 2.0):
    for number in range(count):
        yield number / per_s, np.random.default_rng(number).integers(0, 255, (56, 56, 3), dtype=np.uint8)


def of(kind, events) -> list:
    return [event for event in events if isinstance(event, kind)]


@pytest.fixture
def client(server):
    with Client(server.address) as client:  # with #token=... in it, as the server prints it
        yield client


def test_a_session_with_a_question_in_mid_speech_and_a_recording(client):
    opened = client.open(question="What moves?", schedule="wait-k:2", record=True)
    assert (opened.variant, opened.question, opened.schedule) == ("group", "What moves?", "wait-k:2")
    frames, events = list(pictures(8)), []
    for frame in frames[:4]:
        assert client.send(*frame, wait=True)
    while len(of(Watched, events)) < 2:
        events += client.read()
    client.ask("And now?")
    for frame in frames[4:]:
        assert client.send(*frame, wait=True)
    client.end()
    events += list(client)
    assert isinstance(events[-1], End) and events[-1].reason == "finished" and client.ended
    assert [event.step for event in of(Watched, events)] == [0, 1, 2, 3]
    assert [(event.step, event.question) for event in of(Asked, events)] == [(2, "And now?")]
    assert [token.index for token in of(Token, events)] == list(range(events[-1].tokens)) and events[-1].tokens > 6
    assert (client.counts.sent, client.counts.skipped, client.counts.refused) == (8, 0, 0)

    lines = [json.loads(line) for line in client.recording().splitlines()]
    assert [line["text"] for line in lines if line["type"] == "token"] == [t.text for t in of(Token, events)]
    assert client.recording("vtt").startswith("WEBVTT")

    client.open()  # another one, with the same client
    client.stop()
    assert list(client)[-1].reason == "stopped"


def test_a_source_is_fed_while_its_words_are_read(client, clip):
    client.open()
    events = list(client.watch(frames_of(clip), wait=True))
    assert events[-1].reason == "finished"
    assert [event.step for event in of(Watched, events)] == [0, 1] and len(of(Token, events)) > 3
    assert client.counts.sent == 4, "two frames a second of a clip of 8 a second"


def test_a_source_that_fails_is_told_once_the_rest_is_said(client):
    def failing():
        yield from pictures(4)
        raise UserError("the camera was pulled out")

    client.open()
    events = []
    with pytest.raises(UserError, match="pulled out"):
        for event in client.watch(failing(), wait=True):
            events.append(event)
    assert events[-1].reason == "finished" and len(of(Watched, events)) == 2


def test_files_and_uploads_are_watched_by_the_server(client, clip):
    assert client.files() == ["clip.mp4"]
    client.open(source=File(kind="file", name="clip.mp4"))
    events = list(client)
    assert len(of(Watched, events)) == 2 and events[-1].reason == "finished"
    upload = client.upload(clip)
    client.open(source=upload)
    events = list(client)
    assert len(of(Watched, events)) == 2 and events[-1].reason == "finished"
    client.delete(upload)
    with pytest.raises(ServerError, match="not_found"):
        client.open(source=upload)


def test_info_tells_variants_and_limits(client):
    info = client.info()
    assert info["variants"] == ["group"] and info["limits"]["question_chars"] == 1000


def test_without_its_token_a_server_answers_nothing(server):
    for token in (None, "a-wrong-token"):
        with Client(server.url, token=token) as client:
            with pytest.raises(ServerError, match="give its token"):
                client.open()
            with pytest.raises(ServerError, match="give its token"):
                client.info()


def test_a_full_server_is_told(server):
    with Client(server.address) as one, Client(server.address) as two, Client(server.address) as three:
        one.open()
        two.open()
        with pytest.raises(ServerError, match="full: all 2 sessions are taken"):
            three.open()


def test_mistakes_are_told_before_anything_is_sent(client):
    for wrong, told in (({"rate": 0}, "open: rate"), ({"policy": "hope"}, "open: policy"), ({"colour": 1}, "colour")):
        with pytest.raises(UserError, match=told):
            client.open(**wrong)
    with pytest.raises(UserError, match="call open first"):
        client.send(0.0, b"picture")
    with pytest.raises(ServerError, match="unsupported"):
        client.open(variant="gap")
    client.open()
    for frame, told in (
        ((0.0, np.zeros((4, 4))), "of uint8"),
        ((float("nan"), b"picture"), "times are seconds"),
        ((0.0, b"x" * 2_000_001), "the server takes"),
    ):
        with pytest.raises(UserError, match=told):
            client.send(*frame)
    with pytest.raises(UserError, match="1000 characters"):
        client.ask("?" * 1001)
    with pytest.raises(UserError, match="has a session"):
        client.open()


def test_two_at_once_with_asyncio_and_one_connection_breaks(server):
    """Both say what they are asked for; the broken one goes on where it was."""

    async def one(breaks: bool) -> list:
        async with AsyncClient(server.address) as client:
            await client.open(schedule="wait-k:2")
            events, frames = [], list(pictures(6))
            for frame in frames[:4]:
                await client.send(*frame, wait=True)
            while len(of(Watched, events)) < 2:
                events += await client.read()
            if breaks:
                client._connection.abort()
                while not of(Reconnected, events):
                    events += await client.read()
            for frame in frames[4:]:
                await client.send(*frame, wait=True)
            await client.end()
            return events + [event async for event in client]

    async def both():
        return await asyncio.gather(one(False), one(True))

    whole, broken = asyncio.run(both())
    assert [token.text for token in of(Token, whole)] == [token.text for token in of(Token, broken)]
    assert [token.index for token in of(Token, broken)] == list(range(broken[-1].tokens))
    assert (len(of(Reconnected, whole)), len(of(Reconnected, broken))) == (0, 1)


def test_leaving_wakes_who_waits_for_words(server):
    async def go():
        client = AsyncClient(server.address)
        await client.open()

        async def read_all():
            return [event async for event in client]

        reading = asyncio.create_task(read_all())
        await asyncio.sleep(0.1)
        assert not reading.done()
        await client.close()
        return await asyncio.wait_for(reading, 30)

    assert all(not isinstance(event, Token) for event in asyncio.run(go()))


def test_leaving_stops_the_session_and_its_threads(server):

    def endless():
        for frame in pictures(10**6):
            time.sleep(0.02)
            yield frame

    before = threading.active_count()
    for _ in range(5):  # of two places
        with Client(server.address) as client:
            client.open()
            for event in client.watch(endless()):
                if isinstance(event, Token):
                    break
        while server.json("/health")["sessions"]:
            time.sleep(0.02)
        assert [line["reason"] for line in server.lines() if line["event"] == "session ended"][-1] == "stopped"
    assert threading.active_count() <= before + 1


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=30), st.integers(0, 2), st.none() | st.floats(0, 3))
def test_frames_on_the_grid_make_the_steps_of_all_frames(pauses, repeats, more_s):
    frame = np.zeros((2, 2, 3), np.uint8)
    times = [sum(pauses[:i]) for i in range(len(pauses) + 1)]
    times += times[-1:] * repeats

    class Source(list):
        end_s = None if more_s is None else times[-1] + more_s

    source = Source((at_s, frame + np.uint8(i)) for i, at_s in enumerate(times))

    def steps(frames, end_s, fps=2):
        live = LiveFrames(fps=fps)
        made = [step for at_s, one in frames for step in live.push(at_s, one)] + live.flush(end_s)
        return [(step.step, step.arrival_s, step.frames[:, 0, 0, 0].tolist()) for step in made]

    assert steps(on_grid(source), None) == steps(source, source.end_s)
    assert steps(on_grid(source, 4), None, 4) == steps(source, source.end_s, 4)


@pytest.mark.parametrize(
    ("url", "base", "token"),
    [
        ("http://127.0.0.1:8000/#token=abc", "http://127.0.0.1:8000", "abc"),
        ("wss://host/swwatch/api/live", "https://host/swwatch", None),
        ("http://[::1]:80", "http://[::1]:80", None),
    ],
)
def test_addresses_as_people_have_them(url, base, token):
    address = locate(url)
    assert (address.base, address.token) == (base, token)
    assert address.live == base.replace("http", "ws", 1) + "/api/live"
    assert address.may_proxy == (address.base == "https://host/swwatch")
    assert locate(url, "other").headers == {"Authorization": "Bearer other"}


def test_the_client_loads_no_model_library():
    code = "import sys, swwatch.client, swwatch.data.live.sources; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
