"""Real servers with a tiny random checkpoint, one for each set of flags."""

from pathlib import Path

import pytest

from tests.helpers.server_process import Client, ServerProcess


@pytest.fixture(scope="session")
def allowed(tmp_path_factory, clip) -> Path:
    """A folder that the server may read: one video, and links that lead out."""
    root = tmp_path_factory.mktemp("files")
    (root / "sub").mkdir()
    (root / "sub/clip.mp4").write_bytes(clip.read_bytes())
    (root / "damaged.mp4").write_bytes(clip.read_bytes()[:400])
    (root / "out.mp4").symlink_to(clip)
    return root


STUCK = """
import time
from swwatch.serve import pictures
decode = pictures.decode
pictures.decode = lambda data, most: time.sleep(600) if data == b"stuck" else decode(data, most)
"""


@pytest.fixture(scope="session")
def _servers(tmp_path_factory, tiny_checkpoint, allowed):
    """All start at the same time: most of it is importing."""
    model = ("--model", str(tiny_checkpoint), "--variant", "group", "--log-level", "debug", "--max-tokens", "60")
    usual = ("--files", str(allowed), "--max-sessions", "4", "--grace-s", "5", "--max-frame-bytes", "500000")
    usual += (
        "--max-pixels",
        "1000000",
        "--max-frame-rate",
        "1000",
        "--max-upload-bytes",
        "3000000",
        "--keep-s",
        "900",
    )
    strict = (
        "--token",
        "a-good-token",
        "--max-sessions",
        "2",
        "--idle-s",
        "1.5",
        "--total-s",
        "4",
        "--grace-s",
        "0.5",
    )
    strict += ("--max-frame-rate", "4", "--allow-origin", "https://friend.example")
    made = {
        name: ServerProcess(tmp_path_factory.mktemp(name), *model, *flags, first=first)
        for name, flags, first in (
            ("usual", usual, ""),
            ("strict", strict, ""),
            ("leaving", ("--max-tokens", "5000"), STUCK),
        )
    }
    yield made
    codes = [server.stop() for server in made.values()]
    assert codes == [0, 0, 0], "SIGTERM, too, ends in an orderly way"


@pytest.fixture(scope="session")
def server_process() -> type[ServerProcess]:
    """For a module that wants a server of its own."""
    return ServerProcess


@pytest.fixture(scope="session")
def server(_servers) -> ServerProcess:
    """The usual server: no token, files allowed, long times."""
    return _servers["usual"].wait()


@pytest.fixture(scope="session")
def strict(_servers) -> ServerProcess:
    """A server with a token, two places, four frames a second, and short times."""
    return _servers["strict"].wait()


@pytest.fixture(scope="session")
def leaving(_servers) -> ServerProcess:
    """A server for the test that stops it. The picture b"stuck" takes for ever there."""
    return _servers["leaving"].wait()


@pytest.fixture
def client(server):
    """client(open={...}) -> a connection; closed at the end."""
    made = []

    def make(**how) -> Client:
        how.setdefault("server", server)
        made.append(Client(**how))
        return made[-1]

    yield make
    for one in made:
        one.close()
