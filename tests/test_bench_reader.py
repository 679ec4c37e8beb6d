"""scripts/bench_reader.py: its arguments, and that the docs' rows and columns are its own."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/results/data.md").read_text(encoding="utf-8")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(ROOT / "scripts/bench_reader.py"))


@pytest.mark.parametrize("line", ["--rounds 0", "--threads 1 0", "--sizes 640", "--sizes 641x360", "--codecs vp8"])
def test_wrong_arguments_are_told(bench, line, capsys):
    with pytest.raises(SystemExit) as ended:
        bench["parse"](line.split())
    assert ended.value.code == 2 and line.split()[0] in capsys.readouterr().err


def test_rows_and_columns_of_the_docs_are_those_of_the_script(bench):
    args = bench["parse"]([])
    lengths = (args.seconds, 10)  # clips of 1920x1080 were measured in both
    rows = [row for seconds in lengths for row in bench["row_names"](args.sizes, args.codecs, seconds, args.threads)]
    columns = " | ".join(bench["WAYS"])
    told = re.findall(r"^\| clip, seconds, threads \| (.*) \| load \|$", PAGE, re.MULTILINE)
    assert told == [columns] * len(bench["TABLES"])
    named = re.findall(r"^\| ((?:h264|hevc|vp9|av1) .*?) \|", PAGE, re.MULTILINE)
    measured = [row for row in rows if row in named]
    assert len(measured) > 7 and named == measured * len(bench["TABLES"])


def test_pictures_are_compared_value_by_value(bench):
    ours = np.full((2, 4, 4, 3), 100, np.uint8)
    theirs = ours.copy()
    theirs[1, 3, 3, 2] = 97
    assert bench["apart"](ours.reshape(-1), ours) == 0
    assert bench["apart"](theirs, ours) == 3
    assert bench["apart"](ours[:1], ours) == 255


def test_a_way_that_cannot_is_told_in_its_cell(bench):
    ours = {"cpu_s": [1.0, 2.0], "clock_s": [1.0, 3.0], "peak_mb": 1000, "apart": 0}
    other = ours | {"cpu_s": [2.0, 1.0], "apart": 9}
    row = {"row": "av1", "load": 3.5, "ours": ours, "decord": "no decoder", "ffmpeg": other}
    line = bench["line_of"](row, ["ours", "decord", "ffmpeg"], bench["ratio_of"])
    assert line == "| av1 | 1.00 | cannot | 1.25 (0.50 to 2.00), differs by 9 | 3.5 |"
