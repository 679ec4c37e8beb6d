"""The cache: eviction keeps tokens and metadata aligned, handing over equals feeding, a failure can be undone."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.model.stores import slots_for
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK
from swwatch.rules.cursor import Cursor
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS
from swwatch.rules.visibility import SAID, WATCHED
from tests.helpers.feeds import small
from tests.helpers.streams import Told, play, random_stream


def test_evicting_an_early_step_keeps_keys_and_metadata_aligned(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 3)
    session = Told(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20)).tell(
        stream.answer
    )
    play(session, stream)
    cache, watched = session.cache, session.cache.tokens[WATCHED]
    said_before = cache.tokens[SAID]
    keep = ~(watched.where(Kind.VIDEO) & (watched.step == 0))
    before = [layer.stores[WATCHED].clone() for layer in cache.layers]
    cache.keep(WATCHED, keep.nonzero()[:, 0])
    assert len(cache.tokens[WATCHED]) == len(watched) - 6
    assert torch.equal(cache.tokens[WATCHED].position_ids, watched.position_ids[:, keep])
    for layer, old in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.stores[WATCHED], old[..., keep, :])
        assert layer.get_seq_length() == len(watched) - 6 + len(said_before)
    # the next text row still sees all that is left
    row = session.cursor.say(1, step=2)
    mask = cache.admit(row)
    assert mask.shape[-1] == len(watched) - 6 + len(said_before) + 1 and bool(mask.all())


def fill(loaded, stream, cache, steps):
    """Feed the prompt and `steps` steps, each in a forward of its own; the logits after each."""
    cursor, model = Cursor(VARIANTS["group"], loaded.model.t_per_step), loaded.model
    logits = [model.step(cache, cursor.prompt(len(stream.prompt)), model.embed(stream.prompt))]
    for i in range(steps):
        video = model.watch_video(stream.pixels[i], stream.grids[i])
        logits.append(model.step(cache, cursor.watch(*stream.merged[i]), video))
    return cursor, logits


def speak(loaded, cache, cursor, step, words):
    """Logits after each of some words said at a step."""
    model, logits = loaded.model, []
    for word in words:
        logits.append(model.step(cache, cursor.say(1, step), model.embed([word])))
    return torch.stack(logits)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4), st.data())
@settings(max_examples=15)
def test_receiving_what_was_exported_equals_feeding_it(load_tiny, sizes, data):
    """Bit for bit, in whatever pieces it is handed over."""
    loaded = load_tiny("group")
    stream = random_stream(loaded, sizes, seed=data.draw(st.integers(0, 99)))
    fed, received = loaded.model.new_cache(), loaded.model.new_cache()
    cursor, _ = fill(loaded, stream, fed, len(sizes))
    rows, _ = fed.export()
    borders = sorted({0, len(rows), *data.draw(st.lists(st.integers(1, len(rows)), max_size=3))})
    for begin, end in zip(borders, borders[1:], strict=False):
        rows, keys_values = fed.export(begin)
        received.receive(rows[: end - begin], keys_values[..., : end - begin, :])
    assert (received.num_fed, received.nbytes) == (fed.num_fed, fed.nbytes)
    other = Cursor(VARIANTS["group"], loaded.model.t_per_step)
    ours, theirs = (speak(loaded, *pair, len(sizes) - 1, [5, 6, 7]) for pair in ((received, other), (fed, cursor)))
    assert torch.equal(ours, theirs)


def test_what_was_exported_never_changes(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 2)
    cache = loaded.model.new_cache()
    cursor, _ = fill(loaded, stream, cache, 1)
    _, keys_values = cache.export()
    before = keys_values.clone()
    for layer in cache.layers:
        layer.stores[WATCHED].zero_()
    assert torch.equal(keys_values, before)


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "static"])
def test_nothing_may_be_handed_over_too(load_tiny, fast):
    """No rows, before and between others: what comes after them continues as it would without."""
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)])
    source = loaded.model.new_cache()
    fill(loaded, stream, source, 1)
    sink = small(loaded.model).new_cache() if fast else loaded.model.new_cache()
    with pytest.raises(ValueError, match="nothing has been watched"):
        sink.export()
    rows, keys_values = source.export()
    for begin, end in ((0, 0), (0, 4), (4, 4), (4, len(rows))):
        sink.receive(rows[begin:end], keys_values[..., begin:end, :])
    empty, none = sink.export(len(rows))
    assert len(empty) == 0 and none.shape == keys_values[..., :0, :].shape
    sink.receive(empty, none)
    assert torch.equal(sink.export()[1], keys_values) and sink.num_fed == len(rows)


def test_what_does_not_continue_the_store_is_refused(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 2)
    source, sink = loaded.model.new_cache(), loaded.model.new_cache()
    cursor, _ = fill(loaded, stream, source, 2)
    rows, keys_values = source.export(len(stream.prompt))
    with pytest.raises(ValueError, match="next watched token is number 0"):
        sink.receive(rows, keys_values)  # a prompt that is not there yet
    rows, keys_values = source.export()
    with pytest.raises(ValueError, match="do not fit"):
        sink.receive(rows, keys_values[..., 1:, :])
    sink.receive(rows, keys_values)
    with pytest.raises(ValueError, match=f"next watched token is number {len(rows)}"):
        sink.receive(rows, keys_values)  # twice
    with pytest.raises(ValueError, match="next watched token"):
        sink.receive(cursor.say(1, 1), keys_values[..., :1, :])
    assert sink.nbytes == source.nbytes


@pytest.mark.parametrize("failing_layer", [0, 1])
@pytest.mark.parametrize("first", [True, False], ids=["nothing said yet", "something said"])
def test_after_restoring_a_failed_forward_leaves_no_trace(load_tiny, monkeypatch, failing_layer, first):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 2)
    logits = []
    for fails in (False, True):
        cache = loaded.model.new_cache()
        cursor, _ = fill(loaded, stream, cache, 2)
        if not first:
            speak(loaded, cache, cursor, 1, [3])
        rows = cursor.say(2, 1)
        mark = cache.mark()
        if fails:
            mlp = loaded.model.model.language_model.layers[failing_layer].mlp
            with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
                patch.setattr(mlp, "forward", out_of_memory)  # after the layer's keys and values were stored
                loaded.model.step(cache, rows, loaded.model.embed([4, 5]))
            lengths = [layer.get_seq_length() for layer in cache.layers]
            assert len(set(lengths)) == (1 if failing_layer == 1 else 2), "the failure must come half-way"
            assert lengths[0] == sum(mark.lengths.values()) + 2
            cache.restore(mark)
        logits += [loaded.model.step(cache, rows, loaded.model.embed([4, 5]))]
        logits[-1] = torch.stack([logits[-1], *speak(loaded, cache, cursor, 1, [6, 7])])
        fed = cache.num_fed, cache.nbytes
    assert torch.equal(*logits)
    assert fed == (len(stream.prompt) + 12 + (not first) + 4, cache.nbytes)


def out_of_memory(*args):
    raise torch.OutOfMemoryError("no memory, says the test")


def test_a_mark_also_undoes_what_was_received_but_no_eviction(load_tiny):
    loaded = load_tiny("group")
    source, sink = loaded.model.new_cache(), loaded.model.new_cache()
    fill(loaded, random_stream(loaded, [(2, 3)] * 2), source, 2)
    empty = sink.mark()
    sink.receive(*source.export())
    sink.restore(empty)
    assert (sink.nbytes, sink.num_fed, sink.tokens) == (0, 0, {})
    sink.receive(*source.export())
    full = sink.mark()
    sink.keep(WATCHED, torch.arange(3))
    with pytest.raises(ValueError, match="evicted"):
        sink.restore(full)


def test_bytes_are_counted_and_returned_with_the_cache(load_tiny):
    loaded = load_tiny("group")
    source, sink = loaded.model.new_cache(), loaded.model.new_cache()
    cursor, _ = fill(loaded, random_stream(loaded, [(2, 3)]), source, 1)
    sink.receive(*source.export())
    text = loaded.model.config.text_config
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    row = 2 * text.num_hidden_layers * width * 4
    assert source.nbytes == sink.nbytes == source.num_fed * row
    speak(loaded, sink, cursor, 0, [1, 2])
    assert sink.nbytes == (source.num_fed + 2) * row
    assert sink.held_nbytes == slots_for(source.num_fed + 2) * row
    held = [weakref.ref(layer.stores.read((WATCHED,))._base) for layer in sink.layers]
    assert all(store() is not None for store in held)
    gc.disable()  # at once, not when the collector comes round
    try:
        del sink
        assert not any(store() is not None for store in held)
    finally:
        gc.enable()
