"""The quick start itself, in a much smaller setting, so that it cannot rot."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def python(tmp_path):
    """What stands in for Python: two runs start some twenty programs."""
    (tmp_path / "bin").mkdir()
    with WarmPython(tmp_path / "bin") as python:
        yield python.path


@pytest.fixture
def quickstart(python, path_without_java):
    """quickstart(out) -> standard output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QWEN2_5_VL")}
    environment |= {"SWWATCH_PYTHON": str(python), "PATH": path_without_java}
    return lambda out: run(out, environment)


def run(out: Path, environment: dict[str, str]) -> str:
    command = ["bash", str(ROOT / "scripts/quickstart.sh"), "--out", str(out), "--clips", "24", "--test-clips", "3"]
    # the real clip comes from a package: this test stays on this machine
    command += ["--steps", "3", "--no-real-clip"]
    done = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_quickstart_runs_and_runs_again(tmp_path, quickstart):
    out = tmp_path / "quick"
    text = quickstart(out)
    assert "7/7" in text and "CIDEr" in text and "seen 0-1" in text
    records = [json.loads(line) for line in (out / "data/test_3_5.jsonl").read_text().splitlines()]
    assert len(records) == 3
    predictions = [json.loads(line) for line in (out / "eval/group_infer.json").read_text().splitlines()]
    assert {p["video_id"] for p in predictions} == {r["video_id"] for r in records}
    assert set(predictions[0]) == {"video_id", "annotation", "task", "result", "messages"}
    told = [json.loads(line) for line in (out / "heldout_tokens.jsonl").read_text().splitlines()]
    tokens = [line for line in told if "token_id" in line]
    assert tokens and {line["event"] for line in told if "token_id" not in line} == {"watched"}
    assert set(tokens[0]) == {"step", "token_id", "text", "newest_visible_step", "t_emit_s", "t_frame_s"}
    assert all(t["newest_visible_step"] <= t["step"] and t["t_frame_s"] <= t["t_emit_s"] for t in tokens)
    config = json.loads((out / "group/config.json").read_text())
    assert config["swwatch"]["variant"] == "group"
    assert len(list((out / "pictures").glob("*.png"))) == 6
    # again: what is finished is kept
    kept = {p: p.stat().st_mtime_ns for p in (out / "group/model.safetensors", out / "eval/group_infer.json")}
    assert "CIDEr" in quickstart(out)
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
