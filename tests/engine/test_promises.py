"""Promises P1, P3, P4, P5, P6 of the serial engine, over all variants, in fp32 on the CPU."""

from unittest import mock

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.data.prompt import fill
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.helpers.serial import SerialSession
from tests.helpers.streams import Told, full_forward, play, random_stream

ALL = sorted(VARIANTS)
STREAMING = sorted(speaking(Speaks.ALTERNATING, Speaks.PARALLEL))
GREEDY = Greedy(1.0, 24)
SIZES = [(2, 3), (2, 3), (2, 3), (2, 3), (2, 3)]

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=12)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))


@pytest.mark.parametrize("variant", ALL)
@given(sizes, schedules, st.integers(1, 8), st.integers(1, 40), st.booleans(), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_p1_streaming_equals_training(load_tiny, variant, sizes, schedule, prompt_len, answer_len, late, seed):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, prompt_len, answer_len, seed)
    theirs, _ = full_forward(loaded, stream, schedule, late)
    session = Told(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=answer_len)).tell(
        stream.answer
    )
    play(session, stream, late)
    ours = torch.stack(session.seen_logits)
    assert theirs.std() > 0.1, "the model must not be flat, or this test could not fail"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_p1_would_notice_wrong_positions_and_a_wrong_mask(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES)
    right, _ = full_forward(loaded, stream, WaitK(3))
    for other in ("gap", "overlap", "batch"):
        wrong, _ = full_forward(load_tiny(other), stream, WaitK(3))
        assert (wrong - right).abs().max() > 1e-2, other


@pytest.mark.parametrize("variant", ALL)
def test_p3_no_peeking_while_streaming(load_tiny, variant):
    loaded = load_tiny(variant)
    before = random_stream(loaded, SIZES)
    after = random_stream(loaded, SIZES)
    after.pixels[3] = after.pixels[3] + 1.0
    seen = []
    for stream in (before, after):
        session = Told(loaded.model, stream.prompt, schedule=WaitK(3)).tell(stream.answer)
        with mock.patch.object(session.chooser, "choose", Greedy(max_new_tokens=len(stream.answer))):
            spoken = play(session, stream)
        seen.append((spoken, torch.stack(session.seen_logits)))
    early = [i for i, token in enumerate(seen[0][0]) if token.newest_visible_step < 3]
    assert len(early) == (9 if variant in STREAMING else 0)
    assert torch.equal(seen[0][1][early], seen[1][1][early])
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("variant", STREAMING)
def test_p3_no_peeking_in_training(load_tiny, variant):
    loaded = load_tiny(variant)
    before, after = random_stream(loaded, SIZES), random_stream(loaded, SIZES)
    after.pixels[3] = after.pixels[3] + 1.0
    (ours, tokens), (theirs, _) = (full_forward(loaded, stream, WaitK(3)) for stream in (before, after))
    steps = tokens.step[tokens.where(Kind.ANSWER)]
    assert torch.equal(ours[steps < 3], theirs[steps < 3])
    assert bool((ours[steps >= 3] != theirs[steps >= 3]).any(dim=1).all())


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("schedule", [WaitK(3), RandomK(3, seed=5)], ids=str)
def test_p4_every_token_is_fed_once(load_tiny, variant, schedule):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES)
    _, tokens = full_forward(loaded, stream, schedule)
    session = Told(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=20)).tell(
        stream.answer
    )
    play(session, stream)
    assert session.cache.num_fed == len(tokens) - 1, "all but the last spoken token, which nothing follows"
    fed = torch.cat([part.position_ids for part in session.cache.tokens.values()], dim=1)
    ours = sorted(map(tuple, fed.T.tolist()))
    theirs = sorted(map(tuple, tokens.position_ids[:, :-1].T.tolist()))
    assert ours == theirs


@pytest.mark.parametrize("penalty", [1.0, 1.15])
@pytest.mark.parametrize("variant", ["origin", "batch"])
def test_p5_offline_equals_plain_qwen_with_the_same_positions(load_tiny, tiny_checkpoint, variant, penalty):
    """transformers' own model and generate(), told our positions, speak the same tokens (origin: plain Qwen2.5-VL)."""
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES, answer_len=0, seed=1)  # one to which random weights say more than one word
    _, tokens = full_forward(loaded, stream, WaitK(3))
    plain = getattr(transformers, loaded.model.family.upstream).from_pretrained(tiny_checkpoint).eval()
    plain.load_state_dict(loaded.model.state_dict())
    header_end = int(tokens.position_ids[0, -1])
    ids = fill(tokens, loaded.markup, stream.prompt, [])[0]
    delta = torch.tensor([[header_end + 1 - len(ids)]])
    with mock.patch.object(plain.model, "get_rope_index", lambda *a, **k: (tokens.position_ids[:, None], delta)):
        theirs = plain.generate(
            input_ids=ids[None],
            mm_token_type_ids=torch.zeros_like(ids)[None],
            pixel_values_videos=torch.cat(stream.pixels),
            video_grid_thw=torch.tensor([[5, 4, 6]]),
            max_new_tokens=24,
            do_sample=False,
            repetition_penalty=penalty,
        )[0, len(ids) :].tolist()
    session = SerialSession(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=24, penalty=penalty))
    ours = [token.token_id for token in play(session, stream)]
    assert len(set(ours)) > 3
    assert ours == theirs


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("schedule", [WaitK(2), RandomK(3, seed=5)], ids=str)
@pytest.mark.parametrize("late", [False, True])
def test_p6_every_token_knows_the_newest_frame_it_could_see(load_tiny, variant, schedule, late):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES)
    _, tokens = full_forward(loaded, stream, schedule, late)
    session = Told(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=20)).tell(
        stream.answer
    )
    spoken = play(session, stream, late)
    said = tokens.where(Kind.HEADER) | tokens.where(Kind.ANSWER)
    if variant == "interleave":  # the row before an answer token in the sequence predicts it
        predictors = tokens.where(Kind.ANSWER).nonzero()[:, 0] - 1
    else:
        predictors = said.nonzero()[:, 0][2:-1]
    seen = tokens.visible()[predictors] & tokens.where(Kind.VIDEO)
    newest = [int(tokens.step[row].max()) for row in seen]
    assert [token.newest_visible_step for token in spoken] == newest
    assert all(token.t_frame_s == token.newest_visible_step + 0.5 <= token.t_emit_s for token in spoken)


@pytest.mark.parametrize("variant", STREAMING)
def test_exactly_k_tokens_a_step_and_the_rest_at_the_end(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES)
    session = SerialSession(loaded.model, stream.prompt, schedule=WaitK(3), choose=GREEDY)
    steps = [token.step for token in play(session, stream)]
    assert steps[:12] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert set(steps[12:]) == {4}


def test_end_token_waits_for_the_last_step_unless_told_otherwise(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES)

    def run(**options):
        session = SerialSession(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 24, **options))
        # a model that always wants to stop
        with mock.patch.object(loaded.model, "step", wraps=loaded.model.step) as step:
            feed = loaded.model.__class__.step

            def eager_to_stop(*args):
                logits = feed(loaded.model, *args)
                if logits is not None:
                    logits[loaded.markup.im_end] = 1e9
                return logits

            step.side_effect = eager_to_stop
            return [token.token_id for token in play(session, stream)]

    patient = run()
    assert len(patient) == 13 and patient.index(loaded.markup.im_end) == 12
    assert run(stop_early=True) == [loaded.markup.im_end]


def test_sessions_do_not_disturb_each_other(load_tiny):
    loaded = load_tiny("overlap")
    streams = [random_stream(loaded, SIZES, seed=seed) for seed in (1, 2)]
    alone = [play(SerialSession(loaded.model, s.prompt, choose=GREEDY), s) for s in streams]
    sessions = [SerialSession(loaded.model, s.prompt, choose=GREEDY) for s in streams]
    mixed = [[], []]
    for i in range(len(SIZES)):
        for out, session, stream in zip(mixed, sessions, streams, strict=True):
            out += session.watch(stream.pixels[i], stream.grids[i], i + 0.5, i == len(SIZES) - 1)
    for ours, theirs in zip(mixed, alone, strict=True):
        assert [t.token_id for t in ours] == [t.token_id for t in theirs]


def test_a_step_must_be_heard_out_before_the_next(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES)
    session = SerialSession(loaded.model, stream.prompt, choose=GREEDY)
    next(session.watch(stream.pixels[0], stream.grids[0], 0.5))
    with pytest.raises(ValueError, match="exhaust its generator"):
        next(session.watch(stream.pixels[1], stream.grids[1], 1.5))
    assert session.arrived_s == {0: 0.5}, "a refused step leaves no trace"
    done = SerialSession(loaded.model, stream.prompt, choose=GREEDY)
    play(done, stream)
    with pytest.raises(ValueError, match="closed"):
        next(done.watch(stream.pixels[0], stream.grids[0], 9.5))


def test_a_closed_sessions_memory_is_returned_at_once(load_tiny):
    import gc
    import weakref

    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES)
    session = SerialSession(loaded.model, stream.prompt, choose=GREEDY)
    play(session, stream)
    cache = weakref.ref(session.cache)
    gc.disable()
    try:
        del session
        assert cache() is None, "keys and values wait for the garbage collector"
    finally:
        gc.enable()
