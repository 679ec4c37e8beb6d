"""Watchers in a thread: what they hand over is what direct feeding gives, whoever else they serve."""

import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.two_device import DeviceWatcher
from swwatch.engine.watcher import ThreadWatcher, WatcherError, WatchWorker
from swwatch.rules.variants import Speaks, speaking
from tests.helpers.streams import random_stream
from tests.helpers.watcher_work import Hesitant, work_of

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=4)


def directly(loaded, pieces) -> list[torch.Tensor]:
    """Keys and values of each piece, from one cache that is fed here and now."""
    cache, model, rows = loaded.model.new_cache(), loaded.model, []
    for work in pieces:
        parts = [
            model.embed(p) if isinstance(p, tuple) else model.watch_video(p.pixel_values, p.grid_thw)
            for p in work.parts
        ]
        before = cache.num_fed
        model.step(cache, work.rows, torch.cat(parts).detach())
        rows.append(cache.export(before)[1])
    return rows


@pytest.mark.parametrize("variant", speaking(Speaks.PARALLEL))
@given(st.lists(sizes, min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=8)
def test_sessions_that_share_a_watcher_get_what_direct_feeding_gives(load_tiny, variant, clips, chance):
    """Bit for bit, in any order of submission."""
    loaded = load_tiny(variant)
    pieces = [work_of(loaded, random_stream(loaded, clip, seed=i), variant) for i, clip in enumerate(clips)]
    with ThreadWatcher(Hesitant(loaded.model, chance.random(), 0.001)) as watcher:
        keys, tickets = [watcher.open() for _ in pieces], [[] for _ in pieces]
        order = [i for i, works in enumerate(pieces) for _ in works]
        chance.shuffle(order)
        for i in order:
            tickets[i].append(watcher.submit(keys[i], pieces[i][len(tickets[i])]))
        for works, mine in zip(pieces, tickets, strict=True):
            results = [ticket.take() for ticket in mine]
            for work, ours, theirs in zip(works, results, directly(loaded, works), strict=True):
                assert ours.rows is work.rows and torch.equal(ours.keys_values, theirs)
                assert ours.seconds.prefill_s > 0 and ours.seconds.vision_s >= 0


def test_what_was_handed_over_never_changes(load_tiny):
    loaded = load_tiny("group")
    pieces = work_of(loaded, random_stream(loaded, [(2, 3)] * 4))
    with ThreadWatcher(loaded.model) as watcher:
        key = watcher.open()
        early = watcher.submit(key, pieces[0]).take().keys_values
        before = early.clone()
        for work in pieces[1:]:
            watcher.submit(key, work).take()
    assert torch.equal(early, before)


def test_a_ticket_is_ready_when_taking_it_would_not_block(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    gate, step = threading.Event(), loaded.model.step
    monkeypatch.setattr(loaded.model, "step", lambda *args: gate.wait(30) and step(*args))
    with ThreadWatcher(loaded.model) as watcher:
        ticket = watcher.submit(watcher.open(), work_of(loaded, random_stream(loaded, [(1, 1)]))[0])
        assert not ticket.ready
        ticket.wait(0.01)
        assert not ticket.ready, "waiting ends with the time"
        gate.set()
        ticket.wait()
        assert ticket.ready


def test_an_exception_is_raised_in_the_session_it_belongs_to(load_tiny):
    loaded = load_tiny("group")
    pieces = [work_of(loaded, random_stream(loaded, [(2, 2)] * 3, seed=seed)) for seed in range(2)]
    model = Hesitant(loaded.model)
    model.failing = pieces[1][1].parts[0].pixel_values
    with ThreadWatcher(model) as watcher:
        keys = [watcher.open() for _ in pieces]
        tickets = [[watcher.submit(key, works[i]) for key, works in zip(keys, pieces, strict=True)] for i in range(4)]
        for (ours, _), theirs in zip(tickets, directly(loaded, pieces[0]), strict=True):
            assert torch.equal(ours.take().keys_values, theirs), "the other session goes on"
        tickets[0][1].take()
        with pytest.raises(ArithmeticError, match="this picture"):
            tickets[1][1].take()
        with pytest.raises(WatcherError, match="earlier step of this session"):
            tickets[2][1].take()


def test_closing_finishes_the_work_under_way_and_refuses_the_rest(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    pieces = work_of(loaded, random_stream(loaded, [(1, 1)] * 2))
    begun, gate, step = threading.Event(), threading.Event(), loaded.model.step
    monkeypatch.setattr(loaded.model, "step", lambda *args: begun.set() or gate.wait(30) and step(*args))
    watcher = ThreadWatcher(loaded.model)
    key = watcher.open()
    tickets = [watcher.submit(key, work) for work in pieces]
    assert begun.wait(30)
    closing = threading.Thread(target=watcher.close)
    closing.start()
    with pytest.raises(WatcherError, match="was closed"):
        tickets[-1].take()
    gate.set()
    closing.join()
    assert len(tickets[0].take().rows) == len(pieces[0].rows)
    with pytest.raises(WatcherError, match="was closed"):
        watcher.submit(key, pieces[1])
    watcher.forget(key)
    watcher.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("watcher")]


def test_the_memory_of_a_session_is_returned_when_it_is_forgotten(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    made, new_cache = [], loaded.model.new_cache
    monkeypatch.setattr(loaded.model, "new_cache", lambda *how: made.append(new_cache(*how)) or made[-1])
    works = [work_of(loaded, random_stream(loaded, [(2, 2)], seed=seed)) for seed in range(2)]
    with ThreadWatcher(loaded.model) as watcher:
        keys = [watcher.open() for _ in works]
        for key, pieces in zip(keys, works, strict=True):
            watcher.submit(key, pieces[0]).take()
        caches = [weakref.ref(cache) for cache in made]
        made.clear()
        gc.disable()  # at once, not when the collector comes round
        try:
            watcher.forget(keys[0])
            watcher.submit(keys[1], works[1][1]).take()  # what was asked before it is done by then
            assert [cache() is None for cache in caches] == [True, False]
        finally:
            gc.enable()


def test_a_device_watcher_has_a_copy_that_computes_the_same(load_tiny):
    loaded = load_tiny("gap", attention="eager")
    pieces = work_of(loaded, random_stream(loaded, [(2, 3)] * 2), "gap")
    state = torch.get_rng_state()
    with DeviceWatcher(loaded.model, "cpu") as watcher:
        assert torch.equal(torch.get_rng_state(), state), "a copy draws no random numbers"
        key = watcher.open()
        results = [watcher.submit(key, work).take().keys_values for work in pieces]
        assert watcher._worker.model is not loaded.model and not watcher._worker.model.training
    for ours, theirs in zip(results, directly(loaded, pieces), strict=True):
        assert torch.equal(ours, theirs)


def test_a_failed_piece_keeps_no_memory(load_tiny):
    loaded = load_tiny("group")
    model, pieces = Hesitant(loaded.model), work_of(loaded, random_stream(loaded, [(2, 2)]))
    model.failing, eye = pieces[1].parts[0].pixel_values, WatchWorker(model)
    eye.watch(0, pieces[0])
    cache = weakref.ref(eye._caches[0])
    with pytest.raises(ArithmeticError):
        eye.watch(0, pieces[1])
    assert cache() is None


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(ThreadWatcher, marks=cuda, id="streams"),
        pytest.param(lambda model: DeviceWatcher(model, "cuda:1"), marks=two_gpus, id="two GPUs"),
    ],
)
def test_on_cuda_what_is_handed_over_equals_direct_feeding(load_tiny, make):
    """The stream of the speaker is busy, pixels are made in it, tensors are dropped as soon as they may be: a wait
    that is missing shows as other numbers."""
    loaded = load_tiny("group")
    loaded.model.to("cuda:0")
    try:
        stream = random_stream(loaded, [(3, 4)] * 12)
        theirs = directly(loaded, work_of(loaded, stream))
        busy = torch.randn(2048, 2048, device="cuda:0")
        with make(loaded.model) as watcher:
            key, sums = watcher.open(), []
            for i, work in enumerate(work_of(loaded, stream)):
                for _ in range(20):
                    busy = torch.tanh(busy @ busy)
                looks = [p if isinstance(p, tuple) else _made_late(p) for p in work.parts]
                ticket = watcher.submit(key, type(work)(work.rows, tuple(looks)))
                del looks
                torch.full_like(busy, float("nan"))  # takes whatever memory was given back too early
                result = ticket.take()
                sums.append((result.keys_values - theirs[i]).abs().max())
                assert result.keys_values.device == torch.device("cuda:0")
                assert result.seconds.prefill_s > 0
                del result, ticket
        assert float(torch.stack(sums).max()) <= 1e-5
    finally:
        loaded.model.to("cpu")


def _made_late(look):
    """The same pixels, computed on the device behind whatever is queued there."""
    return type(look)(look.pixel_values.to("cuda:0", non_blocking=True) * 1.0, look.grid_thw)
