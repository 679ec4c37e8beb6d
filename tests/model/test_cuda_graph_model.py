"""The fast path's own code, as it stands on a CPU, is the plain model: all variants, buckets, chunks and seats."""

import gc
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Step
from swwatch.engine.trace import Spoken
from swwatch.errors import UserError
from swwatch.model import cuda_graph_model
from swwatch.model.cuda_graph_model import CudaGraphModel, length_bucket, row_bucket
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS
from tests.helpers.feeds import Arrived, logits_of, random_feeds, small
from tests.helpers.serial import SerialSession
from tests.helpers.streams import play, random_stream

grids = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))


@pytest.mark.parametrize("variant", VARIANTS)
@given(grids, st.integers(1, 20), st.sampled_from([2, 8, 64, 256]), st.integers(0, 999))
@settings(max_examples=15)
def test_a_fast_step_is_the_plain_models_for_any_chunks(load_tiny, variant, grids, answer_len, first, seed):
    """Rows of both streams in one forward, as the fused engine feeds them, included."""
    model = load_tiny(variant).model
    feeds = random_feeds(variant, grids, answer_len, Random(seed).randint, seed)
    theirs = logits_of(model, feeds)
    assert len(feeds) == 1 or theirs.std() > 0.1, "the model must not be flat, or this test could not fail"
    torch.testing.assert_close(logits_of(small(model, first_length=first), feeds), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@given(grids, schedules, st.sampled_from([2, 16, 256]), st.integers(0, 99))
@settings(max_examples=8)
def test_a_session_speaks_the_same_tokens_whatever_the_buckets(load_tiny, variant, grids, schedule, first, seed):
    loaded = load_tiny(variant)
    stream, said = random_stream(loaded, grids, seed=seed), []
    for model in (loaded.model, small(loaded.model, first_length=first)):
        session = SerialSession(model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=24))
        said.append([(t.token_id, t.step, t.newest_visible_step) for t in play(session, stream)])
    assert said[0] == said[1]


@pytest.mark.parametrize("variant", ["interleave", "group"])
@given(st.integers(2, 5), st.integers(0, 999))
@settings(max_examples=12)
def test_sessions_in_one_forward_are_sessions_alone(load_tiny, variant, num_sessions, seed):
    """Any of the seats, with any number of rows each, in any order; some end early."""
    model = load_tiny(variant).model
    random = Random(seed)
    grids = [[(2, 2)] * random.randint(1, 3) for _ in range(num_sessions)]
    todo = [random_feeds(variant, those, 6, random.randint, seed + i) for i, those in enumerate(grids)]
    theirs = [logits_of(model, feeds) for feeds in todo]
    quick = small(model, seats=5)
    caches, ours = [quick.new_cache() for _ in todo], [[] for _ in todo]
    while any(todo):
        waiting = [i for i, feeds in enumerate(todo) if feeds]
        chosen = random.sample(waiting, random.randint(1, len(waiting)))
        rows, embeds, predicts = zip(*(todo[i].pop(0) for i in chosen), strict=True)
        logits = quick.step_many([caches[i] for i in chosen], rows, embeds, predicts)
        for i, row in zip(chosen, logits, strict=True):
            ours[i].append(row.clone())
    for mine, reference in zip(ours, theirs, strict=True):  # sums of more rows run in another order
        torch.testing.assert_close(torch.stack(mine), reference, atol=5e-5, rtol=1e-5)


def test_a_feed_that_predicts_nothing_is_fed_like_any_other(load_tiny):
    model = load_tiny("group").model
    feeds, quick = random_feeds("group", [(2, 2)] * 4, 9, Random(1).randint), small(model, seats=2)
    expected, cache, other = logits_of(model, feeds), quick.new_cache(), quick.new_cache()
    for i, (rows, embeds, index) in enumerate(feeds):
        asked = None if i % 2 else index
        mine, others = quick.step_many([cache, other], [rows] * 2, [embeds] * 2, [asked, None])
        assert others is None and (mine is None) == (asked is None)
        if mine is not None:
            torch.testing.assert_close(mine, expected[i], atol=1e-5, rtol=1e-5)
    alone = quick.another()
    cache = alone.new_cache()
    assert [alone.step(cache, rows, embeds, None) for rows, embeds, _ in feeds[:-1]] == [None] * (len(feeds) - 1)
    torch.testing.assert_close(alone.step(cache, *feeds[-1]), expected[-1], atol=1e-5, rtol=1e-5)


@given(grids, schedules, st.integers(0, 99))
@settings(max_examples=8)
def test_fused_sessions_on_the_fast_path_say_what_serial_ones_say_on_the_plain(load_tiny, grids, schedule, seed):
    loaded = load_tiny("group")
    stream, said, quick = random_stream(loaded, grids, seed=seed), [], small(loaded.model)
    for kind, model in ((Session, loaded.model), (FusedSession, quick)):
        steps = [
            Step(*step, i + 0.5, i == len(grids) - 1)
            for i, step in enumerate(zip(stream.pixels, stream.grids, strict=True))
        ]
        session = kind(model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=24))
        run = drive(model, session.run(Arrived(steps)))
        said.append([(e.token_id, e.step, e.newest_visible_step) for e in run if isinstance(e, Spoken)])
    assert said[0] == said[1]


def test_rows_that_fill_up_a_bucket_touch_no_slot_and_what_they_hold_does_not_matter(load_tiny):
    model = load_tiny("group").model
    feeds = random_feeds("group", [(3, 4)] * 2, 9, lambda low, high: high)
    assert {row_bucket(len(rows)) - len(rows) for rows, _, _ in feeds} - {0}, "no bucket was filled up"
    clean, dirty = small(model), small(model)
    dirty._embeds.fill_(torch.nan)
    dirty.store.keys[0][:, :, -1] = torch.nan  # scratch
    assert torch.equal(logits_of(clean, feeds), logits_of(dirty, feeds))
    total = sum(len(rows) for rows, _, _ in feeds)
    for part in (*dirty.store.keys, *dirty.store.values):
        assert bool((part[:, :, total:-1] == 0).all())


def test_a_forward_of_more_rows_than_are_recorded_is_the_same(load_tiny, monkeypatch):
    model = load_tiny("group").model
    feeds = random_feeds("group", [(3, 4)] * 2, 9, lambda low, high: high)
    expected = logits_of(small(model), feeds)
    monkeypatch.setattr(cuda_graph_model, "MAX_ROWS", 5)
    torch.testing.assert_close(logits_of(small(model), feeds), expected, atol=1e-5, rtol=1e-5)


class Recordings:
    """Stands for model.cuda_graphs: what would be recorded, and run without."""

    def __init__(self):
        self.keys = set()

    def run(self, key, compute):
        self.keys.add(key)
        return compute()


def test_a_lone_session_is_not_recorded_anew_in_every_seat(load_tiny):
    """On a GPU each recording holds up all sessions of a stage, and takes memory."""
    model = load_tiny("group").model
    feeds = random_feeds("group", [(2, 2)] * 2, 5, lambda low, high: high)
    expected, quick = logits_of(model, feeds), small(model, seats=16)
    quick._graphs, caches, keys = Recordings(), [], []
    for _ in range(16):
        caches.append(quick.new_cache())
        ours = torch.stack([quick.step(caches[-1], *feed).clone() for feed in feeds])
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        keys.append(len(quick._graphs.keys))
    assert caches[-1].seat == 15 and keys[-1] <= 5 * keys[0], keys


@pytest.mark.parametrize("feeds_at_once", [[(1,), (7,)], [(1, 3), (1, 1, 1)]])
def test_warming_up_changes_nothing_for_sessions_under_way(load_tiny, feeds_at_once):
    model = load_tiny("group").model
    feeds = random_feeds("group", [(2, 2)] * 3, 9, lambda low, high: (low + high) // 2)
    expected, quick = logits_of(small(model, seats=3), feeds), small(model, seats=3)
    cache, ours = quick.new_cache(), []
    for feed in feeds:
        quick.warm_up(feeds_at_once, [torch.tensor([[1, 4, 6]])])
        ours.append(quick.step(cache, *feed))
    assert torch.equal(torch.stack(ours), expected)


@given(grids)
@settings(max_examples=20)
def test_the_tower_sees_what_the_plain_models_does_one_grid_or_several(load_tiny, grids):
    loaded = load_tiny("group")
    stream, quick = random_stream(loaded, grids), small(loaded.model)
    for pixels, grid in [*zip(stream.pixels, stream.grids, strict=True)] * 2:
        expected = loaded.model.watch_video(pixels, grid)
        assert torch.equal(quick.watch_video(pixels, grid), expected)
        assert torch.equal(quick.begin_watching(pixels, grid).take(), expected)
    pixels, several = torch.cat(stream.pixels), torch.cat(stream.grids)
    assert torch.equal(quick.watch_video(pixels, several), loaded.model.watch_video(pixels, several))


def test_the_tower_forgets_grids_that_came_long_ago(load_tiny, monkeypatch):
    monkeypatch.setattr("swwatch.model.vision_tower.MAX_LAYOUTS", 2)
    loaded = load_tiny("group")
    stream, quick = random_stream(loaded, [(1, 1), (1, 2), (2, 2), (1, 1)]), small(loaded.model)
    for pixels, grid in zip(stream.pixels, stream.grids, strict=True):
        assert torch.equal(quick.watch_video(pixels, grid), loaded.model.watch_video(pixels, grid))
        assert len(quick.tower._layouts) <= 2


class Recorder:
    """What recording does to a computation, without a GPU: only what was given first under a key is ever run, and a
    result is good until the next run."""

    def __init__(self):
        self.recorded, self.result = {}, None

    def __len__(self) -> int:
        return len(self.recorded)

    def run(self, key, compute):
        if self.result is not None:
            self.result.fill_(torch.nan)
        self.result = self.recorded.setdefault(key, compute)()
        return self.result


def recording(model, **options) -> CudaGraphModel:
    quick = small(model, **options)
    quick._graphs, quick.tower._graphs = Recorder(), Recorder()
    return quick


def test_what_would_be_recorded_reads_and_writes_memory_that_stays_where_it_is(load_tiny):
    model = load_tiny("group").model
    todo = [random_feeds("group", [(2, 2)] * 4, 9, Random(seed).randint, seed) for seed in range(3)]
    quick = recording(model)
    for feeds in todo * 2:
        torch.testing.assert_close(logits_of(quick, feeds), logits_of(model, feeds), atol=1e-5, rtol=1e-5)
    assert quick.num_graphs < sum(map(len, todo)), "nothing was run again"


def test_what_would_be_recorded_of_the_tower_too(load_tiny, monkeypatch):
    monkeypatch.setattr("swwatch.model.vision_tower.MAX_RECORDED", 2)
    loaded = load_tiny("group")
    stream, quick = random_stream(loaded, [(2, 2), (2, 3), (2, 2), (1, 1), (2, 3)]), recording(loaded.model)
    looked = [quick.watch_video(*pair) for pair in zip(stream.pixels, stream.grids, strict=True)]
    for mine, pixels, grid in zip(looked, stream.pixels, stream.grids, strict=True):
        assert torch.equal(mine, loaded.model.watch_video(pixels, grid))
    assert quick.tower.num_graphs == 2


def test_after_warming_up_nothing_more_is_recorded(load_tiny):
    model = load_tiny("group").model
    feeds = random_feeds("group", [(2, 2)] * 3, 9, lambda low, high: high)
    quick = recording(model)
    recorded = quick.warm_up({(len(rows),) for rows, _, _ in feeds}, [torch.tensor([[1, 4, 6]])])
    torch.testing.assert_close(logits_of(quick, feeds), logits_of(model, feeds), atol=1e-5, rtol=1e-5)
    quick.watch_video(torch.zeros(24, 1176), torch.tensor([[1, 4, 6]]))
    assert quick.num_graphs == recorded


@given(st.integers(1, 5000))
def test_buckets_hold_what_they_are_for_and_waste_little(count):
    rows = row_bucket(count)
    assert count <= rows <= max(8, count * 1.25)
    assert row_bucket(rows) == rows
    length = length_bucket(count, 1 << 20)
    assert count <= length and (length == 128 or length <= count * 1.5)
    assert length_bucket(length, 1 << 20) == length and length % 64 == 0
    assert length_bucket(count, 5000) <= 5000


def test_another_shares_the_weights_and_nothing_else(load_tiny):
    model = load_tiny("group").model
    one = small(model, seats=2)
    two = one.another()
    feeds = random_feeds("group", [(2, 2)] * 2, 5, lambda low, high: high)
    cache = one.new_cache()
    interleaved = [(one.step(cache, *feed), logits_of(two, feeds))[0].clone() for feed in feeds]
    assert torch.equal(torch.stack(interleaved), logits_of(small(model), feeds))
    assert two.model is one.model and two.store.length == one.store.length and two.store.num_seats == 2


def test_what_cannot_be_is_refused_with_what_to_do(load_tiny):
    model = load_tiny("group").model
    with pytest.raises(UserError, match="need a CUDA device"):
        CudaGraphModel(model, 10, 10, graphs=True)
    with pytest.raises(UserError, match="power of two"):
        CudaGraphModel(model, 10, 10, first_length=48)
    with pytest.raises(UserError, match="power of two"):
        CudaGraphModel(model, 10, 10, first_length=1)
    with pytest.raises(UserError, match="at least 1"):
        CudaGraphModel(model, 0, 10)
    quick = CudaGraphModel(model, 10, 10)
    cache = quick.new_cache()
    with pytest.raises(UserError, match="seats are taken"):
        quick.new_cache()
    del cache
    gc.collect()
    assert quick.new_cache().seat == 0
    one_stream = CudaGraphModel(load_tiny("interleave").model, 10, 6)
    assert sum(one_stream.store.limits.values()) == 17, "in one sequence the answer counts as watched"
