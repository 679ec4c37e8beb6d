"""The driver of scripts/torture.sh: trials are kept, gone on with, and told; and a small trial of damaged files."""

import json
import random

from tests.torture.__main__ import main
from tests.torture.parts import PARTS, Part, World, damaged_files


def test_a_run_goes_on_where_it_was_and_the_table_says_what_was_run(tmp_path, capsys):
    drawn = []

    def trial(world, rng):
        drawn.append(rng.random())
        if len(drawn) == 3:
            raise AssertionError("it broke")
        return {"kills": 2}

    parts, folder, page = {"part": Part(trial, 10, "it holds")}, tmp_path / "kept", tmp_path / "page.md"
    assert main(["--share", "0.2"], parts, folder, page) == 0
    assert len(drawn) == 2 and "2 of 10 | 4 kills | 0" in page.read_text()
    assert main(["--share", "0.4"], parts, folder, page) == 1
    assert len(drawn) == 4 == len(set(drawn)), "the first two are not run again, and each is another"
    assert "4 of 10 | 6 kills | 1" in page.read_text() and "- `part` 2" in page.read_text()
    assert "it broke" in json.loads((folder / "part.json").read_text())["failed"][0]["trace"]
    assert main(["--only", "part", "1"], parts, folder, page) == 0 and drawn[-1] == drawn[1]


def test_damaged_files_are_read_or_refused(tmp_path):
    with World(tmp_path) as world:
        counts = damaged_files(world, random.Random(0), count=12)
    assert sum(counts.values()) == 12 and PARTS["damaged"].trial is damaged_files
