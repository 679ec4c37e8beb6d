"""How tokens of a turn are chosen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from swwatch.errors import UserError
from swwatch.policies.choose import Chooser, Choosing, EllipsisThreshold
from swwatch.rules.systems import SYSTEMS, Sampling
from tests.helpers.turn_streams import random_steps

GREEDY = Sampling(4, False, 1.0, 1.0)
logits = st.lists(st.floats(-5, 5), min_size=6, max_size=6).map(torch.tensor)


@given(logits)
def test_a_base_of_one_forbids_the_ellipsis_and_of_below_zero_nothing(scores):
    ids = torch.zeros((1, 1), dtype=torch.int64)
    assert EllipsisThreshold(2, 1.0)(ids, scores[None])[0, 2] == -torch.inf
    assert torch.equal(EllipsisThreshold(2, -0.1)(ids, scores[None])[0], scores)
    if float(scores.softmax(-1)[2]) > 0:
        assert torch.equal(EllipsisThreshold(2, 0.0)(ids, scores[None])[0], scores)


def test_the_threshold_grows_with_the_tokens_of_a_turn_and_begins_anew_with_the_next():
    scores = torch.zeros(4)  # " ..." has 0.25
    chooser = Chooser(Choosing(GREEDY, threshold_base=0.0, threshold_step=0.2), ellipsis=0)
    for _ in range(2):
        chooser.begin_turn()
        assert [chooser(scores, []) for _ in range(3)] == [0, 0, 1]  # 0, 0.2, 0.4


def test_rows_of_a_batch_are_judged_by_themselves():
    scores = torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    out = EllipsisThreshold(0, 0.5)(torch.zeros((2, 1), dtype=torch.int64), scores)
    assert out[0, 0] == -torch.inf and out[1, 0] == 9.0 and scores[0, 0] == 0.0


def test_the_repetition_penalty_counts_all_that_is_in_view():
    chooser = Chooser(Choosing(Sampling(4, False, 1.0, 2.0)), ellipsis=0)
    scores = torch.tensor([0.0, 3.0, 2.0])
    assert (chooser(scores, [0]), chooser(scores, [1])) == (1, 2)


@given(logits, st.integers(0, 99))
def test_draws_are_a_sessions_own(scores, seed):
    choosing = Choosing(Sampling(4, True, 0.9, 1.05), seed=seed)
    alone, beside, other = (Chooser(choosing, 0) for _ in range(3))
    drawn = [alone(scores, [1]) for _ in range(5)]
    mixed = []
    for _ in range(5):
        mixed.append(beside(scores, [1]))
        other(scores, [1])
        torch.rand(3)
    assert drawn == mixed


def test_top_k_of_one_is_greedy():
    chooser = Chooser(Choosing(Sampling(4, True, 0.9, 1.0), top_k=1), ellipsis=0)
    assert {chooser(torch.tensor([0.0, 1.0, 0.5]), [1]) for _ in range(9)} == {1}


def test_what_is_left_open_is_the_checkpoints_own_and_then_as_generate_has_it():
    own = GenerationConfig(temperature=0.01, top_k=1, top_p=0.001)
    left = Choosing(Sampling(4, True, None, 1.05)).settled(own)
    assert (left.sampling.temperature, left.top_k, left.top_p) == (0.01, 1, 0.001)
    asked = Choosing(Sampling(4, True, 0.9, 1.05), top_k=0, top_p=1.0).settled(own)
    assert (asked.sampling.temperature, asked.top_k, asked.top_p) == (0.9, 0, 1.0)
    assert [type(made).__name__ for made in asked.processors(0)] == [
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
    ]
    bare = Choosing(SYSTEMS["livecc"].sampling).settled(GenerationConfig())
    assert (bare.sampling.temperature, bare.top_k, bare.top_p) == (1.0, 50, 1.0)


def test_a_session_draws_as_its_checkpoint_says(load_tiny):
    from tests.helpers.turn_streams import begin

    loaded = load_tiny("livecc")
    assert begin(loaded, choosing=None).chooser.choosing.sampling.temperature == 1e-6
    assert begin(load_tiny("streamingvlm"), choosing=None).chooser.choosing.sampling.temperature == 0.9


def test_a_base_of_none_is_no_threshold():
    assert not any(isinstance(made, EllipsisThreshold) for made in Choosing(GREEDY).processors(0))


def test_senseless_numbers_are_refused():
    for bad in (Sampling(0, False, 1.0, 1.0), Sampling(1, True, 0.0, 1.0), Sampling(1, False, 1.0, 0.0)):
        with pytest.raises(UserError, match="max_new_tokens"):
            Choosing(bad)


def test_an_ellipsis_that_is_never_likely_enough_is_never_said(load_tiny):
    from tests.helpers.turn_streams import begin, play

    loaded = load_tiny("livecc")
    session = begin(loaded, choosing=Choosing(Sampling(6, True, 1.0, 1.0), threshold_base=1.0))
    first = session.turns.ellipsis[0]
    assert all(first not in turn.ids for turn in play(session, random_steps(loaded, 12)))
