"""A Python client of the live protocol (docs/protocol.md): pictures in, words out, over a connection that may break.

    with Client("http://127.0.0.1:8000") as client:
        client.open(question="What is happening?")
        for event in client.watch(frames_of("camera:0")):  # swwatch.data.live.sources; or anything that yields frames
            if isinstance(event, Token):
                print(event.text, end="", flush=True)

`AsyncClient` is the same for asyncio. Events are the server's own messages (client/protocol.py), and `Reconnected`.
Nothing here needs torch; `pip install 'swwatch[serve]'` brings what it does need.
"""

from importlib import import_module
from typing import Any

MODULES = {
    "asynchronous": ("AsyncClient",),
    "errors": ("ServerError", "Unreachable"),
    "grid": ("on_grid",),
    "progress": ("Counts", "Reconnected"),
    "protocol": (
        "Asked",
        "Decided",
        "Dropped",
        "End",
        "Error",
        "File",
        "Opened",
        "Stats",
        "Thought",
        "Token",
        "Turn",
        "Upload",
        "Url",
        "Watched",
    ),
    "synchronous": ("Client",),
}
HOMES = {name: module for module, names in MODULES.items() for name in names}
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    """What is asked for is imported then: an address costs no import of a WebSocket."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
