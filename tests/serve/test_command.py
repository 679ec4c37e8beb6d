"""The command: what it refuses before a model is loaded, and which toy it takes where none is named."""

import importlib.util
import socket

import pytest

from swwatch import cli
from swwatch.errors import UserError
from swwatch.serve import command


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--host", "0.0.0.0"], "--no-token"),
        (["--token", "short"], "8 to 200"),
        (["--token", "long-enough", "--no-token"], "contradict"),
        (["--allow-origin", "friend.example"], "--allow-origin"),
        (["--files", "/no/such/folder"], "--files"),
        (["--max-sessions", "0"], "--max-sessions"),
        (["--max-pixels", "many"], "--max-pixels"),
        (["--host", "256.1.2.3", "--no-token"], "--host"),
        (["--port", "99999"], "--port"),
        (["--port", "-1"], "--port"),
        (["--model", "/no/such/model"], "no checkpoint"),
        (["--replicas", "0"], "--replicas 0: give a number"),
        (["--replicas", "some"], "auto"),
        (["--replicas", "4:1"], "LEAST:MOST such as 1:4"),
        (["--replicas", "1:2:3"], "LEAST:MOST such as 1:4"),
        (["--replicas", "1:"], "LEAST:MOST such as 1:4"),
        (["--replica-idle-s", "0"], "replica_idle_s must be above 0"),
        (["--replicas", "http://one:8000,http://one:8000"], "each address once"),
        (["--replicas", "http://one:8000", "--keep-sessions", "x"], "--keep-sessions is for the servers"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(flags, words, capsys, monkeypatch):
    monkeypatch.delenv("SWWATCH_TOKEN", raising=False)
    assert cli.run(command.main, ["--port", "0", *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.run(command.main, ["--port", str(taken.getsockname()[1])]) == 2
    assert "--port" in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(UserError, match=r"uvicorn: pip install 'swwatch\[serve\]'"):
        command.main([])


def test_without_a_trained_toy_an_untrained_one_is_made_and_said_to_be(tmp_path, monkeypatch, tiny_checkpoint):
    models, variant, notes = command.toy_checkpoint(tmp_path)
    assert models == [str(tmp_path / "model")] and variant == "group"
    assert "RANDOM" in notes[0] and "scripts/quickstart.sh" in notes[0]
    assert (tmp_path / "model/model.safetensors").exists()
    made = (tmp_path / "model/model.safetensors").stat().st_mtime_ns
    command.toy_checkpoint(tmp_path)
    assert (tmp_path / "model/model.safetensors").stat().st_mtime_ns == made, "reused"


def test_what_the_quick_start_trained_is_taken_group_first(tmp_path):
    for name in ("gap", "group", "interleave", "unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        if name != "interleave":
            (tmp_path / name / "model.safetensors").touch()
    models, variant, notes = command.toy_checkpoint(tmp_path)
    assert models == [str(tmp_path / "group"), str(tmp_path / "gap")] and variant is None and "toy" in notes[0]


@pytest.mark.parametrize(
    "host, address",
    [
        ("127.0.0.1", "http://127.0.0.1:7/"),
        ("0.0.0.0", "http://127.0.0.1:7/"),
        ("::1", "http://[::1]:7/"),
        ("box", "http://box:7/"),
    ],
)
def test_the_printed_address_is_one_that_can_be_opened(host, address):
    assert command.page_address(host, 7) == address


def test_a_model_may_be_given_with_the_variant_that_it_is_to_be():
    assert command.split_model("gap=org/name") == ("org/name", "gap")
    for plain in ("org/name", "some=thing/model", "/a=b/c"):
        assert command.split_model(plain) == (plain, None)


def test_a_token_of_the_environment_is_not_printed():
    assert command.token_fragment(None, None) == ""
    assert command.token_fragment("from-a-flag", None) == "#token=from-a-flag"
    assert command.token_fragment("just-made", "auto") == "#token=just-made", "or nobody would know it"
    assert command.token_fragment("a-secret-one", "a-secret-one") == "#token=$SWWATCH_TOKEN"
