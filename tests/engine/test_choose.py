"""Which engine is taken, which are refused, and with which words."""

import pytest

from swwatch.engine import choose
from swwatch.engine.choose import ENGINES
from swwatch.engine.fused import FusedSession
from swwatch.engine.session import Session
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.helpers.streams import Paced, random_stream, spoken_by

PARALLEL = speaking(Speaks.PARALLEL)
OTHERS = sorted(set(VARIANTS) - set(PARALLEL))


@pytest.mark.parametrize("variant", PARALLEL)
def test_auto_goes_by_the_machine(variant):
    assert choose.choose("auto", variant, "cpu", 1) == (
        "serial",
        "on a CPU watching and speaking are both bound by computing, and at once they share its cores",
    )
    name, why = choose.choose("auto", variant, "cuda:0", 1)
    assert name == "fused" and "reads the weights once" in why and "two_device" not in why
    name, why = choose.choose("auto", variant, "cuda", 2)
    assert name == "fused" and "two_device" in why


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_goes_by_the_variant(variant, device):
    name, why = choose.choose("auto", variant, device, 2)
    assert name == "serial" and variant in why


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "serial"])
def test_parallel_engines_refuse_variants_that_take_turns_and_say_what_to_take(load_tiny, variant, engine):
    for refused in (
        lambda: choose.check(engine, variant),
        lambda: choose.choose(engine, variant, "cuda", 2),
        lambda: choose.open_session(engine, load_tiny(variant).model, [1, 2]),
    ):
        with pytest.raises(UserError, match=f"'{engine}' cannot run the variant '{variant}'.*'serial'"):
            refused()


def test_an_engine_asked_for_by_name_is_taken():
    for engine in ENGINES:
        assert choose.choose(engine, "group", "cpu", 1) == (engine, "asked for")
    for variant in VARIANTS:
        choose.check("serial", variant)


def test_an_unknown_engine_names_those_there_are(load_tiny):
    for refused in (
        lambda: choose.check("fast", "group"),
        lambda: choose.choose("fast", "group", "cpu", 1),
        lambda: choose.open_session("fast", load_tiny("group").model, [1]),
    ):
        with pytest.raises(UserError, match="serial, fused, streams, two_device or auto"):
            refused()


def test_a_watcher_belongs_to_engines_that_have_one(load_tiny):
    model = load_tiny("group").model
    with pytest.raises(UserError, match="'streams' needs a watcher"):
        choose.open_session("streams", model, [1])
    with pytest.raises(UserError, match="'fused' has no watcher"):
        choose.open_session("fused", model, [1], watcher=object())
    assert choose.open_watcher("serial", model) is choose.open_watcher("fused", model) is None


@pytest.mark.parametrize("variant", PARALLEL)
def test_every_engine_of_the_table_says_the_same(load_tiny, variant):
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), [(2, 3)] * 4, answer_len=0)
    said = {}
    for engine in ENGINES:
        watcher = choose.open_watcher(engine, model)
        try:
            session = choose.open_session(engine, model, stream.prompt, watcher=watcher, choose=Greedy(1.0, 14))
            assert session.name == engine
            said[engine] = spoken_by(model, session, Paced(stream))
        finally:
            if watcher is not None:
                watcher.close()
    assert len(said["serial"]) > 9 and all(tokens == said["serial"] for tokens in said.values())


def test_a_session_is_of_its_engines_class(load_tiny):
    model = load_tiny("gap").model
    assert type(choose.open_session("serial", model, [1])) is Session
    assert type(choose.open_session("fused", model, [1])) is FusedSession
