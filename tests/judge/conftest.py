"""Lets the tests of this folder import `judge_server` and `judge_runs`; requests pass by any proxy that is set."""

import pytest


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    from tests.helpers.judge_server import Endpoint

    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def swwatch_judge(server, monkeypatch, tmp_path):
    """swwatch_judge(*arguments) -> exit code; no wait is real."""
    from swwatch.cli import run
    from swwatch.evaluate.judge import command as program
    from swwatch.judge import client as client_module
    from tests.helpers.judge_runs import by_caption
    from tests.helpers.judge_server import KEY

    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.0)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("SWWATCH_JUDGE_MODEL", "SWWATCH_JUDGE_BASE_URL", "SWWATCH_JUDGE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    server.brain = by_caption()

    def call(*arguments, model="judge"):
        common = ["--base-url", server.url, *(["--model", model] if model else [])]
        return run(program.main, [*map(str, arguments), *common])

    return call
