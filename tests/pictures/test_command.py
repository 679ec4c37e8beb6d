"""Pictures and tables of a variant say what the layout says."""

import pytest

from swwatch.errors import UserError
from swwatch.pictures.command import main
from swwatch.pictures.sample import arrival_order
from swwatch.pictures.show import table
from swwatch.rules.cursor import layout
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_picture_is_drawn(variant, tmp_path, capsys):
    assert main(["--variant", variant, "--out", str(tmp_path), "--steps", "2", "--answer-len", "5"]) == 0
    picture = tmp_path / f"{variant}.png"
    assert capsys.readouterr().out.strip() == str(picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_table_has_a_line_a_token_with_its_positions():
    tokens = layout("gap", 2, [(1, 2)] * 2, 4)
    lines = table(tokens).splitlines()[1:]
    assert len(lines) == len(tokens)
    assert lines[-1].split() == ["15", "answer", "1", "10006", "10006", "10006", "16"]


def test_arrival_order_alternates_watching_and_speaking_in_parallel_variants():
    tokens = layout("group", 2, [(1, 1)] * 3, 8)
    kinds = [tokens.kind[i] for i in arrival_order("group", tokens)]
    assert kinds[2] == Kind.VIDEO and kinds[3:6] == [Kind.HEADER] * 3 and kinds[6:9] == [Kind.ANSWER] * 3
    assert kinds[9] == Kind.VIDEO
    offline = layout("origin", 2, [(1, 1)] * 3, 8)
    assert arrival_order("origin", offline).tolist() == list(range(len(offline)))


@pytest.mark.parametrize("flags", [["--grid", "two"], ["--steps", "0"], ["--steps", "99", "--grid", "9x9"]])
def test_bad_sizes_say_what_to_do(flags, tmp_path):
    with pytest.raises(UserError, match="write|at least|choose"):
        main([*flags, "--out", str(tmp_path)])
