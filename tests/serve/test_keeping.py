"""Sessions that outlive their server: kept on disk at its end, taken up by the next one, resumed by their clients."""

import asyncio
import json
import pickle
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import torch

from swwatch.client.protocol import Ask, Finish, Frame, Open, ProtocolError
from swwatch.errors import UserError
from swwatch.live.stage import Capacity
from swwatch.serve.keeping import Keeping
from swwatch.serve.metrics import Metrics
from swwatch.serve.record import Recordings
from swwatch.serve.sessions import SessionTable
from swwatch.serve.settings import Limits
from swwatch.serve.stages import Checkpoint, Stages
from tests.helpers.server_process import picture

SHOWN = [picture(number) for number in range(10)]


class Connection:
    restarted = False

    def replace(self) -> None:
        raise AssertionError("nobody took the session over")

    def restart(self) -> None:
        self.restarted = True


@asynccontextmanager
async def server(loaded, folder, content: str = "weights"):
    """All of a server but its sockets, which goes on with what is kept in a folder."""
    stages = Stages([Checkpoint("x", loaded, content)], engine="auto", max_sessions=4, capacity=Capacity())
    places = {"uploads": None, "folder": SimpleNamespace(root=None), "recordings": Recordings(None, 60)}
    how = {"limits": Limits(max_tokens=30), "metrics": Metrics(), "urls": "none", "keeping": Keeping(folder)}
    sessions = SessionTable(stages, **places, **how)
    try:
        await sessions.take_up()
        yield sessions
        await sessions.shutdown()
    finally:
        stages.close()
        sessions.keeping.close()
        sessions.recordings.close()


async def show(session, begin: int, end: int) -> None:
    for number in range(begin, end):
        await session.take(bytes(Frame(number, number / 2, SHOWN[number])))


async def read(session, is_enough) -> list:
    """Numbered messages until there are enough."""
    got = []
    while not is_enough(got):
        message = await asyncio.wait_for(session.outbox.next(), 60)
        if getattr(message, "n", None) is not None:
            got.append(message)
    if ended(got):
        session.detach(session.connection)
    return got


def watched(count: int):
    return lambda got: sum(message.type == "watched" for message in got) == count


def ended(got) -> bool:
    return bool(got) and got[-1].type == "end"


def words(messages) -> list[tuple]:
    return [(m.step, m.newest_visible_step, m.index, m.text) for m in messages if m.type == "token"]


@pytest.mark.parametrize("variant", ["group", "livecc"])
def test_a_session_goes_on_in_the_next_server_as_if_nothing_had_been(load_tiny, tmp_path, variant):
    loaded, begun = load_tiny(variant), Open(type="open", version=1, question="What moves?", record=True)
    seconds = 3 if variant == "livecc" else 2

    async def before() -> tuple:
        async with server(loaded, tmp_path) as sessions:
            session, opened = await sessions.open(begun, connection := Connection())
            await show(session, 0, 2 * seconds)
            got = await read(session, watched(seconds))
            await session.command(Ask(type="ask", question="And now?"))
            await show(session, 2 * seconds, 7)
        assert connection.restarted and not len(sessions)
        return got, opened

    async def after(got, opened) -> tuple:
        async with server(loaded, tmp_path) as sessions:
            assert len(sessions) == 1 and not list(tmp_path.glob("*.session")), "taken up once"
            resume = Open(type="open", version=1, resume=opened.session, seen=got[-1].n)
            session, again = await sessions.open(resume, Connection())
            assert again.resumed and again.missed == 0 and 0 < again.left_s < opened.left_s
            await show(session, 7, 10)
            await session.command(Finish(type="end"))
            got += await read(session, ended)
            recorded = sessions.recordings.path(opened.recording, "jsonl").read_text().splitlines()
            undisturbed, _ = await sessions.open(begun, Connection())
            await show(undisturbed, 0, 2 * seconds)
            expected = await read(undisturbed, watched(seconds))
            await undisturbed.command(Ask(type="ask", question="And now?"))
            await show(undisturbed, 2 * seconds, 10)
            await undisturbed.command(Finish(type="end"))
            expected += await read(undisturbed, ended)
        return got, expected, recorded

    got, opened = asyncio.run(before())
    (kept,) = tmp_path.glob("*.session")
    assert kept.stat().st_mode & 0o77 == 0 and opened.session not in kept.name
    got, expected, recorded = asyncio.run(after(got, opened))
    assert [message.n for message in got] == list(range(len(got))), "nothing lost, nothing twice"
    assert words(got) == words(expected) and len(words(got)) > 8
    assert (got[-1].reason, got[-1].tokens) == ("finished", expected[-1].tokens)
    assert [json.loads(line).get("n") for line in recorded] == [None, *range(len(got))], "one recording of both"


def test_what_is_damaged_or_foreign_is_told_and_left_and_the_others_are_taken_up(load_tiny, tmp_path, capsys):
    loaded = load_tiny("group")

    async def keep() -> None:
        async with server(loaded, tmp_path) as sessions:
            session, _ = await sessions.open(Open(type="open", version=1), Connection())
            await show(session, 0, 2)
            await read(session, watched(1))

    async def take_up(content: str) -> tuple[int, str]:
        async with server(loaded, tmp_path, content) as sessions:
            found, printed = len(sessions), capsys.readouterr().out
            for session in list(sessions._sessions.values()):
                session.stop("stopped")
        return found, printed

    asyncio.run(keep())
    (good,) = tmp_path.glob("*.session")
    whole = good.read_bytes()
    middle = len(whole) // 2
    foreign = {
        "a": whole[:middle],
        # longer than the padding between tensors, where a damage does none
        "b": whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 256]) + whole[middle + 256 :],
        "c": b"",
        "d": pickle.dumps(SimpleNamespace(form="x"), protocol=2),
    }
    for name, data in foreign.items():
        (tmp_path / f"{name}.session").write_bytes(data)
    state = torch.load(good, weights_only=True)
    torch.save({"form": "another"}, tmp_path / "e.session")
    torch.save(state | {"telling": {}}, tmp_path / "f.session")
    found, told = asyncio.run(take_up("other weights"))
    assert found == 0 and "it is of another checkpoint" in told and told.count("is not taken up, ") == 7
    found, told = asyncio.run(take_up("weights"))
    assert found == 1 and told.count("remove it if it is not wanted") == 6
    assert not good.exists() and len(list(tmp_path.glob("*.session"))) == 6


def test_a_disk_that_takes_nothing_ends_the_session_with_an_event(load_tiny, tmp_path, monkeypatch):
    def full(self, secret, state):
        raise UserError("cannot write: the disk is full")

    monkeypatch.setattr(Keeping, "write", full)

    async def run() -> list:
        async with server(load_tiny("group"), tmp_path) as sessions:
            session, _ = await sessions.open(Open(type="open", version=1), Connection())
            await show(session, 0, 2)
            reading = asyncio.create_task(read(session, ended))
        return await reading

    assert asyncio.run(run())[-1].reason == "shutdown" and not list(tmp_path.glob("*.session"))


def test_one_server_at_a_time_keeps_sessions_in_a_folder(tmp_path):
    keeping = Keeping(tmp_path)
    with pytest.raises(UserError, match="another run is writing"):
        Keeping(tmp_path)
    keeping.close()
    Keeping(tmp_path).close()


def test_who_comes_back_while_the_server_is_about_to_start_again_is_to_try_later(load_tiny, tmp_path):
    async def run() -> None:
        async with server(load_tiny("group"), tmp_path) as sessions:
            sessions.closing = True
            with pytest.raises(ProtocolError) as caught:
                await sessions.open(Open(type="open", version=1, resume="secret"), Connection())
            assert caught.value.code == "full", "clients try again"

    asyncio.run(run())
