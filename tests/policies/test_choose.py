"""How tokens of a turn are chosen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from swwatch.errors import UserError
from swwatch.policies.choose import CHOOSE, Greedy, Sampling, parse_choose
from swwatch.policies.chooser import Chooser, scores_of
from swwatch.rules.systems import SYSTEMS
from tests.helpers.turn_streams import begin, play, random_steps

logits = st.lists(st.floats(-5, 5), min_size=6, max_size=6).map(torch.tensor)


def chooser_of(how, size: int = 6, ellipsis: int = 0) -> Chooser:
    return Chooser(how, size, "cpu", ellipsis=ellipsis)


def scores(how, rows: torch.Tensor, ellipsis: int = 0) -> torch.Tensor:
    """(n, V) scores after (n, V) logits, with nothing in view."""
    return scores_of(chooser_of(how, rows.shape[1], ellipsis), rows, torch.zeros_like(rows, dtype=torch.bool), True)


@given(logits)
def test_a_threshold_of_one_forbids_the_ellipsis_and_of_below_zero_nothing(row):
    assert scores(Greedy(1.0, threshold=1.0), row[None], 2)[0, 2] == -torch.inf
    assert torch.equal(scores(Greedy(1.0, threshold=-0.1), row[None], 2)[0], row)
    if float(row.softmax(-1)[2]) > 0:
        assert torch.equal(scores(Greedy(1.0, threshold=0.0), row[None], 2)[0], row)


def test_the_threshold_grows_with_the_tokens_of_a_turn_and_begins_anew_with_the_next():
    row = torch.zeros(4)  # " ..." has 0.25
    chooser = chooser_of(Greedy(1.0, threshold=0.0, threshold_step=0.2), 4)
    for _ in range(2):
        chooser.begin_turn()
        assert [chooser.pick(row, True) for _ in range(3)] == [0, 0, 1]  # 0, 0.2, 0.4


def test_rows_of_a_batch_are_judged_by_themselves():
    rows = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    out = scores(Greedy(1.0, threshold=0.5), rows)
    assert out[0, 0] == -torch.inf and out[1, 0] == 9.0 and rows[0, 0] == 0.0


def test_the_repetition_penalty_counts_all_that_is_in_view():
    chooser, row, picked = chooser_of(Greedy(2.0), 3), torch.tensor([0.0, 3.0, 2.0]), []
    for in_view in ([0], [1]):
        chooser.begin_anew(in_view)
        picked.append(chooser.pick(row, True))
    assert picked == [1, 2]


@given(logits, st.integers(0, 99))
def test_draws_are_a_sessions_own(row, seed):
    how = Sampling(0.9, 0, 1.0, seed=seed)
    alone, beside, other = (chooser_of(how) for _ in range(3))
    drawn = [alone.pick(row, True) for _ in range(5)]
    mixed = []
    for _ in range(5):
        mixed.append(beside.pick(row, True))
        other.pick(row, True)
        torch.rand(3)
    assert drawn == mixed


def test_top_k_of_one_is_greedy():
    chooser = chooser_of(Sampling(0.9, top_k=1, top_p=1.0, penalty=1.0), 3)
    assert {chooser.pick(torch.tensor([0.0, 1.0, 0.5]), True) for _ in range(9)} == {1}


def test_what_is_left_open_is_the_checkpoints_own_and_then_as_generate_has_it():
    own = GenerationConfig(temperature=0.01, top_k=1, top_p=0.001)
    left = Sampling().settled(own)
    assert (left.temperature, left.top_k, left.top_p) == (0.01, 1, 0.001)
    asked = Sampling(0.9, top_k=0, top_p=1.0).settled(own)
    assert (asked.temperature, asked.top_k, asked.top_p) == (0.9, 0, 1.0)
    bare = parse_choose(SYSTEMS["livecc"].choose).settled(GenerationConfig())
    assert (bare.temperature, bare.top_k, bare.top_p) == (1.0, 50, 1.0)
    assert Greedy().settled(own) == Greedy()


def test_a_session_draws_as_its_checkpoint_says(load_tiny):
    assert begin(load_tiny("livecc"), choose=None).chooser.choose.temperature == 1e-6
    assert begin(load_tiny("streamingvlm"), choose=None).chooser.choose.temperature == 0.9


def test_rows_are_written_and_read_as_text():
    for text in ("greedy", "sampling:0.9:top_k=50", "greedy:1:stop_early=true", "sampling:none:seed=3:threshold=0.1"):
        assert parse_choose(str(parse_choose(text))) == parse_choose(text)
    assert parse_choose("greedy:1:stop_early=true") == Greedy(1.0, stop_early=True)
    assert list(CHOOSE) == ["greedy", "sampling"]
    with pytest.raises(UserError, match="true or false"):
        parse_choose("greedy:1:stop_early=perhaps")


def test_a_row_becomes_the_other_with_what_both_know():
    assert Sampling(0.9, penalty=1.2, max_new_tokens=7).drawing(False) == Greedy(1.2, 7)
    assert Greedy(1.2, 7, threshold=0.1).drawing(True) == Sampling(penalty=1.2, max_new_tokens=7, threshold=0.1)


def test_senseless_numbers_are_refused():
    for kind, wrong in ((Greedy, {"max_new_tokens": 0}), (Greedy, {"penalty": 0.0}), (Sampling, {"temperature": 0.0})):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
            kind(**wrong)
    with pytest.raises(UserError, match="give both"):
        Greedy(threshold_step=0.1)
    with pytest.raises(UserError, match="chat turns alone"):
        Chooser(Greedy(threshold=0.1), 6, "cpu")


def test_an_ellipsis_that_is_never_likely_enough_is_never_said(load_tiny):
    loaded = load_tiny("livecc")
    session = begin(loaded, choose=Sampling(1.0, penalty=1.0, max_new_tokens=6, threshold=1.0))
    first = session.turns.ellipsis[0]
    assert all(first not in turn.ids for turn in play(session, random_steps(loaded, 12)))
