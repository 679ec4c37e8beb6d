"""The table of scores: the paper's columns and rows, ours times 100, no number where there is none."""

from swwatch.metrics.table import COLUMNS, format_table, our_row, paper_rows
from swwatch.variants import VARIANTS


def test_our_row_is_times_100_beside_the_papers_in_its_column_order():
    corpus = {
        "BLEU-1": 0.5,
        "BLEU-4": 0.25,
        "ROUGE-L": 0.125,
        "CIDEr": 1.5,
        "METEOR": {"value": None, "why": "no java"},
    }
    lines = format_table([our_row("group, here", corpus), *paper_rows("group")]).splitlines()
    assert lines[0].split() == list(COLUMNS) == ["CIDEr", "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L"]
    assert lines[1].split() == ["group,", "here", "150.00", "50.00", "25.00", "n/a", "12.50"]
    assert lines[2].split() == ["group,", "paper", "3B", "12.52", "26.32", "7.42", "30.03", "27.37"]
    assert lines[3].split() == ["group,", "paper", "7B", "37.78", "41.01", "11.25", "27.48", "30.52"]
    assert len({len(line) for line in lines}) == 1


def test_every_variant_has_the_papers_two_rows():
    assert all([name for name, _ in paper_rows(v)] == [f"{v}, paper 3B", f"{v}, paper 7B"] for v in VARIANTS)
