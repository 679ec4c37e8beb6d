"""A wheel in an empty folder: every step from data to a served page, without the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swwatch import __version__
from swwatch.paths import CONFIGS, ROOT
from tests.helpers.server_process import ServerProcess

SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "swwatch")


@pytest.fixture(scope="module")
def swwatch(tmp_path_factory):
    """swwatch(*arguments) -> standard output of the installed command, in a folder that was empty."""
    source, site, here = (tmp_path_factory.mktemp(name) for name in ("source", "site", "here"))
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", "dist", "."], cwd=source, check=True
    )
    (wheel,) = (source / "dist").glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", site, wheel], check=True)
    shutil.rmtree(source)
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str | Path, code: int = 0) -> str:
        command = [sys.executable, site / "bin/swwatch", *map(str, arguments)]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    run.site, run.here, run.environment = site, here, environment
    return run


@pytest.mark.slow
def test_a_wheel_holds_all_that_the_checkout_has(swwatch):
    def files(folder: Path, *suffixes: str) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in suffixes}

    package = swwatch.site / "swwatch"
    assert files(package / "configs", ".yaml", ".json") == files(CONFIGS, ".yaml", ".json")
    kinds = (".py", ".html", ".css", ".js", ".svg")
    assert files(package, *kinds) == files(ROOT / "swwatch", *kinds)
    assert swwatch("--version") == f"swwatch {__version__}\n"
    where = [sys.executable, "-c", "import swwatch.paths as p; print(p.ROOT, p.CONFIGS)"]
    environment = os.environ | {"PYTHONPATH": str(swwatch.site)}
    printed = subprocess.run(
        where, cwd=swwatch.here, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [str(swwatch.here), str(package / "configs")]


@pytest.mark.slow
def test_in_an_empty_folder_everything_runs(swwatch):
    swwatch("toy", "data", "dataset", "--clips", "8", "--test-clips", "2", "--workers", "1")
    swwatch("toy", "model", "model")
    swwatch("prepare", "--tokenizer-model-id", "model", "--workers", "1")
    steps = ("--max-steps", "2", "--save-steps", "2")
    swwatch("train", "--config", "configs/train/toy.yaml", "--model-path", "model", "--variant", "group", *steps)
    trained = swwatch.here / "output/qwen2_5vl-pe-group"
    assert (trained / "config.json").is_file(), "by default in the folder where one stands"

    printed = swwatch("eval", "--max-count", "2", "--max-new-tokens", "20")
    metrics = Path(re.search(r"^metrics in (.+)$", printed, re.M)[1])
    assert metrics.parent == swwatch.here / "output/eval" and json.loads(metrics.read_text())
    video = next((swwatch.here / "dataset").rglob("videos/test/*.mp4"))
    printed = swwatch("stream", "--model", trained, "--video", video, "--jsonl", "tokens.jsonl")
    assert "group, wait-k:3" in printed and (swwatch.here / "tokens.jsonl").read_text()

    module = [sys.executable, "-m", "swwatch", "serve"]
    server = ServerProcess(
        swwatch.here,
        "--model",
        str(trained),
        "--max-tokens",
        "9",
        program=module,
        cwd=swwatch.here,
        env=swwatch.environment,
    )
    try:
        watched = swwatch("watch", video, "--server", server.wait().address, "--jsonl", "live.jsonl")
        status, page = server.get("/")
        assert status == 200 and b"<script" in page
    finally:
        code = server.stop()
    assert code == 0 and watched
    assert '"type":"token"' in (swwatch.here / "live.jsonl").read_text()
