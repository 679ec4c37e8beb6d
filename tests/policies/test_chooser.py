"""The choice on the device is transformers' processor and an argmax, bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from swwatch.policies.choose import Greedy, Sampling
from swwatch.policies.chooser import LIKELIEST, Chooser, TopP, pick_many, scores_of

V = 40
ids = st.integers(0, V - 1)


def greedy_of(penalty, stops, device="cpu") -> Chooser:
    return Chooser(Greedy(penalty), V, device, stops=stops)


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
    greedy, context = greedy_of(penalty, stops), list(prompt)
    greedy.see(prompt)
    for may_stop in ends:
        # few different values, so that ties and zeros are common
        logits = torch.randint(-3, 4, (V,), generator=generator) * torch.rand((), generator=generator)
        theirs = reference(logits, context, penalty, stops, may_stop)
        before = logits.clone()
        assert torch.equal(scores_of(greedy, logits[None], greedy.seen[None], may_stop)[0], theirs)
        token = greedy.pick(logits, may_stop)
        assert token == int(theirs.argmax())
        assert torch.equal(logits, before), "the logits are the session's own"
        context.append(token)


def test_a_chosen_token_counts_as_seen():
    greedy = Chooser(Greedy(4.0), 3, "cpu", stops={2})
    logits = torch.tensor([2.0, 1.0, 9.0])
    assert [greedy.pick(logits, False), greedy.pick(logits, False), greedy.pick(logits, True)] == [0, 1, 2]


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
    alone, together = ([greedy_of(penalty, stops) for _, stops, penalty, _ in sessions] for _ in range(2))
    for greedy, (prompt, *_) in zip([*alone, *together], sessions * 2, strict=True):
        greedy.see(prompt)
    for _ in range(4):
        logits = torch.randint(-3, 4, (len(sessions), V), generator=generator) * torch.rand((), generator=generator)
        ends = [may_stop for *_, may_stop in sessions]
        theirs = [greedy.pick(*given) for greedy, *given in zip(alone, logits, ends, strict=True)]
        assert pick_many(together, logits, ends) == theirs
    assert all(torch.equal(a.seen, b.seen) for a, b in zip(alone, together, strict=True))


rows = st.sampled_from(
    [
        Greedy(1.15),
        Greedy(1.0, threshold=0.05),
        Sampling(0.9, top_k=5, top_p=0.9),
        Sampling(0.9, top_k=5, top_p=0.9, seed=7),
        Sampling(1.0, top_k=0, top_p=1.0, threshold=0.02, threshold_step=0.01),
    ]
)


@given(st.lists(rows, min_size=1, max_size=6), st.integers(0, 999))
def test_sessions_of_every_row_of_the_table_choose_together_what_each_chooses_alone(policies, seed):
    generator = torch.Generator().manual_seed(seed)
    alone, together = ([Chooser(how, V, "cpu", stops={1}, ellipsis=2) for how in policies] for _ in range(2))
    for _ in range(6):
        logits = 3 * torch.randn((len(policies), V), generator=generator)
        theirs = [chooser.pick(row, True) for chooser, row in zip(alone, logits, strict=True)]
        assert pick_many(together, logits, [True] * len(policies)) == theirs
    for ours, other in zip(together, alone, strict=True):
        assert torch.equal(ours.seen, other.seen) and ours.num_chosen == other.num_chosen == 6
        assert torch.equal(ours.generator.get_state(), other.generator.get_state())


@given(
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 0.9999]),
    st.sampled_from([0.0, 0.01, 1.0, 6.0, 40.0]),
    st.sampled_from(["real", "rounded", "top-k"]),
    st.sampled_from([LIKELIEST, LIKELIEST + 1, 4 * LIKELIEST]),
    st.integers(0, 999),
)
def test_top_p_without_sorting_keeps_what_transformers_keeps(top_p, spread, form, size, seed):
    """Peaked and flat chances, ties at the border and everywhere, and what top-k has struck out before."""
    scores = spread * torch.randn((3, size), generator=torch.Generator().manual_seed(seed))
    if form == "rounded":
        scores = scores.round()
    if form == "top-k":
        scores = scores.masked_fill(scores < scores.topk(50).values[:, -1:], -torch.inf)
    assert torch.equal(TopP(top_p)(None, scores), TopPLogitsWarper(top_p)(None, scores))


def test_top_p_does_not_sort_where_chances_are_clear(monkeypatch):
    warper = TopP(0.9)
    monkeypatch.setattr(warper, "_sorting", None)
    scores = torch.linspace(0, 400, 4 * LIKELIEST)[None]
    assert int(warper(None, scores).isfinite().sum()) == 24  # chances fall by exp(-0.1) from word to word


@given(st.integers(0, 999), st.sampled_from([V, 4 * LIKELIEST + 3]))
def test_a_draw_is_the_one_of_multinomial_and_leaves_its_generator_alike(seed, size):
    logits = 3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    chooser = Chooser(Sampling(0.9, top_k=0, top_p=1.0, seed=seed, penalty=1.0), size, "cpu")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        chances = TemperatureLogitsWarper(0.9)(None, logits[None]).softmax(-1)
        assert chooser.pick(logits, True) == int(torch.multinomial(chances[0], 1, generator=generator))
    assert torch.equal(chooser.generator.get_state(), generator.get_state())


def test_a_choice_that_fails_leaves_everything_as_it_was(monkeypatch):
    choosers = [Chooser(Sampling(0.9, top_k=0, top_p=1.0, seed=3), V, "cpu") for _ in range(2)]
    states = [chooser.state() for chooser in choosers]
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        drawn = []
        patched.setattr(torch.Tensor, "argmax", lambda *_, **__: drawn.append(1) or (_ for _ in ()).throw(MemoryError))
        pick_many(choosers, list(torch.randn(2, V)), [True, True])
    assert drawn
    for chooser, state in zip(choosers, states, strict=True):
        now = chooser.state()
        assert torch.equal(now["generator"], state["generator"]) and torch.equal(now["seen"], state["seen"])


@given(rows, st.integers(0, 999))
def test_a_chooser_goes_on_from_its_state(how, seed):
    logits = 3 * torch.randn((8, V), generator=torch.Generator().manual_seed(seed))
    whole, other = (Chooser(how, V, "cpu", ellipsis=2) for _ in range(2))
    for row in logits[:4]:
        whole.pick(row, True)
    other.load_state(whole.state())
    assert [other.pick(row, True) for row in logits[4:]] == [whole.pick(row, True) for row in logits[4:]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_nothing_waits_before_the_id_is_read():
    logits = torch.randn(V)
    here, there = greedy_of(1.15, {1}), greedy_of(1.15, {1}, "cuda")
    on_device = logits.cuda()
    here.see([3, 4])
    torch.cuda.set_sync_debug_mode("error")
    try:
        there.see([3, 4])
        picked = scores_of(there, on_device[None], there.seen[None], False).argmax(-1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(picked) == here.pick(logits, False)
    assert there.pick(on_device, False) == int(picked)
    assert torch.equal(there.seen.cpu(), here.seen)
