"""Checks and measurements in parts: they go on where they were, and docs name the part of what was not measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
IN_PARTS = re.compile(r"bash scripts/(check_cuda|bench|bench_train_gpu)\.sh\b([^\n`#|]*)")
COMMAND = re.compile(r"bash scripts/\w+\.sh|python (?:scripts/)?\w+\.py|swwatch [a-z]+ |pytest -m|timing\.jsonl")
UNMEASURED = re.compile(r"not measured|unmeasured|no GPU has been measured", re.IGNORECASE)
ABOUT_FIGURES = "what has none was not measured"  # how a page is to be read


def blocks(page: Path) -> list[str]:
    return re.split(r"\n\s*\n", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_was_not_measured_names_the_command_that_measures_it(page):
    """In its own paragraph or row, or in what follows."""
    found = blocks(page)
    for block, after in zip(found, [*found[1:], ""], strict=True):
        if UNMEASURED.search(block) and ABOUT_FIGURES not in block:
            assert COMMAND.search(block) or COMMAND.search(after), f"{page.name}: {block[:200]}"


def test_parts_that_docs_name_are_there():
    parts = {}
    for script in ("check_cuda", "bench", "bench_train_gpu"):
        printed = subprocess.run(["bash", ROOT / "scripts" / f"{script}.sh", "--list"], capture_output=True, text=True)
        parts[script] = set(printed.stdout.split())
        assert len(parts[script]) > 3
    named = [match for page in PAGES for match in IN_PARTS.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 15
    for script, rest in named:
        assert set(rest.split()[1:]) <= parts[script], f"scripts/{script}.sh{rest}"


@pytest.mark.parametrize("script", ["check_cuda", "bench", "bench_train_gpu"])
def test_what_is_not_installed_is_told_before_any_part(tmp_path, script):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    bare.chmod(0o755)
    env = {**os.environ, "SWWATCH_PYTHON": str(bare)}
    command = ["bash", ROOT / "scripts" / f"{script}.sh", tmp_path / "out"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "-m pip install torch torchvision transformers" in done.stderr
    assert "== " not in done.stdout


SCRIPT = """
ROOT={root} PYTHON=true
source {root}/scripts/parts.sh
open_folder {folder} unused
part() {{
    echo "$1 ran" >>{folder}/ran
    case "$1" in
        good) echo fine ;;
        bad) [ -e {folder}/mended ] ;;
        slow) [ -e {folder}/mended ] || limited sleep 60 ;;
    esac
}}
run_parts good bad slow
"""


def test_what_is_done_is_left_out_and_what_failed_or_was_cut_is_tried_again(tmp_path):
    def run(**more):
        script = SCRIPT.format(root=ROOT, folder=tmp_path)
        env = {**os.environ, "PART_S": "1", **more}
        code = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True).returncode
        ran = (tmp_path / "ran").read_text().split("\n")[:-1]
        (tmp_path / "ran").unlink()
        return code, ran

    assert run() == (1, ["good ran", "bad ran", "slow ran"])
    text = (tmp_path / "summary.md").read_text()
    rows = [re.split(r"\s*\|\s*", line)[1:3] for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [["bad", "failed"], ["good", "ok"], ["slow", "cut"]]
    assert "```\nfine\n```" in text
    (tmp_path / "mended").touch()
    assert run() == (0, ["bad ran", "slow ran"])
    assert run(AGAIN="1") == (0, ["good ran", "bad ran", "slow ran"])
