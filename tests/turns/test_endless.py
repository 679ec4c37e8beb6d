"""Streams of hours: memory, positions and context stay within their bounds."""

import gc

import pytest
import torch
from turning import GREEDY, begin, play, random_steps

from swwatch.model.loading import load
from swwatch.toy.checkpoint import make_checkpoint
from swwatch.turns.evict import Windows
from swwatch.turns.spans import Part, ids_of
from swwatch.visibility import WATCHED


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    sizes = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 16}
    sizes |= {"vision_heads": 1}
    return load(make_checkpoint(tmp_path_factory.mktemp("s") / "model", **sizes), variant="streamingvlm", device="cpu")


@pytest.mark.slow
def test_ten_thousand_seconds_are_held_in_bounded_memory_and_positions(small):
    """The system's own windows; answers of up to 4 tokens and frames of 4 tokens, so that the run takes a minute."""
    session = begin(small)
    one, bound = random_steps(small, 1)[0], 1808 + 16 * 4 + 40  # StreamingVLM's own bound, and the question
    lengths, highest, nbytes = [], [], []

    def look(session):
        lengths.append(session.cache.get_seq_length())
        where = session.cache.tokens[WATCHED].position_ids
        highest.append(int(where.max()))
        nbytes.append(session.cache.nbytes)
        assert int(where.min()) == 0
        assert sum(span.part is Part.VIDEO for span in session.context) <= 16

    from swwatch.engine.source import Step

    steps = (Step(one.pixel_values, one.grid_thw, i + 0.5) for i in range(10_000))

    class Endless:
        ended = False

        def poll(self):
            step = next(steps, None)
            self.ended = step is None
            return step

        def orders(self):
            return []

    from swwatch.engine.requests import drive

    with torch.no_grad():
        for event in drive(small.model, session.run(Endless())):
            if hasattr(event, "words"):
                look(session)
    gc.collect()
    assert len(lengths) == 10_000 and max(lengths) <= bound
    assert max(highest) <= bound
    steady = lengths[2_000:]
    assert max(steady) - min(steady) <= 16 * GREEDY.sampling.max_new_tokens
    assert max(nbytes[5_000:]) <= max(nbytes[1_000:5_000])


def test_positions_are_no_larger_late_than_early(small):
    session = begin(small, windows=Windows(4, 4, 8, 8))
    highest = []
    play(session, random_steps(small, 60), lambda s: highest.append(int(s.cache.tokens[WATCHED].position_ids.max())))
    assert max(highest[40:]) <= max(highest[:40]) + 4 * GREEDY.sampling.max_new_tokens
    assert len(ids_of(session.context)) < 200
