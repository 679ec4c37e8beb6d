"""One real server process with a token and a tiny random checkpoint, and a scripted server for faults."""

import signal

import pytest

from tests.helpers import scripted_server
from tests.helpers.server_process import ServerProcess

TOKEN = "a-good-token"


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_checkpoint, clip):
    """A server with a token, two places and a folder of one video."""
    files = tmp_path_factory.mktemp("files")
    (files / "clip.mp4").write_bytes(clip.read_bytes())
    model = ("--model", str(tiny_checkpoint), "--variant", "group", "--max-tokens", "40")
    flags = ("--token", TOKEN, "--files", str(files), "--max-sessions", "2", "--grace-s", "5")
    process = ServerProcess(tmp_path_factory.mktemp("server"), *model, *flags)
    yield process.wait()
    assert process.stop(signal.SIGTERM) == 0


@pytest.fixture(scope="session")
def scripted():
    """The module of scripted servers."""
    return scripted_server
