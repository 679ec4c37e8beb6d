"""One writer of tables: what it aligns, and what it escapes."""

import re

from swwatch.metrics.tables import as_aligned_markdown, as_markdown, as_text, interval

LINES = [["run", "a|b", "clips"], ["one", "1.00", "12"], ["the other", "12.50 [1.00, 2.00]", "7"]]


def test_text_has_names_to_the_left_and_numbers_to_the_right():
    assert as_text(LINES).splitlines() == [
        "run                       a|b  clips",
        "one                      1.00     12",
        "the other  12.50 [1.00, 2.00]      7",
    ]
    assert as_text(LINES, num_names=2).splitlines()[1] == "one        1.00                   12"


def test_markdown_keeps_its_columns_whatever_a_cell_holds():
    head, rule, *rows = as_markdown([*LINES, ["escaped already", "a\\|b", ""]]).splitlines()

    assert head == "| run | a\\|b | clips |" and rule == "| --- | ---: | ---: |"
    assert rows[-1] == "| escaped already | a\\|b |  |"
    assert {len(re.split(r"(?<!\\)\|", line)) for line in (head, rule, *rows)} == {5}
    assert as_markdown(LINES, num_names=2, numeric=False).splitlines()[1] == "| --- | --- | --- |"


def test_markdown_for_a_terminal_too_is_aligned():
    assert as_aligned_markdown(LINES).splitlines() == [
        "| run       | a\\|b               | clips |",
        "| --------- | ------------------ | ----- |",
        "| one       | 1.00               | 12    |",
        "| the other | 12.50 [1.00, 2.00] | 7     |",
    ]


def test_an_interval_is_told_in_its_own_form():
    assert interval([0.125, 0.5]) == "[0.12, 0.50]"
    assert interval([0.125, -0.5], "+.1f", 100) == "[+12.5, -50.0]"
    assert interval(None) == "-"
