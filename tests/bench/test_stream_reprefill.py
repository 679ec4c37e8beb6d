"""The baseline says what the serial engine says, and feeds as many tokens as its arithmetic claims."""

import pytest

from swwatch.bench.inputs import PROMPT_LEN, prompt_of, random_steps
from swwatch.bench.models import random_model, shape_config
from swwatch.bench.source import Ready
from swwatch.bench.stream.bounds import reprefill_tokens, serial_tokens
from swwatch.bench.stream.reprefill import Reprefill
from swwatch.engine.requests import drive
from swwatch.engine.trace import SimulatedClock
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks
from tests.helpers.serial import SerialSession

SPEAKING = sorted(name for name, variant in VARIANTS.items() if variant.speaks is not Speaks.OFFLINE)
MARKUP_LEN = {"prompt": PROMPT_LEN, "suffix": 3, "header": 3}


@pytest.fixture(scope="module")
def model_of(load_tiny):
    return lambda variant: load_tiny(variant).model  # its weights are spread out, so that a wrong mask shows


def both(model, steps, schedule, limit):
    """(tokens of serial, tokens of the baseline, tokens fed by serial, the baseline)."""
    prompt, decoding = prompt_of(model, seed=3), Greedy(max_new_tokens=limit)
    serial = SerialSession(model, prompt, schedule=schedule, choose=decoding)
    said = []
    for i, step in enumerate(steps):
        said += serial.watch(step.pixel_values, step.grid_thw, float(i), i == len(steps) - 1)
    clock = SimulatedClock()
    again = Reprefill(model, prompt, schedule=schedule, choose=decoding, clock=clock)
    theirs = list(drive(model, again.run(Ready(steps, clock))))
    return [t.token_id for t in said], [t.token_id for t in theirs], serial.cache.num_fed, again


@pytest.mark.parametrize("schedule", [WaitK(3), WaitK(1), RandomK(2, seed=5)], ids=str)
@pytest.mark.parametrize("variant", SPEAKING)
def test_it_says_the_same_as_the_serial_engine(model_of, variant, schedule):
    model = model_of(variant)
    steps = random_steps(model.config.vision_config, 6, 5, seed=1)
    ours, theirs, *_ = both(model, steps, schedule, 20)
    assert ours == theirs and len(set(ours)) > 3, "all alike would prove nothing"


@pytest.mark.parametrize(("video_tokens", "k", "count"), [(4, 3, 5), (6, 1, 2), (2, 2, 3)])
def test_the_tokens_fed_are_counted_and_are_those_of_the_formulas(model_of, video_tokens, k, count):
    model = model_of("group")
    steps = random_steps(model.config.vision_config, video_tokens, count, seed=1)
    ours, _, fed, again = both(model, steps, WaitK(k), k * count)
    assert len(ours) == k * count, "the model must not have ended early"
    assert fed == serial_tokens(video_tokens, k, count, **MARKUP_LEN)
    assert again.num_fed == reprefill_tokens(video_tokens, k, count, **MARKUP_LEN)
    patches = len(steps[0].pixel_values)
    assert again.num_looked == patches * count * (count + 1) // 2


def test_the_release_feeds_about_sixteen_times_as_many_tokens_at_thirty_steps():
    again, once = (f(64, 3, 30, **MARKUP_LEN) for f in (reprefill_tokens, serial_tokens))
    # the release, counted by running it with its prompt of 29 tokens: 32,028 against 2,042
    assert again == pytest.approx(32_028, rel=0.01) and once == pytest.approx(2_042, rel=0.01)


def test_what_has_no_steps_to_run_again_is_refused():
    model = random_model(shape_config("toy", "origin"), "sdpa", "cpu", dtype=None, seed=0)
    with pytest.raises(UserError, match="after the last alone"):
        Reprefill(model, prompt_of(model, 0))
