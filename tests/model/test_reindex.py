"""Evicting and re-numbering tokens of a cache: as if they had always stood where they stand now."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swwatch.rules.layout import KINDS, Kind, Layout
from swwatch.rules.visibility import WATCHED


def line(positions: torch.Tensor, first: int = 0) -> Layout:
    """Tokens of one causal stream at positions (3, L)."""
    length = positions.shape[1]
    zeros = torch.zeros(length, dtype=torch.int64)
    order = torch.arange(first, first + length)
    return Layout(zeros + KINDS.index(Kind.PROMPT), zeros, zeros + WATCHED, order, zeros, positions)


def spread(length: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 200, (3, length), generator=generator)


def feed(model, cache, rows: Layout, ids: torch.Tensor) -> torch.Tensor:
    return model.step(cache, rows, model.embed(ids))


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """A model whose keys and values do not depend on what a token could see."""
    from swwatch.model.loading import load
    from swwatch.toy.checkpoint import make_checkpoint

    sizes = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 32}
    return load(make_checkpoint(tmp_path_factory.mktemp("one") / "model", **sizes), variant="origin", device="cpu")


@given(st.integers(2, 12), st.integers(0, 999), st.data())
def test_what_is_kept_and_moved_reads_as_if_fed_so_in_one_layer(one_layer, length, seed, data):
    model, generator = one_layer.model, torch.Generator().manual_seed(seed)
    ids, after = torch.randint(0, 200, (length + 2,), generator=generator).split([length, 2])
    cache = model.new_cache(endless=True)
    feed(model, cache, line(spread(length, generator)), ids)
    kept = torch.tensor(data.draw(st.lists(st.integers(0, length - 1), min_size=1, unique=True)))
    there = spread(len(kept), generator)
    cache.keep(WATCHED, kept)
    cache.reindex(WATCHED, there)
    assert torch.equal(cache.tokens[WATCHED].position_ids, there)
    rows = line(spread(2, generator), first=length)
    ours = feed(model, cache, rows, after)

    fresh = model.new_cache()
    feed(model, fresh, line(there), ids[kept])
    theirs = feed(model, fresh, replace(rows, order=torch.arange(2) + length), after)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert cache.nbytes == fresh.nbytes * 3 // 2  # keys twice


def test_ten_thousand_renumberings_leave_no_more_error_than_one(one_layer):
    model, generator = one_layer.model, torch.Generator().manual_seed(0)
    once, often = model.new_cache(endless=True), model.new_cache(endless=True)
    ids, begin, end = torch.arange(6), spread(6, generator), spread(6, generator)
    for cache in (once, often):
        feed(model, cache, line(begin), ids)
    for _ in range(10_000):
        often.reindex(WATCHED, spread(6, generator))
    once.reindex(WATCHED, end)
    often.reindex(WATCHED, end)
    for ours, theirs in zip(often.layers, once.layers, strict=True):
        assert torch.equal(ours.stores[WATCHED], theirs.stores[WATCHED])


def test_a_feed_after_renumbering_can_be_undone(load_tiny):
    model, generator = load_tiny("origin").model, torch.Generator().manual_seed(1)
    cache = model.new_cache(endless=True)
    feed(model, cache, line(spread(5, generator)), torch.arange(5))
    cache.keep(WATCHED, torch.tensor([1, 3, 4]))
    cache.reindex(WATCHED, spread(3, generator))
    mark, rows = cache.mark(), line(spread(2, generator), first=5)
    before = feed(model, cache, rows, torch.tensor([7, 8]))
    cache.restore(mark)
    assert torch.equal(feed(model, cache, rows, torch.tensor([7, 8])), before)
    cache.reindex(WATCHED, spread(5, generator))
    with pytest.raises(ValueError, match="evicted since"):
        cache.restore(mark)


def test_misuse_is_refused(load_tiny):
    model = load_tiny("origin").model
    plain, endless = model.new_cache(), model.new_cache(endless=True)
    for cache in (plain, endless):
        feed(model, cache, line(torch.zeros((3, 2), dtype=torch.int64)), torch.arange(2))
    with pytest.raises(ValueError, match="made with `rotary`"):
        plain.reindex(WATCHED, torch.zeros((3, 2), dtype=torch.int64))
    with pytest.raises(ValueError, match=r"need positions \(3, 2\)"):
        endless.reindex(WATCHED, torch.zeros((3, 3), dtype=torch.int64))
