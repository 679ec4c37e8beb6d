"""What one connection may do to those beside it, and how many there may be."""

import asyncio
import resource
from types import SimpleNamespace

import pytest
import uvicorn

from swwatch.serve.connection import LiveConnection
from swwatch.serve.running import room_for
from swwatch.serve.sockets import PIECE, WebSocket


def test_between_two_messages_of_one_connection_it_is_the_turn_of_others():
    """A few KB hold thousands of them, all of which are there at once."""

    async def receive():
        return {"type": "websocket.receive", "text": "{}"}

    async def run():
        server, turns = SimpleNamespace(limits=None), 0
        connection = LiveConnection(SimpleNamespace(receive=receive), server)

        async def another():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(another())
        for _ in range(100):
            assert await connection._receive() == "{}"
        task.cancel()
        return turns

    assert asyncio.run(run()) >= 99


def test_a_websocket_is_read_in_small_pieces():
    async def app(scope, receive, send):
        pass

    class Reads(WebSocket):
        def __init__(self):
            super().__init__(uvicorn.Config(app, log_config=None), uvicorn.server.ServerState(), {})
            self.sizes, self.closed = [], asyncio.Event()

        def connection_made(self, transport):
            pass

        def data_received(self, data):
            self.sizes.append(len(data))

        def connection_lost(self, error):
            self.closed.set()

    async def run():
        reads = Reads()
        server = await asyncio.get_running_loop().create_server(lambda: reads, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(bytes(500_000))
        writer.close()
        await reads.closed.wait()
        server.close()
        return reads.sizes

    sizes = asyncio.run(run())
    assert sum(sizes) == 500_000 and max(sizes) <= PIECE


@pytest.mark.parametrize(
    "limits, asked, given",
    [((1024, 4096), 256, 256), ((1024, 4096), 1728, 1728), ((1024, 1024), 1728, 512), ((1024, -1), 1728, 1728)],
)
def test_there_are_no_more_connections_than_files(limits, asked, given, monkeypatch):
    changed = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, now: changed.append(now))
    assert room_for(asked) == given
    assert changed == ([(min(2 * asked, 1 << 60 if limits[1] < 0 else limits[1]), limits[1])] if asked > 512 else [])
