"""A session's own rules, with a model that is made of nothing: what it says, when it hangs, when it breaks."""

import asyncio
import threading
import time
from collections import deque

import pytest

from swwatch.client.protocol import Frame, Opened, ProtocolError
from swwatch.errors import UserError
from swwatch.live.stage import Ended, Pushed, Stats, Watched
from swwatch.serve import session as sessions
from swwatch.serve.metrics import Metrics
from swwatch.serve.record import Recordings
from swwatch.serve.session import ServedSession
from swwatch.serve.settings import Limits
from swwatch.serve.threads import DecodingTime, Threads


class FakeLive:
    """A LiveSession that a test plays by hand."""

    def __init__(self, obeys: bool = True):
        self.obeys, self.events, self.reads, self.calls = obeys, deque(), 0, []
        self._there = threading.Event()

    def say(self, *events) -> None:
        self.events.extend(events)
        self._there.set()

    def read(self, timeout_s):
        self._there.wait(0.01)
        self._there.clear()
        got = [self.events.popleft() for _ in range(min(4, len(self.events)))]
        self.reads += bool(got)
        if self.events:
            self._there.set()
        return got

    def stop(self) -> None:
        self.calls.append("stop")
        if self.obeys:
            self.say(Ended(None))

    def push(self, timestamp_s, frame):
        return Pushed(True, 0, 0)

    def stats(self) -> Stats:
        return Stats()


class Connection:
    replaced = False

    def replace(self) -> None:
        self.replaced = True


def play(test, *, live: FakeLive | None = None, **limits):
    """Run `test(session, live, over)` with a session in an event loop."""

    async def run():
        told = Limits(**limits)
        fake, over = live or FakeLive(), []
        names = ("session", "variant", "engine", "why", "schedule", "question", "policy")
        opened = Opened(**dict.fromkeys(names, "x"), rate=2.0, limits=told.as_message(), grace_s=1, left_s=1)
        threads = Threads(2)
        session = ServedSession(fake, opened, limits=told, metrics=Metrics(), threads=threads, on_over=over.append)
        try:
            await asyncio.wait_for(test(session, fake, over), 30)
        finally:
            session.cancel()
            threads.close()

    asyncio.run(run())


async def last(session):
    """Read to the end -> all messages."""
    got = []
    while not got or got[-1].type != "end":
        got.append(await session.outbox.next())
    return got


def test_the_model_is_not_read_while_the_client_does_not_read():
    async def test(session, live, over):
        live.say(*(Watched(step, 0.0, 0.0) for step in range(100)))
        await asyncio.sleep(0.3)
        assert len(session.outbox) <= 10 + 4 and live.events, "the rest stays with the model, which stands still then"
        live.say(Ended(None))
        got = await last(session)
        assert [message.step for message in got[:-1] if message.type == "watched"] == list(range(100))
        assert got[-1].reason == "finished" and over == [session]

    play(test, max_unread=10)


def test_stop_reaches_a_client_that_does_not_read():
    async def test(session, live, over):
        live.say(*(Watched(step, 0.0, 0.0) for step in range(100)))
        await asyncio.sleep(0.2)
        session.stop("shutdown")
        while not over:
            await asyncio.sleep(0.01)
        assert (await last(session))[-1].reason == "shutdown"

    play(test, max_unread=10)


def test_a_model_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(sessions, "STOP_WITHIN_S", 0.1)

    async def test(session, live, over):
        session.stop("limit")
        assert (await last(session))[-1].reason == "limit" and live.calls == ["stop"]

    play(test, live=FakeLive(obeys=False))


@pytest.mark.parametrize(
    "error, message",
    [
        (RuntimeError("secret path /home/x"), "the model failed; the server's log has more"),
        (UserError("the stream ended before its first frame"), "the stream ended before its first frame"),
    ],
)
def test_a_model_that_fails_is_told_without_its_inside(error, message):
    async def test(session, live, over):
        live.stats = lambda: Stats(frames_in=1)
        live.say(Ended(error))
        told, end = await last(session)
        assert (told.code, told.message, told.fatal, end.reason) == ("model_error", message, True, "error")

    play(test)


def test_a_fault_of_the_server_ends_the_session_and_is_told():
    async def test(session, live, over):
        live.say("no event at all")
        told, end = await last(session)
        assert (told.code, end.reason) == ("server_error", "error")

    play(test)


def test_the_first_reason_to_end_stands():
    async def test(session, live, over):
        session.stop("stopped")
        session.stop("shutdown")
        session.fail(ProtocolError("source", "too late"))
        assert [message.type for message in await last(session)] == ["end"]
        assert live.calls == ["stop"]

    play(test)


def test_a_connection_that_was_replaced_does_not_begin_the_grace_of_its_successor():
    async def test(session, live, over):
        first, second = Connection(), Connection()
        session.attach(first)
        session.attach(second)
        session.detach(first)
        assert first.replaced and session.connection is second
        await asyncio.sleep(1.2)
        assert not over
        session.detach(second)
        began = time.monotonic()
        assert (await last(session))[-1].reason == "idle" and time.monotonic() - began >= 0.4

    play(test, grace_s=0.5)


def test_a_recording_that_cannot_be_written_ends_the_session_and_is_told():
    class Full:
        def event(self, event):
            raise OSError(28, "No space left on device")

        def give_up(self):
            self.given_up = True

    async def test(session, live, over):
        session.telling.recorder = full = Full()
        live.say(Watched(0, 0.0, 0.0))
        watched, error, end = await last(session)
        assert (watched.type, error.code, end.reason) == ("watched", "server_error", "error")
        assert "No space left" in error.message and end.recording is None and full.given_up

    play(test)


def test_a_recording_that_breaks_at_its_very_end_is_not_told_to_be_there(tmp_path):
    """All was said; the disk was full when the last line came."""

    async def test(session, live, over):
        recordings = Recordings(tmp_path, 60)
        session.telling.recorder = recordings.begin("name", session.opened)
        session.telling.recorder._jsonl.close()
        session.telling.recorder._jsonl = open("/dev/full", "w", buffering=1)  # noqa: SIM115
        session.telling.recorder._cue = []
        live.say(Ended(None))
        error, end = await last(session)
        assert (error.code, error.n, end.n, end.reason, end.recording) == ("server_error", 0, 1, "error", None)
        with pytest.raises(ProtocolError, match="no such recording"):
            recordings.path("name", "jsonl")

    play(test)


def test_a_stream_whose_stamps_run_faster_than_the_clock_has_the_length_of_all_others():
    class Fast(FakeLive):
        def stats(self):
            return Stats(steps_made=100)

    async def test(session, live, over):
        session.touch()
        assert (await last(session))[-1].reason == "limit"

    play(test, live=Fast(), total_s=60)


def test_a_stream_without_a_usable_picture_ends_with_what_was_wrong():
    async def test(session, live, over):
        for data in (b"", b"no picture"):
            with pytest.raises(ProtocolError):
                await session.take(bytes(Frame(0, 0.0, data)))
        live.say(Ended(UserError("the stream has no steps")))
        got = await last(session)
        error, end = got[-2:]
        assert (error.code, end.reason) == ("bad_frame", "error") and "neither JPEG" in error.message

    play(test)


def test_a_stream_without_any_picture_is_no_fault_of_the_model():
    async def test(session, live, over):
        live.say(Ended(UserError("the stream has no steps")))
        error, end = await last(session)
        assert (error.code, end.reason) == ("bad_frame", "error") and "no steps" in error.message

    play(test)


def test_slow_pictures_of_some_do_not_starve_others():
    """Two sessions keep both threads busy with slow pictures; a third one's quick pictures go first at each turn."""

    async def run():
        threads, order = Threads(1, decoders=2), []
        slow, quick = [DecodingTime(), DecodingTime()], DecodingTime()

        async def decode(spent, name, seconds):
            await threads.decode(spent, time.sleep, seconds)
            order.append(name)

        many = [asyncio.create_task(decode(spent, "slow", 0.1)) for spent in slow for _ in range(5)]
        await asyncio.sleep(0.05)
        for _ in range(3):
            await decode(quick, "quick", 0)
        assert order.count("quick") == 3 and order.count("slow") <= 8
        await asyncio.gather(*many)
        gone = asyncio.create_task(decode(slow[0], "gone", 0.1))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(*(decode(quick, "quick", 0) for _ in range(4)))
        await asyncio.sleep(0.2)
        assert threads._free == 2
        threads.close()

    asyncio.run(run())
