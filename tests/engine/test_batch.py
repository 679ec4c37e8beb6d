"""Sessions that share every forward speak as they would alone: all variants, in fp32 on the CPU."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.fused import FusedSession
from swwatch.engine.session import Session
from swwatch.engine.source import Step
from swwatch.engine.trace import Spoken
from swwatch.model.cache import StreamCache
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.choose import Greedy
from swwatch.policies.chooser import pick_many
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.engine.test_flash_route import causal
from tests.helpers.feeds import Arrived, small
from tests.helpers.serial import SerialSession
from tests.helpers.streams import Told, full_forward, play, random_stream

ALL = sorted(VARIANTS)

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
clips = st.tuples(sizes, schedules, st.integers(1, 8), st.integers(1, 24), st.booleans(), st.integers(0, 99))


class ToldSession(Session):
    """The coroutine twin of `Told`: says `answer` whatever the logits are, and keeps them."""

    tell, _choose = Told.tell, Told._choose


def whole(session: Session, stream, late_end: bool = False):
    """A session from its prompt to its end, as one run."""
    yield from session.begin()
    n = len(stream.pixels)
    for i in range(n):
        yield from session.watch(stream.pixels[i], stream.grids[i], i + 0.5, i == n - 1 and not late_end)
    yield from session.close()


def together(model, runs, at_once: int) -> dict:
    """Run all, `at_once` of them at a time, a finished one's place refilled at once; key -> what it said, its end."""
    batch, todo, said, ends = Batch(model), list(enumerate(runs)), {}, {}
    while todo or len(batch):
        events = []
        while todo and len(batch) < at_once:
            events += batch.add(*todo.pop(0))
        for key, event in events + batch.advance():
            if isinstance(event, Ended):
                ends[key] = event
            elif isinstance(event, Spoken):
                said.setdefault(key, []).append(event)
    return {key: (said.get(key, []), end) for key, end in ends.items()}


def plain(spoken: list[Spoken]) -> list[tuple]:
    """The tokens among what was told, without the moment of their emission."""
    tokens = [event for event in spoken if isinstance(event, Spoken)]
    return [(token.step, token.token_id, token.newest_visible_step, token.t_frame_s) for token in tokens]


@pytest.mark.parametrize("variant", ALL)
@given(st.lists(clips, min_size=2, max_size=5), st.integers(2, 4))
@settings(max_examples=6, deadline=None)
def test_logits_and_tokens_together_are_those_of_one_full_forward_each(load_tiny, variant, clips, at_once):
    loaded = load_tiny(variant)
    sessions, runs, theirs = [], [], []
    for sizes, schedule, prompt_len, answer_len, late, seed in clips:
        stream = random_stream(loaded, sizes, prompt_len, answer_len, seed)
        theirs.append(full_forward(loaded, stream, schedule, late))
        options = {"schedule": schedule, "choose": Greedy(max_new_tokens=answer_len)}
        sessions.append(ToldSession(loaded.model, stream.prompt, **options).tell(stream.answer))
        runs.append(whole(sessions[-1], stream, late))
    ended = together(loaded.model, runs, at_once)
    assert len(ended) == len(clips) and all(end == Ended() for _, end in ended.values())
    for session, (logits, layout) in zip(sessions, theirs, strict=True):
        torch.testing.assert_close(torch.stack(session.seen_logits), logits, atol=1e-4, rtol=0)
        fed = torch.cat([part.position_ids for part in session.cache.tokens.values()], dim=1)
        n = session.cache.num_fed  # P4: every token once; not the last word, where nothing follows it
        assert n in (len(layout) - 1, len(layout))
        assert sorted(map(tuple, fed.T.tolist())) == sorted(map(tuple, layout.position_ids[:, :n].T.tolist()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", ALL)
def test_free_running_sessions_say_together_what_they_say_alone(load_tiny, variant, attention):
    loaded = load_tiny(variant, attention=attention)
    schedules = [WaitK(3), RandomK(3, seed=2), WaitK(1), RandomK(2, seed=9), WaitK(4)]
    streams = [
        random_stream(loaded, [(1 + i % 3, 2)] * (1 + 2 * i), prompt_len=3 + i, seed=i) for i in range(len(schedules))
    ]
    options = [{"schedule": s, "choose": Greedy(max_new_tokens=8 + 5 * i)} for i, s in enumerate(schedules)]
    alone = [
        plain(play(SerialSession(loaded.model, stream.prompt, **option), stream))
        for stream, option in zip(streams, options, strict=True)
    ]
    runs = [
        whole(Session(loaded.model, stream.prompt, **option), stream)
        for stream, option in zip(streams, options, strict=True)
    ]
    ended = together(loaded.model, runs, at_once=3)
    assert [plain(ended[i][0]) for i in range(len(runs))] == alone
    assert len({token for run in alone for _, token, *_ in run}) > 5, "all alike would prove nothing"


@pytest.mark.parametrize("variant", speaking(Speaks.OFFLINE, Speaks.ALTERNATING))
def test_under_a_causal_backend_they_say_the_same(load_tiny, monkeypatch, variant):
    """The flash-attention route, with a stand-in that computes what it computes without a mask."""
    loaded = load_tiny(variant)
    streams = [random_stream(loaded, [(2, 3)] * n, seed=n) for n in (2, 4)]
    alone = [plain(play(SerialSession(loaded.model, s.prompt, choose=Greedy(max_new_tokens=12)), s)) for s in streams]
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", causal)
    for config in (loaded.model.config, loaded.model.model.language_model.config):
        monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
    runs = [
        whole(Session(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=12)), stream) for stream in streams
    ]
    ended = together(loaded.model, runs, at_once=2)
    assert [plain(ended[i][0]) for i in range(2)] == alone


def test_n_sessions_cost_one_forward_a_round_and_no_padding(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    forwards, text = [], loaded.model.model.language_model
    hook = text.register_forward_hook(
        lambda module, args, kwargs, out: forwards.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        streams = [random_stream(loaded, [(2, 2)] * 4, seed=i) for i in range(4)]
        sessions = [Session(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=16)) for stream in streams]
        together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=4)
        at_once, fed = len(forwards), sum(forwards)
        forwards.clear()
        play(SerialSession(loaded.model, streams[0].prompt, choose=Greedy(max_new_tokens=16)), streams[0])
        assert at_once == len(forwards)  # equal clips march in step: four cost the forwards of one
        assert fed == sum(session.cache.num_fed for session in sessions) == 4 * sum(forwards)
    finally:
        hook.remove()


def test_the_host_waits_once_a_round_for_the_tokens_of_all(load_tiny, monkeypatch):
    loaded, waits = load_tiny("group"), []

    def noted(choosers, *rest):
        waits.append(len(choosers))
        return pick_many(choosers, *rest)

    monkeypatch.setattr("swwatch.engine.batch.pick_many", noted)
    monkeypatch.delattr("swwatch.policies.chooser.Chooser.pick")  # which would wait for one
    streams = [random_stream(loaded, [(2, 2)] * 4, seed=i) for i in range(4)]
    runs = [
        whole(Session(loaded.model, s.prompt, choose=Greedy(max_new_tokens=16, stop_early=True)), s) for s in streams
    ]
    ended = together(loaded.model, runs, at_once=4)
    assert waits == [4] * 16 and [len(said) for said, _ in ended.values()] == [16] * 4


def test_an_error_inside_one_session_ends_that_one_alone(load_tiny):
    loaded = load_tiny("overlap")
    streams = [random_stream(loaded, [(2, 2)] * 4, seed=i) for i in range(3)]
    alone = [plain(play(SerialSession(loaded.model, s.prompt, choose=Greedy(max_new_tokens=12)), s)) for s in streams]
    sessions = [Session(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=12)) for stream in streams]
    streams[1].grids[2] = torch.tensor([[1, 3, 5]])  # cannot be merged
    ended = together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=3)
    assert isinstance(ended[1][1].error, ValueError) and "cannot be merged" in str(ended[1][1].error)
    assert plain(ended[1][0]) == alone[1][:6], "what was said before the error has been said"
    assert [plain(ended[i][0]) for i in (0, 2)] == [alone[0], alone[2]]


def test_the_cache_of_a_session_that_ended_is_returned_while_others_go_on(load_tiny):
    loaded = load_tiny("gap")
    short, long = (random_stream(loaded, [(2, 2)] * n, seed=n) for n in (1, 6))
    batch, caches = Batch(loaded.model), weakref.WeakSet()
    for key, stream in enumerate((short, long)):
        session = Session(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=12))
        caches.add(session.cache)
        batch.add(key, whole(session, stream))
    del session
    gc.disable()  # at once, not when the collector comes round
    try:
        while (0, Ended()) not in batch.advance():
            assert len(caches) == 2
        assert len(caches) == len(batch) == 1
    finally:
        gc.enable()


def test_a_key_names_one_run(load_tiny):
    loaded = load_tiny("gap")
    stream = random_stream(loaded, [(2, 2)])
    batch = Batch(loaded.model)
    batch.add("a", whole(Session(loaded.model, stream.prompt), stream))
    with pytest.raises(ValueError, match="'a' is under way"):
        batch.add("a", whole(Session(loaded.model, stream.prompt), stream))


def test_the_comparison_would_notice_another_sessions_cache(load_tiny, monkeypatch):
    """The shared forward with two caches swapped must not pass for the right one."""
    loaded = load_tiny("group")
    layers = loaded.model.config.text_config.num_hidden_layers
    logits = {}
    for swapped in (False, True):
        caches, cursors = [StreamCache(layers) for _ in range(2)], []
        for seed, cache in enumerate(caches):
            stream = random_stream(loaded, [(2, 2)], prompt_len=4, seed=seed)
            session = Session(loaded.model, stream.prompt)
            session.cache = cache
            request = next(session.begin())
            loaded.model.step(cache, request.rows, request.embeds)
            cursors.append(session.cursor)
        rows = [cursor.watch(1, 2) for cursor in cursors]
        embeds = list(torch.randn(2, 2, loaded.model.config.text_config.hidden_size, generator=_seeded()))
        logits[swapped] = loaded.model.step_many(caches[::-1] if swapped else caches, rows, embeds)
    right, wrong = (torch.stack(logits[swapped]) for swapped in (False, True))
    assert (wrong - right).abs().max() > 1e-2


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_pictures_are_watched_aside_where_the_model_has_a_place_for_it(load_tiny, monkeypatch):
    """Fused sessions go on speaking meanwhile, and say what they say where the picture is waited for."""
    loaded = load_tiny("group")
    streams = [random_stream(loaded, [(2, 2 + i)] * 4, seed=i) for i in range(3)]
    alone = [plain(play(SerialSession(loaded.model, s.prompt, choose=Greedy(max_new_tokens=9)), s)) for s in streams]
    fast = small(loaded.model, seats=3)
    monkeypatch.setattr(fast, "watches_aside", True)  # as with CUDA graphs
    begun, polls = [], []

    class Later(VideoFeatures):
        """Ready when asked for the third time."""

        @property
        def ready(self) -> bool:
            polls.append(self)
            return sum(one is self for one in polls) > 2

    begin_watching = fast.begin_watching

    def begin(*args):
        begun.append(args)
        return Later(begin_watching(*args).embeds)

    monkeypatch.setattr(fast, "begin_watching", begin)
    runs = [
        FusedSession(fast, s.prompt, choose=Greedy(max_new_tokens=9)).run(
            Arrived([Step(p, g, i + 0.5, i == 3) for i, (p, g) in enumerate(zip(s.pixels, s.grids, strict=True))])
        )
        for s in streams
    ]
    ended = together(fast, runs, at_once=3)
    assert [plain(ended[i][0]) for i in range(3)] == alone
    assert len(begun) == 3 * 3 and len(polls) > len(begun), "all steps but each session's first, none at once"
