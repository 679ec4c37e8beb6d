"""Replicas in processes of this machine: started together, started again when one dies, ended with their door."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

from swwatch.errors import UserError
from swwatch.serve import children
from swwatch.serve.replicas import Replicas
from swwatch.serve.scaling import Scale
from swwatch.serve.settings import ServeSettings
from tests.helpers import light_replica
from tests.helpers.server_process import WAIT_S

SETTINGS = ServeSettings(model=["light"], device="cpu", max_sessions=3, token="a-good-token")
TWO = Scale(2, 2, SETTINGS.max_sessions)


def test_one_that_is_killed_is_started_again_and_costs_only_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(children.tempfile, "tempdir", str(tmp_path))

    async def run(made) -> None:
        replicas = Replicas(made, SETTINGS)
        await asyncio.gather(*(one.look(replicas.http) for one in made))
        assert [one.up for one in made] == [True, True] and replicas.places == 6
        first, second = made
        replicas.has(first, "its")
        replicas.has(second, "the other's")
        pid = second.process.pid
        os.kill(first.process.pid, signal.SIGKILL)
        watching = asyncio.create_task(replicas.watch())
        async with asyncio.timeout(WAIT_S):
            while first.up or first.runs or replicas._homes["its"]:
                await asyncio.sleep(0.05)
            assert replicas.whom_to_ask("its") == [second] == replicas.whom_to_ask("the other's")
            assert len(replicas) == 0 and replicas.places == 3
            while not first.up:
                await asyncio.sleep(0.05)
        assert second.process.pid == pid and sorted(replicas.whom_to_ask("its"), key=made.index) == made
        began_s = time.monotonic()
        await replicas.shutdown(8)
        assert not any(one.runs for one in made) and time.monotonic() - began_s < 8
        await watching

    with children.children(SETTINGS, TWO, light_replica.serve) as made:
        tokens = {one.address.token for one in made}
        assert len(tokens) == 2 and SETTINGS.token not in tokens, "nobody goes past the door"
        asyncio.run(run(made))
    assert not list(tmp_path.iterdir())


ONE_OR_TWO = Scale(1, 2, SETTINGS.max_sessions, idle_s=0.2)


async def until(true) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():
            await asyncio.sleep(0.02)


async def fill(replicas: Replicas, sessions: int) -> None:
    """Have the first replica hold so many."""
    first = replicas.all[0]
    await replicas.http.get(f"{first.address.base}/sessions/{sessions}")
    await until(lambda: first.up and first.sessions == sessions)


def test_another_is_started_where_places_run_short_and_ended_when_nobody_needs_it(caplog):
    caplog.set_level("INFO", "swwatch.serve")

    async def run(made) -> None:
        replicas, (first, second) = Replicas(made, SETTINGS, ONE_OR_TWO), made
        watching, pid = asyncio.create_task(replicas.watch()), first.process.pid
        await fill(replicas, 2)
        assert replicas.full() is None and replicas.running == 1 and not second.runs
        await fill(replicas, 3)
        full = replicas.full()
        assert full.code == "full" and f"in about {full.retry_after_s} s" in str(full) and replicas.running == 2
        await until(lambda: second.up)
        assert replicas.full() is None and replicas.places == 6
        assert replicas.whom_to_ask(None) == [second, first], "newcomers go where there is room"
        replicas.has(second, "ended")
        await fill(replicas, 1)
        await until(lambda: not replicas.running == 2 and not second.runs)
        assert replicas.whom_to_ask("ended") == [first] and first.process.pid == pid
        assert [(one.starts, one.stops) for one in made] == [(1, 0), (1, 1)]
        await replicas.shutdown(8)
        await watching

    with children.children(SETTINGS, ONE_OR_TWO, light_replica.serve) as made:
        asyncio.run(run(made))
    told = [record.message for record in caplog.records if record.message in ("replica begins", "replica rests")]
    assert told == ["replica begins", "replica rests"]


def test_one_that_is_killed_as_it_starts_is_told_and_tried_again_after_a_pause(caplog):
    settings = replace(SETTINGS, model=["slow"])

    async def run(made) -> None:
        replicas, (_, second) = Replicas(made, settings, ONE_OR_TWO), made
        watching = asyncio.create_task(replicas.watch())
        await fill(replicas, 3)
        await until(lambda: second.runs)
        killed_s = time.monotonic()
        second.process.kill()
        await until(lambda: caplog.records)
        assert caplog.records[-1].fields == {"replica": "1", "code": -9}
        assert replicas.full() is None, "nobody is promised what may fail again"
        await until(lambda: second.starts == 2)
        assert time.monotonic() - killed_s > 1
        began_s = time.monotonic()
        await replicas.shutdown(8)  # while it starts
        assert not second.runs and time.monotonic() - began_s < 8
        await watching

    with children.children(settings, ONE_OR_TWO, light_replica.serve) as made:
        asyncio.run(run(made))


@pytest.mark.parametrize(
    "asked, engine, told",
    [("1:5", "auto", 4), ("2:3", "two_device", 2), ("1:4", "auto", None), ("9", "auto", None)],
)
def test_more_than_there_are_devices_is_refused_where_it_would_show_late(monkeypatch, asked, engine, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    settings = ServeSettings(replicas=asked, engine=engine, replica_idle_s=7, grace_s=2)
    if told is None:
        assert children.scale_here(settings).most == int(asked[-1]) and children.scale_here(settings).idle_s == 9
        assert children.scale_here(replace(settings, replicas="auto")).least == 4
        return
    with pytest.raises(UserError, match=f"enough for {told}"):
        children.scale_here(settings)
    assert children.scale_here(replace(settings, device="cpu")).most == int(asked[-1])


def test_where_one_cannot_be_started_none_is_left():
    with (
        pytest.raises(UserError, match="no checkpoint there"),
        children.children(replace(SETTINGS, model=["broken"]), TWO, light_replica.serve),
    ):
        pass
    assert not _replicas()


def _replicas(of: int | None = None) -> list[psutil.Process]:
    return [one for one in psutil.Process(of).children() if "spawn_main" in " ".join(one.cmdline())]


DOOR = """
import time
from swwatch.serve import children
from swwatch.serve.scaling import Scale
from swwatch.serve.settings import ServeSettings
from tests.helpers import light_replica
with children.children(ServeSettings(model=["light"], device="cpu"), Scale(2, 2, 8), light_replica.serve):
    print("up", flush=True)
    time.sleep(600)
"""


def test_a_door_that_is_killed_leaves_nobody_behind():
    door = subprocess.Popen([sys.executable, "-c", DOOR], stdout=subprocess.PIPE, text=True)
    assert door.stdout.readline() == "up\n"
    orphans = _replicas(door.pid)
    assert len(orphans) == 2
    door.kill()
    door.wait()
    assert psutil.wait_procs(orphans, WAIT_S)[1] == []


def test_kept_sessions_are_shared_out_among_those_that_there_are(tmp_path):
    for name in ("x", "0/a", "1/b", "2/c", "2/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.session").touch()
    children._spread(tmp_path, 2)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.session")}
    assert found == {"0/a.session", "1/b.session", "0/c.session", "1/d.session", "0/x.session"}


@pytest.mark.parametrize(
    "engine, visible, seen",
    [
        ("auto", "", ["0", "1", "2", "3", "0"]),
        ("auto", "4,5,GPU-x,7", ["4", "5", "GPU-x", "7", "4"]),
        ("two_device", "", ["0,1", "2,3", "0,1", "2,3", "0,1"]),
    ],
)
def test_each_sees_devices_of_its_own(monkeypatch, engine, visible, seen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for number, expected in enumerate(seen):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        children._take_devices(replace(SETTINGS, engine=engine, replica=number))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
