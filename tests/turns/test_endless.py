"""Streams of hours: memory, positions and context stay within their bounds."""

import pytest
import torch
from turning import GREEDY, begin, play, random_steps

from swwatch.engine.requests import drive
from swwatch.engine.source import Step
from swwatch.model.loading import load
from swwatch.toy.checkpoint import make_checkpoint
from swwatch.turns.evict import Windows
from swwatch.turns.session import Said
from swwatch.turns.spans import Part, ids_of
from swwatch.visibility import WATCHED


class Unending:
    """The same second again and again, so often."""

    def __init__(self, step: Step, seconds: int):
        self.step, self.left = step, iter(range(seconds))
        self.ended = False

    def poll(self) -> Step | None:
        i = next(self.left, None)
        self.ended = i is None
        return None if self.ended else Step(self.step.pixel_values, self.step.grid_thw, i + 0.5)

    def orders(self) -> list:
        return []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    sizes = {"hidden": 16, "layers": 1, "heads": 1, "kv_heads": 1, "vision_depth": 1, "vision_hidden": 16}
    sizes |= {"vision_heads": 1}
    return load(make_checkpoint(tmp_path_factory.mktemp("s") / "model", **sizes), variant="streamingvlm", device="cpu")


@pytest.mark.parametrize(
    "seconds", [pytest.param(1_000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)]
)
def test_hours_are_held_in_bounded_memory_and_positions(small, seconds):
    """The system's own windows; frames of 4 tokens and answers of up to 4, which fill them within 400 seconds."""
    session, source = begin(small), Unending(random_steps(small, 1)[0], seconds)
    bound = 1808 + 16 * 4 + 40  # StreamingVLM's own, and the question
    lengths, highest, nbytes = [], [], []
    with torch.no_grad():
        for event in drive(small.model, session.run(source)):
            if not isinstance(event, Said):
                continue
            where = session.cache.tokens[WATCHED].position_ids
            lengths.append(session.cache.get_seq_length())
            highest.append(int(where.max()))
            nbytes.append(session.cache.nbytes)
            assert int(where.min()) == 0
            assert sum(span.part is Part.VIDEO for span in session.context) <= 16
    assert len(lengths) == seconds
    assert max(lengths) <= bound and max(highest) <= bound
    steady = lengths[seconds // 2 :]
    assert max(steady) - min(steady) <= 16 * (GREEDY.sampling.max_new_tokens + 2)  # labels may gain two digits
    assert {total / length for total, length in zip(nbytes, lengths, strict=True)} == {nbytes[0] / lengths[0]}


def test_positions_are_no_larger_late_than_early(small):
    session = begin(small, windows=Windows(4, 4, 8, 8))
    highest = []
    play(session, random_steps(small, 60), lambda s: highest.append(int(s.cache.tokens[WATCHED].position_ids.max())))
    assert max(highest[40:]) <= max(highest[:40]) + 4 * GREEDY.sampling.max_new_tokens
    assert len(ids_of(session.context)) < 200
