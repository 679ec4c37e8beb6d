"""The load script against a real server, for seconds."""

import importlib.util
import json
from pathlib import Path

import pytest

from swwatch.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("load_live", ROOT / "scripts/load_live.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def strict_url(strict) -> str:
    return strict.address


def test_two_clients_are_counted_with_all_that_a_figure_must_carry(script, server, clip, tmp_path, capsys):
    flags = ["--clients", "1,2", "--seconds", "3", "--video", str(clip), "--max-lag-s", "60"]
    assert script.main([server.url, *flags, "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "load_live.json").read_text())
    assert {"commit", "cpu", "cores", "load", "torch"} <= result["begin"].keys()
    assert result["command"].startswith("python scripts/load_live.py http") and result["server"]["variants"] == [
        "group"
    ]
    assert [trial["clients"] for trial in result["trials"]] == [1, 2]
    for trial in result["trials"]:
        assert trial["held"] and not trial["errors"] and trial["lost_frames"] == trial["dropped_steps"] == 0
        assert trial["steps_per_s"] * 3 == pytest.approx(3 * trial["clients"], abs=trial["clients"])
        assert trial["tokens_per_s"] * 3 >= 3 * trial["clients"]
        assert 0 < trial["first_response_s"]["p50"] <= trial["first_response_s"]["p95"]
        assert 0 < trial["lag_s"]["p50"] <= trial["lag_s"]["p95"]
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "load_live.md").read_text() and "| clients | held" in shown


def test_what_goes_wrong_is_told_and_not_held(script, strict_url, tmp_path, capsys):
    """Two places, and a rate of frames that is no trouble: the third client is told that it is full."""
    assert script.main([strict_url, "--clients", "3", "--seconds", "2", "--output", str(tmp_path)]) == 0
    trial = json.loads((tmp_path / "load_live.json").read_text())["trials"][0]
    assert (
        not trial["held"]
        and trial["unanswered"] >= 1
        and any("full" in error or "taken" in error for error in trial["errors"])
    )
    written = (tmp_path / "load_live.json").read_text() + (tmp_path / "load_live.md").read_text()
    assert "a-good-token" not in written, "the token is nobody's business"


@pytest.mark.parametrize(
    "change",
    [{}, {"dropped_steps": 1}, {"lost_frames": 1}, {"unanswered": 1}, {"errors": ["x"]}, {"lag_s": {"p95": 2.0}}],
)
def test_a_number_is_held_only_when_nothing_is_lost_and_words_keep_up(script, change):
    trial = {"dropped_steps": 0, "lost_frames": 0, "unanswered": 0, "errors": [], "lag_s": {"p95": 0.5}} | change
    assert script.holds(trial, 1.0) == (not change)


@pytest.mark.parametrize("flags", [["--clients", "0"], ["--clients", "x"], ["--seconds", "1"], ["--width", "3"]])
def test_a_mistake_is_told(script, flags):
    with pytest.raises(UserError):
        script.main(["http://127.0.0.1:9", *flags])


def test_no_server_is_told(script):
    with pytest.raises(UserError, match="cannot reach"):
        script.main(["http://127.0.0.1:9", "--clients", "1"])


def test_tokens_are_left_out_of_the_command(script):
    argv = ["http://x/#token=secret", "--token", "secret", "--clients", "1", "--token=secret"]
    assert script.without_token(argv) == ["http://x/", "--token", "...", "--clients", "1", "--token=..."]
