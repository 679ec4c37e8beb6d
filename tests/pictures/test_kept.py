"""What is drawn of a KEEP policy is what its session has in view."""

import numpy as np
import pytest

from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.pictures import kept
from swwatch.pictures.command import main
from swwatch.policies.keep import KEEP
from tests.helpers.keeps import FORGETS

GRID, WORDS = (1, 2), 2


@pytest.fixture(scope="module")
def view(tiny_checkpoint):
    """View of so many seconds under a policy."""
    loaded = {}

    def seen(variant: str, keep: str, seconds: int) -> kept.View:
        loaded[variant] = loaded.get(variant) or load(tiny_checkpoint, variant=variant, device="cpu")
        return kept.view(loaded[variant], keep, seconds, GRID, WORDS)

    return seen


def by_second(column: np.ndarray) -> list[set[int]]:
    return [set(cells) for cells in column.reshape(-1, GRID[0] * GRID[1]).tolist()]


@pytest.mark.parametrize(
    ("variant", "keep"),
    [("group", "window:3:text_sink=2:text_window=4"), ("streamingvlm", "restart:3"), ("gap", "recent:3")],
)
def test_whole_seconds_are_in_view_or_gone(view, variant, keep):
    shown = view(variant, keep, 8)
    for now in range(1, 9):
        first = 3 * ((now - 1) // 3) if keep.startswith("restart") else max(0, now - 3)
        wanted = [{kept.GONE}] * first + [{kept.IN_VIEW}] * (now - first) + [{kept.TO_COME}] * (8 - now)
        assert by_second(shown.video[now - 1]) == wanted
    if keep.startswith("window"):
        assert shown.words[7].tolist() == [1, 0, 0, 0, 0, 1, 1, 1], (
            "the first, the newest when the step came, and its own"
        )
        assert np.isnan(shown.words[4]).tolist() == [False] * 5 + [True] * 3


def test_what_was_parked_comes_back_for_the_question(view):
    shown = view("group", "rekv:1:vision_s=2", 9)
    assert by_second(shown.video[4]) == [{kept.ON_HOST}] * 3 + [{kept.IN_VIEW}] * 2 + [{kept.TO_COME}] * 4
    later = by_second(shown.video[8])  # the question came after six seconds
    assert later[-2:] == [{kept.IN_VIEW}] * 2 and {kept.IN_VIEW} in later[:-2] and {kept.ON_HOST} in later


def test_of_a_patch_a_mean_may_be_left_or_a_share_of_its_tokens(view):
    carried = by_second(view("group", "carrier:2:text_sink=2:text_window=4", 6).video[5])
    assert carried.count({kept.MERGED}) == 2 and carried.count({kept.GONE}) == 4
    merged = by_second(view("gap", "vstream:2:detail=1:text_sink=2:text_window=4", 6).video[5])
    assert merged[-1] == {kept.IN_VIEW} and {kept.MERGED} in merged and {kept.GONE} in merged
    thinned = view("group", "key_norm:2:group_s=2", 6).video[5]
    assert [int((group == kept.IN_VIEW).sum()) for group in thinned.reshape(3, 4)] == [2, 2, 2]


def test_every_row_has_a_picture_but_those_for_thoughts(tiny_checkpoint):
    rows = [keep.partition(":")[0] for _, keep in kept.rows_of(str(tiny_checkpoint))]
    assert rows == [name for name in FORGETS if not KEEP[name].folds]


def test_it_is_drawn(tiny_checkpoint, view, tmp_path, capsys):
    how = ["--keep", "flush:3", "--model", str(tiny_checkpoint), "--seconds", "6", "--out", str(tmp_path)]
    assert main(how) == 0
    picture = tmp_path / "keep_flush.png"
    assert capsys.readouterr().out.strip() == str(picture) and picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    kept.draw_sheet([view("group", "recent:2", 5)] * 4, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 40_000
    with pytest.raises(UserError, match="for .*vst|thoughts"):
        main(["--keep", "thoughts", *how[2:]])
