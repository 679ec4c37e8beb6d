"""Eviction: what is kept stays aligned with its metadata, and what is gone is as if masked."""

import torch
from streams import Told, play, random_stream

from swwatch.engine.serial import Decoding
from swwatch.layout import Kind
from swwatch.schedule import WaitK
from swwatch.visibility import SAID, WATCHED


def test_evicting_an_early_step_keeps_keys_and_metadata_aligned(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, [(2, 3)] * 3)
    session = Told(loaded.model, stream.prompt, schedule=WaitK(3), decoding=Decoding(20)).tell(stream.answer)
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
