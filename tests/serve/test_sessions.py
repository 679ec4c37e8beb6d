"""The table of sessions, with a model made of nothing: what an `open` that fails half-way leaves behind."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from swwatch.client.protocol import Open, ProtocolError
from swwatch.data.prompt import load_prompts
from swwatch.live.stage import Ended, Stats
from swwatch.rules.systems import SYSTEMS
from swwatch.serve.metrics import Metrics
from swwatch.serve.sessions import SessionTable
from swwatch.serve.settings import Limits
from swwatch.serve.sources import SessionOptions


class FakeLive:
    """A LiveSession that says nothing and ends when it is stopped."""

    def __init__(self):
        self.stopped = threading.Event()

    def read(self, timeout_s):
        return [Ended(None)] if self.stopped.wait(timeout_s) else []

    def stop(self) -> None:
        self.stopped.set()

    def stats(self) -> Stats:
        return Stats()


class Recordings:
    """A full disk."""

    def new_name(self) -> str:
        return "name"

    def begin(self, name, opened, aside):
        raise OSError(28, "No space left on device")


class Connection:
    def replace(self) -> None:
        pass


@pytest.fixture
def made():
    """Sessions, and the model's sessions that were opened; `slow` is waited for by those."""
    lives, asked, slow = [], [], threading.Event()
    slow.set()

    def open_live(**how):
        slow.wait(10)
        asked.append(how)
        lives.append(FakeLive())
        return lives[-1]

    stage = SimpleNamespace(open=open_live, engine="serial", why="")
    settings = SimpleNamespace(variant="group", schedule="wait-k:3", fps=4.0)
    checkpoint = SimpleNamespace(variant="group", loaded=SimpleNamespace(settings=settings))
    stages = SimpleNamespace(find=lambda variant: checkpoint, get=lambda one, engine: stage)
    places = {"uploads": None, "folder": None, "recordings": Recordings(), "urls": "none"}
    sessions = SessionTable(stages, limits=Limits(), metrics=Metrics(), **places)
    yield SimpleNamespace(sessions=sessions, lives=lives, asked=asked, slow=slow, checkpoint=checkpoint)
    sessions.threads.close()


def test_a_session_whose_recording_cannot_begin_gives_its_place_back(made):
    with pytest.raises(OSError):
        asyncio.run(made.sessions.open(Open(type="open", version=1, record=True), Connection()))
    assert len(made.sessions) == 0 and [live.stopped.is_set() for live in made.lives] == [True]


def test_a_session_that_is_being_opened_when_the_server_stops_is_refused_and_not_left_behind(made):
    async def run():
        made.slow.clear()
        opening = asyncio.create_task(made.sessions.open(Open(type="open", version=1), Connection()))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(made.sessions.shutdown())
        await asyncio.sleep(0.05)
        assert not stopping.done(), "it waits for those who may still be told"
        made.slow.set()
        with pytest.raises(ProtocolError, match="stopping"):
            await opening
        await asyncio.wait_for(stopping, 2)

    asyncio.run(run())
    assert len(made.sessions) == 0 and made.lives[0].stopped.is_set()


@pytest.mark.parametrize(
    "variant, question, schedule",
    [("group", load_prompts().eval_question, "wait-k:3"), ("livecc", SYSTEMS["livecc"].query, "")],
)
def test_a_session_without_a_question_is_asked_what_its_form_asks(made, variant, question, schedule):
    made.checkpoint.loaded.settings.variant = variant

    async def run():
        session, opened = await made.sessions.open(Open(type="open", version=1), connection := Connection())
        session.detach(connection)
        await made.sessions.shutdown()
        return opened

    opened = asyncio.run(run())
    assert (opened.question, opened.schedule) == (question, schedule)
    assert opened.fps == opened.rate == 4, "the model's grid, which a client is to send frames for"
    assert made.asked[0]["question"] == question and "system" not in made.asked[0], "the form's own"


def test_sources_that_take_long_to_be_found_keep_nobody_elses_work_up(made):
    """Names are looked up for as long as their server likes, and the loop's own threads are few."""
    source, threads = SimpleNamespace(stop=lambda: None), []
    source.open = lambda: threads.append(threading.current_thread().name)
    source.start = lambda session: None

    async def run():
        session, _ = await made.sessions.open(
            Open(type="open", version=1), connection := Connection(), SessionOptions(source)
        )
        session.detach(connection)
        await made.sessions.shutdown()

    asyncio.run(run())
    assert threads[0].startswith("events")
