"""A saved session goes on in a newly loaded model as if it had never stopped: all rows, on disk in between."""

import pytest
import torch

from swwatch.engine.choose import open_session, open_watcher
from swwatch.engine.requests import Request, Wait, answer_to
from swwatch.engine.source import Ask, Step
from swwatch.engine.trace import SimulatedClock, Spoken
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, parse_schedule
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS, VARIANTS, Speaks
from tests.helpers.feeds import small
from tests.helpers.keeps import kept
from tests.helpers.streams import random_stream
from tests.helpers.tiny import tiny_loader

SIZES = [(2, 3), (1, 2), (2, 2)] * 4
PARALLEL = [name for name, variant in VARIANTS.items() if variant.speaks is Speaks.PARALLEL]


class Arriving:
    """Steps that are there, and then nothing until more come. A question is asked with the third."""

    def __init__(self, steps: list[Step], over: bool, asks: list[Ask]):
        self.steps, self.over, self.asks = list(steps), over, asks

    @property
    def ended(self) -> bool:
        return self.over and not self.steps

    def poll(self) -> Step | None:
        return self.steps.pop(0) if self.steps else None

    def wait(self, timeout_s: float | None = None) -> None:
        raise AssertionError("the driver stops here")

    def orders(self) -> list:
        asks, self.asks = self.asks, []
        return asks


def open_one(loaded, model, stream, engine="serial", **options):
    """A session of the checkpoint's row; chat turns draw their tokens."""
    if loaded.settings.variant in TURNS:
        system = SYSTEMS[loaded.settings.variant]
        prompt = loaded.turns(system)
        if system.thinks:  # random weights know no end of a thought
            options = {"choose": Greedy(1.15, 12)} | options
    else:
        prompt, options = stream.prompt, {"schedule": RandomK(3, seed=1), "choose": Greedy(1.15, 40)} | options
    return open_session(engine, model, prompt, clock=SimulatedClock(now=lambda: 0.0), **options)


def spoken_until_it_waits(model, session, source) -> list[tuple]:
    """Drive a session until it waits for its source, or to its end."""
    run, said, answer = session.run(source), [], None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return said
        answer = None
        if isinstance(event, Wait):
            return said
        if isinstance(event, Request):
            answer = answer_to(model, event)
        elif isinstance(event, Spoken):
            said.append((event.step, event.token_id, event.newest_visible_step, event.t_frame_s))


def steps_of(stream) -> list[Step]:
    pairs = zip(stream.pixels, stream.grids, strict=True)
    return [Step(pixels, grid, i + 0.5) for i, (pixels, grid) in enumerate(pairs)]


CASES = [(name, "serial", {}) for name in (*VARIANTS, *TURNS)]
CASES += [(name, "fused", {"keep": keep}) for name, keep in kept(Speaks.PARALLEL)]
CASES += [(name, "serial", {"keep": keep}) for name, keep in kept(Speaks.TURNS)]
CASES += [("group", "fused", {"schedule": parse_schedule("sved:3:alpha=1")})]
CASES += [("interleave", "serial", {"schedule": parse_schedule("change:2:share=1")})]
CASES += [("overlap", "fused", {"schedule": parse_schedule("pace:2:most=2")})]
LEARNED = [("group", "fused", "gate:2:floor=0.003"), ("interleave", "serial", "head:2:floor=0.3")]
CASES += [(name, engine, {"schedule": parse_schedule(text)}) for name, engine, text in LEARNED]


@pytest.mark.parametrize(("variant", "engine", "options"), CASES, ids=lambda value: str(value)[:30])
def test_a_saved_session_goes_on_in_a_newly_loaded_model(
    load_tiny, tiny_checkpoint, tmp_path, variant, engine, options
):
    trained = {} if not (speak := options.get("schedule")) or not speak.learned else {"schedule": f"{speak.name}:2"}
    loaded = load_tiny(variant, **trained)
    stream = random_stream(loaded, SIZES, answer_len=0)
    steps, ask = steps_of(stream), Ask((*loaded.markup.suffix, 7, 8, loaded.markup.vision_start), "What now")
    whole, first = (open_one(loaded, loaded.model, stream, engine, **options) for _ in range(2))
    expected = spoken_until_it_waits(loaded.model, whole, Arriving(steps[:5], False, [ask]))
    before = spoken_until_it_waits(loaded.model, first, Arriving(steps[:5], False, [ask]))
    assert before == expected
    torch.save(first.state(), tmp_path / "state.pt")
    spoken_until_it_waits(loaded.model, first, Arriving(steps[5:], True, []))  # which does not touch what was saved

    fresh = tiny_loader(tiny_checkpoint)(variant, **trained)
    second = open_one(fresh, fresh.model, stream, engine, **options)
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    expected = spoken_until_it_waits(loaded.model, whole, Arriving(steps[5:], True, []))
    assert spoken_until_it_waits(fresh.model, second, Arriving(steps[5:], True, [])) == expected
    thinks = variant in SYSTEMS and SYSTEMS[variant].thinks  # and speaks when it is asked alone
    assert (len(expected) > 9 or thinks) and second.cache.num_fed == whole.cache.num_fed


@pytest.mark.parametrize("variant", ["group", "interleave", "origin"])
def test_it_goes_on_from_the_plain_model_on_the_fast_path_and_back(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES, answer_len=0)
    fast, steps, said = small(loaded.model, seats=2), steps_of(stream), []
    whole = open_one(loaded, loaded.model, stream)
    expected = [*spoken_until_it_waits(loaded.model, whole, Arriving(steps, True, []))]
    state = None
    for begin, model in ((0, loaded.model), (4, fast), (8, loaded.model)):
        session = open_one(loaded, model, stream)
        if state is not None:
            session.restore(state)
        said += spoken_until_it_waits(model, session, Arriving(steps[begin : begin + 4], begin == 8, []))
        state = session.state()
    assert said == expected


def test_what_cannot_be_kept_or_continued_says_so(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    state = open_one(loaded, loaded.model, stream).state()
    other = load_tiny("gap")
    with pytest.raises(UserError, match="'group'.* cannot be continued by one of 'gap'"):
        open_one(other, other.model, stream).restore(state)
    with pytest.raises(UserError, match="another version"):
        open_one(loaded, loaded.model, stream).restore(state | {"facts": {}})
    with open_watcher("streams", loaded.model) as watcher:
        session = open_one(loaded, loaded.model, stream, "streams", watcher=watcher)
        with pytest.raises(UserError, match="take serial or fused"):
            session.state()
