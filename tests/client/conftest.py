"""One real server process with a token and a tiny random checkpoint, and a scripted server for faults."""

import importlib.util
import signal
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _module(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serving = _module("serving_for_clients", HERE.parent / "serve/conftest.py")
clip, picture_fixture = serving.clip, serving.picture_fixture  # fixtures
TOKEN = "a-good-token"


@pytest.fixture(scope="session")
def server(tmp_path_factory, tiny_checkpoint, clip):
    """A server with a token, two places and a folder of one video."""
    files = tmp_path_factory.mktemp("files")
    (files / "clip.mp4").write_bytes(clip.read_bytes())
    model = ("--model", str(tiny_checkpoint), "--variant", "group", "--max-tokens", "40")
    flags = ("--token", TOKEN, "--files", str(files), "--max-sessions", "2", "--grace-s", "5")
    process = serving.ServerProcess(tmp_path_factory.mktemp("server"), *model, *flags)
    yield process.wait()
    assert process.stop(signal.SIGTERM) == 0


@pytest.fixture(scope="session")
def scripted():
    """The module scripted.py beside this file."""
    return _module("scripted_for_clients", HERE / "scripted.py")
