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
from swwatch.serve.settings import ServeSettings
from tests.helpers import light_replica
from tests.helpers.server_process import WAIT_S

SETTINGS = ServeSettings(model=["light"], device="cpu", max_sessions=3, token="a-good-token")


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
            while first.up or first.runs or "its" in replicas._homes:
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

    with children.children(SETTINGS, 2, light_replica.serve) as made:
        tokens = {one.address.token for one in made}
        assert len(tokens) == 2 and SETTINGS.token not in tokens, "nobody goes past the door"
        asyncio.run(run(made))
    assert not list(tmp_path.iterdir())


def test_where_one_cannot_be_started_none_is_left():
    with (
        pytest.raises(UserError, match="no checkpoint there"),
        children.children(replace(SETTINGS, model=["broken"]), 2, light_replica.serve),
    ):
        pass
    assert not _replicas()


def _replicas(of: int | None = None) -> list[psutil.Process]:
    return [one for one in psutil.Process(of).children() if "spawn_main" in " ".join(one.cmdline())]


DOOR = """
import time
from swwatch.serve import children
from swwatch.serve.settings import ServeSettings
from tests.helpers import light_replica
with children.children(ServeSettings(model=["light"], device="cpu"), 2, light_replica.serve):
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
