"""A seat in static memory is a StreamCache: fed, handed over, evicted, undone and given back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.errors import UserError
from swwatch.model.cache import StreamCache
from swwatch.model.static_cache import NOBODY, SlotStore, StaticCache
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.cursor import Cursor
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS
from swwatch.rules.visibility import SAID, WATCHED
from tests.helpers.streams import Told, play, random_stream


def store_of(model, max_watched=80, max_said=40, seats=1) -> SlotStore:
    return SlotStore(model.config.text_config, max_watched, max_said, seats, dtype=model.dtype, device=model.device)


def fill(loaded, cache, stream, steps, words=()):
    """Prompt, steps and words said at the last of them, one forward each; returns the cursor and all logits."""
    model = loaded.model
    cursor = Cursor(VARIANTS["group"], model.t_per_step)
    logits = [model.step(cache, cursor.prompt(len(stream.prompt)), model.embed(stream.prompt))]
    for i in range(steps):
        video = model.watch_video(stream.pixels[i], stream.grids[i])
        logits.append(model.step(cache, cursor.watch(*stream.merged[i]), video))
    for word in words:
        logits.append(model.step(cache, cursor.say(1, steps - 1), model.embed([word])))
    return cursor, torch.stack(logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_streams_over_static_memory_as_over_growing_memory(load_tiny, monkeypatch, variant):
    loaded = load_tiny(variant)
    stream, seen = random_stream(loaded, [(2, 3), (1, 1), (3, 2)]), []
    store = store_of(loaded.model)
    for cache in (None, lambda *how: StaticCache(store)):
        if cache:
            monkeypatch.setattr(loaded.model, "new_cache", cache)
        session = Told(loaded.model, stream.prompt, schedule=WaitK(2), choose=Greedy(max_new_tokens=12)).tell(
            stream.answer
        )
        play(session, stream)
        seen.append((torch.stack(session.seen_logits), session.cache.num_fed))
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=1e-5, rtol=0)
    assert seen[0][1] == seen[1][1]
    assert (type(session.cache), session.cache.get_seq_length()) == (StaticCache, session.cache.num_fed)


@given(st.integers(1, 3), st.integers(1, 10), st.booleans(), st.booleans())
@settings(max_examples=20)
def test_watched_tokens_pass_between_both_kinds_of_cache(load_tiny, steps, num_from, from_static, to_static):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * steps)

    def new(static):
        return StaticCache(store_of(loaded.model)) if static else StreamCache(2)

    source, sink = new(from_static), new(to_static)
    _, theirs = fill(loaded, source, stream, steps, [4, 5])
    rows, keys_values = source.export()
    sink.receive(rows[:num_from], keys_values[..., :num_from, :])
    sink.receive(*source.export(num_from))
    assert (sink.num_fed, len(sink.tokens[WATCHED])) == (len(rows), len(rows))
    assert torch.equal(sink.export(3)[1], keys_values[..., 3:, :])
    with pytest.raises(ValueError, match=f"next watched token is number {len(rows)}"):
        sink.receive(rows, keys_values)
    with pytest.raises(ValueError, match="do not fit"):
        new(to_static).receive(rows, keys_values[..., 1:, :])
    cursor = Cursor(VARIANTS["group"])
    ours = [loaded.model.step(sink, cursor.say(1, steps - 1), loaded.model.embed([word])) for word in (4, 5)]
    torch.testing.assert_close(torch.stack(ours), theirs[-2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("first_said", [0, 2])
def test_restoring_leaves_no_trace_even_of_a_feed_that_was_not_a_number(load_tiny, first_said):
    loaded = load_tiny("group")
    stream, after = random_stream(loaded, [(2, 3)] * 2), []
    for undo in (False, True):
        cache = StaticCache(store_of(loaded.model))
        cursor, _ = fill(loaded, cache, stream, 2, range(first_said))
        mark, row = cache.mark(), cursor.say(1, 1)
        if undo:
            loaded.model.step(cache, row, loaded.model.embed([7]) * torch.nan)
            cache.restore(mark)
            assert (cache.length, cache.num_fed, cache.mark()) == (5 + 12 + first_said, 17 + first_said, mark)
        after.append(loaded.model.step(cache, row, loaded.model.embed([7])))
    assert torch.equal(*after)
    assert bool(after[0].isfinite().all())


def test_what_is_evicted_is_as_if_never_fed_and_the_mark_before_is_refused(load_tiny):
    loaded = load_tiny("group")
    stream, logits = random_stream(loaded, [(2, 3)] * 3), []
    for cache in (StreamCache(2), StaticCache(store_of(loaded.model))):
        cursor, _ = fill(loaded, cache, stream, 3, [1, 2, 3])
        mark, watched = cache.mark(), cache.tokens[WATCHED]
        kept = (~(watched.where(Kind.VIDEO) & (watched.step == 0))).nonzero()[:, 0]
        cache.keep(WATCHED, kept)
        cache.keep(SAID, torch.tensor([0, 2]))
        assert torch.equal(cache.tokens[WATCHED].position_ids, watched.position_ids[:, kept])
        assert len(cache.tokens[SAID]) == 2
        with pytest.raises(ValueError, match="evicted"):
            cache.restore(mark)
        rows = [cursor.say(1, 2), cursor.watch(2, 2), cursor.say(1, 3)]
        embeds = [loaded.model.embed([5]), torch.ones(4, 32), loaded.model.embed([6])]
        logits.append(torch.stack([loaded.model.step(cache, *feed) for feed in zip(rows, embeds, strict=True)]))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="ascend"):
        cache.keep(WATCHED, torch.tensor([3, 1]))


@pytest.mark.parametrize(("limits", "name", "fed"), [((10, 40), "max_watched", 5), ((40, 1), "max_said", 18)])
def test_a_full_seat_says_which_limit_to_raise_and_stays_as_it_was(load_tiny, limits, name, fed):
    loaded = load_tiny("group")
    cache = StaticCache(store_of(loaded.model, *limits))
    with pytest.raises(UserError, match=f"raise {name}"):
        fill(loaded, cache, random_stream(loaded, [(2, 3)] * 2), 2, [1, 2])
    assert (cache.length, cache.num_fed) == (fed, fed)
    assert bool((cache.store.columns[0, 0, fed:] == NOBODY).all())


def test_a_seat_is_free_again_when_its_session_is_gone_and_nothing_of_it_is_left(load_tiny):
    loaded = load_tiny("group")
    store, stream = store_of(loaded.model, seats=2), random_stream(loaded, [(2, 3)] * 2)
    kept, poisoned = StaticCache(store), StaticCache(store)
    assert kept.nbytes + poisoned.nbytes == sum(part.nbytes for part in (*store.keys, *store.values))
    with pytest.raises(UserError, match="all 2 seats are taken"):
        StaticCache(store)
    stream.pixels[1] = stream.pixels[1] * torch.nan
    fill(loaded, poisoned, stream, 2)
    seat, poisoned.itself = poisoned.seat, poisoned  # a cycle, as a session with coroutines may be one
    del poisoned
    fresh = StaticCache(store)
    assert fresh.seat == seat
    clean = random_stream(loaded, [(2, 3)])
    _, ours = fill(loaded, fresh, clean, 1, [1])
    _, theirs = fill(loaded, StreamCache(2), clean, 1, [1])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
