"""The choice on the device is transformers' processor and an argmax, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from swwatch.policies.greedy import Greedy, choose_many

V = 40
ids = st.integers(0, V - 1)


def reference(logits, context, penalty, stops, may_stop):
    """Scores as the processor gives them, with the stops suppressed afterwards."""
    scores = logits[None]
    if context:
        scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([context]), scores)
    return scores[0] if may_stop else scores[0].index_fill(0, torch.tensor(sorted(stops)), -torch.inf)


@given(
    st.lists(ids, max_size=12),
    st.sets(ids, min_size=1, max_size=3),
    st.sampled_from([0.7, 1.0, 1.15, 3.0]),
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.integers(0, 999),
)
def test_scores_and_choices_equal_the_processor_bit_for_bit(prompt, stops, penalty, ends, seed):
    generator = torch.Generator().manual_seed(seed)
    greedy, context = Greedy(V, penalty, stops, "cpu"), list(prompt)
    greedy.see(prompt)
    for may_stop in ends:
        # few different values, so that ties and zeros are common
        logits = torch.randint(-3, 4, (V,), generator=generator) * torch.rand((), generator=generator)
        theirs = reference(logits, context, penalty, stops, may_stop)
        before = logits.clone()
        assert torch.equal(greedy.scores(logits, greedy.seen, may_stop), theirs)
        token = greedy.choose(logits, may_stop)
        assert token == int(theirs.argmax())
        assert torch.equal(logits, before), "the logits are the session's own"
        context.append(token)


def test_a_chosen_token_counts_as_seen():
    greedy = Greedy(3, 4.0, {2}, "cpu")
    logits = torch.tensor([2.0, 1.0, 9.0])
    assert [greedy.choose(logits, False), greedy.choose(logits, False), greedy.choose(logits, True)] == [0, 1, 2]


@given(
    st.lists(
        st.tuples(
            st.lists(ids, max_size=8), st.sampled_from([{1}, {1, 2}]), st.sampled_from([1.0, 1.15, 0.7]), st.booleans()
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 999),
)
def test_many_sessions_choose_together_what_each_chooses_alone(sessions, seed):
    generator = torch.Generator().manual_seed(seed)
    alone, together = ([Greedy(V, penalty, stops, "cpu") for _, stops, penalty, _ in sessions] for _ in range(2))
    for greedy, (prompt, *_) in zip([*alone, *together], sessions * 2, strict=True):
        greedy.see(prompt)
    for _ in range(4):
        logits = torch.randint(-3, 4, (len(sessions), V), generator=generator) * torch.rand((), generator=generator)
        ends = [may_stop for *_, may_stop in sessions]
        theirs = [greedy.choose(*given) for greedy, *given in zip(alone, logits, ends, strict=True)]
        assert choose_many(together, logits, ends) == theirs
    assert all(torch.equal(a.seen, b.seen) for a, b in zip(alone, together, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_nothing_waits_before_the_id_is_read():
    logits = torch.randn(V)
    here, there = Greedy(V, 1.15, {1}, "cpu"), Greedy(V, 1.15, {1}, "cuda")
    on_device = logits.cuda()
    here.see([3, 4])
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.see([3, 4])
        picked = there.pick(on_device, False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(picked) == here.choose(logits, False)
    assert torch.equal(there.seen.cpu(), here.seen)
