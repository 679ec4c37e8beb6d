"""Sessions whose requests are answered one at a time, in any order, compute bit for bit what each does alone."""

import random

import pytest
import torch

from swwatch.engine.choose import open_session
from swwatch.engine.requests import Feed, Request, Wait, answer_to
from swwatch.engine.source import Ask, Step
from swwatch.engine.trace import Spoken
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK
from tests.engine.test_batch import plain, together
from tests.helpers.streams import random_stream


class Drip:
    """A source whose steps come one at each wait, or all at once; with a question before the third."""

    def __init__(self, stream, question: tuple[int, ...], dripping: bool):
        last = len(stream.pixels) - 1
        cells = zip(stream.pixels, stream.grids, strict=True)
        self.coming = [Step(pixels, grid, i + 0.5, i == last) for i, (pixels, grid) in enumerate(cells)]
        self.here = [] if dripping else [self.coming.pop(0) for _ in range(last + 1)]
        self.taken, self.question = 0, question

    @property
    def ended(self) -> bool:
        return not self.coming and not self.here

    def poll(self):
        self.taken += bool(self.here)
        return self.here.pop(0) if self.here else None

    def wait(self, timeout_s=None):
        if self.coming:
            self.here.append(self.coming.pop(0))

    def orders(self):
        asked = [Ask(self.question, "?")] if self.taken == 2 and self.question else []
        self.question = () if asked else self.question
        return asked


def sessions(loaded, engine):
    runs, markup = [], loaded.markup
    for i in range(4):
        stream = random_stream(loaded, [(1 + i % 2, 2)] * (2 + i), prompt_len=4 + i, seed=i)
        options = {"schedule": RandomK(3, seed=i), "choose": Greedy(max_new_tokens=9 + 3 * i)}
        question = (*markup.suffix, 7, 8, markup.vision_start)
        session = open_session(engine, loaded.model, stream.prompt, **options)
        runs.append(session.run(Drip(stream, question, dripping=i % 2 == 0)))
    return runs


def answer(model, request):
    return request.source.wait(0) if isinstance(request, Wait) else answer_to(model, request)


def answer_in_turns(model, runs, seed) -> list[tuple[list, list]]:
    """One request of one session after the other, drawn at random. Returns words and logits of each."""
    order, told = random.Random(seed), [([], []) for _ in runs]
    going = dict.fromkeys(range(len(runs)))
    while going:
        i = order.choice(list(going))
        try:
            event = runs[i].send(going[i])
            while not isinstance(event, Request):
                told[i][0].append(event)
                event = next(runs[i])
        except StopIteration:
            del going[i]
            continue
        going[i] = answer(model, event)
        if isinstance(event, Feed) and going[i] is not None:
            told[i][1].append(going[i])
    return told


@pytest.mark.parametrize(
    ("variant", "engine"),
    [("group", "serial"), ("overlap", "serial"), ("interleave", "serial"), ("origin", "serial")]
    + [("group", "fused"), ("overlap", "fused"), ("gap", "fused")],
)
def test_interleaved_sessions_are_separate_sessions_bit_for_bit(load_tiny, variant, engine):
    loaded = load_tiny(variant)
    alone = [answer_in_turns(loaded.model, [run], 0)[0] for run in sessions(loaded, engine)]
    for seed in range(3):
        mixed = answer_in_turns(loaded.model, sessions(loaded, engine), seed)
        for (words, logits), (own_words, own_logits) in zip(mixed, alone, strict=True):
            assert spoken(words) == spoken(own_words)
            assert len(logits) == len(own_logits) and all(map(torch.equal, logits, own_logits))
    batched = together(loaded.model, sessions(loaded, engine), at_once=4)
    assert [spoken(batched[i][0]) for i in range(4)] == [spoken(words) for words, _ in alone]
    assert len({token for words, _ in alone for token in spoken(words)}) > 20, "all alike would prove nothing"


def spoken(events) -> list[tuple]:
    return plain([event for event in events if isinstance(event, Spoken)])
