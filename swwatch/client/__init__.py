"""A Python client of the live protocol (docs/protocol.md): pictures in, words out, over a connection that may break.

    with Client("http://127.0.0.1:8000") as client:
        client.open(question="What is happening?")
        for event in client.watch(frames_of("camera:0")):  # swwatch.data.live.sources; or anything that yields frames
            if isinstance(event, Token):
                print(event.text, end="", flush=True)

`AsyncClient` is the same for asyncio. Events are the server's own messages (client/protocol.py), and `Reconnected`.
Nothing here needs torch; `pip install 'swwatch[serve]'` brings what it does need.
"""

from swwatch.client.asynchronous import AsyncClient
from swwatch.client.errors import ServerError, Unreachable
from swwatch.client.grid import on_grid
from swwatch.client.progress import Counts, Reconnected
from swwatch.client.protocol import Asked, Dropped, End, Error, File, Opened, Stats, Token, Upload, Url, Watched
from swwatch.client.synchronous import Client

__all__ = [
    "Asked",
    "AsyncClient",
    "Client",
    "Counts",
    "Dropped",
    "End",
    "Error",
    "File",
    "Opened",
    "Reconnected",
    "ServerError",
    "Stats",
    "Token",
    "Unreachable",
    "Upload",
    "Url",
    "Watched",
    "on_grid",
]
