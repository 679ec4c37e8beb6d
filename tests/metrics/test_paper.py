"""The table of scores: the paper's columns and rows, ours times 100, no number where there is none."""

import pytest

from swwatch.metrics.paper import COLUMNS, format_table, our_interval, our_row, paper_disturbed, paper_rows
from swwatch.rules.variants import VARIANTS

CORPUS = {
    "BLEU-1": 0.5,
    "BLEU-4": 0.25,
    "ROUGE-L": 0.125,
    "CIDEr": 1.5,
    "METEOR": {"value": None, "why": "no java"},
    "BLEURT": 0.5,
    "Fluency": 4.5,
}


def test_our_row_is_times_100_beside_the_papers_in_its_column_order():
    lines = format_table([our_row("group, here", CORPUS), *paper_rows("group")]).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert COLUMNS == ("CIDEr", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "BLEURT", "Fluency")
    assert lines[1].split() == ["group,", "here", "150.00", "50.00", "25.00", "n/a", "12.50", "50.00", "4.50"]
    assert lines[2].split()[3:] == ["12.52", "26.32", "7.42", "30.03", "27.37", "51.53", "4.56"]
    assert lines[3].split()[3:] == ["37.78", "41.01", "11.25", "27.48", "30.52", "51.18", "n/a"]
    assert len({len(line) for line in lines}) == 1


def test_intervals_stand_below_their_row():
    ends = {"here": our_interval({"CIDEr": [1.25, 1.75], "Fluency": [4.25, 4.75], "BLEU-2": [0, 1]})}
    rows = [our_row("here", CORPUS), *paper_rows("gap")]
    lines = format_table(rows, ends).splitlines()
    assert lines[2].split() == ["95", "%", "from", "125.00", "4.25"] and lines[3].split()[-2:] == ["175.00", "4.75"]
    assert len({len(line) for line in lines}) == 1 and lines[4].startswith("gap, paper 3B")


@pytest.mark.parametrize(
    ("task", "names"), [("pe-video", ["paper 3B", "paper 7B"]), ("funqa", ["paper 3B, mean of six"])]
)
def test_every_variant_has_the_papers_rows(task, names):
    assert all([name for name, _ in paper_rows(v, task)] == [f"{v}, {name}" for name in names] for v in VARIANTS)
    assert all(set(values) >= set(COLUMNS[:-1]) for v in VARIANTS for _, values in paper_rows(v, task))
    assert all(("Fluency" in values) == ("3B" in name) for v in VARIANTS for name, values in paper_rows(v, task))


def test_papers_orders_hold_as_it_tells_them():
    bleurt = {v: paper_rows(v)[0][1]["BLEURT"] for v in VARIANTS}
    assert max(bleurt, key=bleurt.get) == "origin" and min(bleurt, key=bleurt.get) == "interleave"
    assert paper_rows("batch", "funqa")[0][1]["BLEURT"] == 42.04
    # the undisturbed values are those of the main table, and only interleave falls
    drops = {v: paper_disturbed(v) for v in VARIANTS}
    assert drops["origin"] is None and drops["batch"] is None
    assert all(row["fixed"] == bleurt[v] for v, row in drops.items() if row)
    assert [v for v, row in drops.items() if row and row["random"] < row["fixed"]] == ["interleave"]


def test_what_is_not_in_the_paper_says_so():
    for task in ("pe-video", "funqa"):
        lines = format_table(paper_rows("livecc", task)).splitlines()
        assert lines[1].startswith("livecc: not in the paper") and lines[1].count("n/a") == len(COLUMNS)
