"""Which model serves whom."""

from types import SimpleNamespace

import pytest

from swwatch.client.codes import ProtocolError
from swwatch.errors import UserError
from swwatch.live.stage import Capacity
from swwatch.serve.stages import Checkpoint, Stages


def checkpoint(variant: str) -> Checkpoint:
    return Checkpoint(f"the {variant} one", SimpleNamespace(settings=SimpleNamespace(variant=variant)))


class FakeStage:
    def __init__(self, loaded, *, engine, max_sessions, capacity):
        if engine == "fused" and loaded.settings.variant == "interleave":
            raise UserError("interleave takes turns: choose serial")
        self.engine, self.alive, self.capacity = engine, True, capacity

    def close(self, timeout_s):
        self.alive = False


OPTIONS = {"engine": "auto", "max_sessions": 2, "capacity": Capacity(9, 99), "make": FakeStage}


@pytest.fixture
def stages():
    table = Stages([checkpoint("group"), checkpoint("interleave")], **OPTIONS)
    yield table
    table.close()


def test_the_first_checkpoint_is_the_default_and_others_go_by_their_variant(stages):
    assert stages.find(None).variant == "group" and stages.find("interleave").variant == "interleave"
    with pytest.raises(ProtocolError, match="group, interleave"):
        stages.find("gap")


def test_a_stage_is_made_once_for_a_variant_and_an_engine(stages):
    group = stages.find("group")
    assert stages.get(group, None) is stages.get(group, "auto") is not stages.get(group, "fused")
    assert stages.get(group, None).capacity == Capacity(9, 99)


def test_an_engine_that_cannot_run_a_variant_is_refused_and_not_offered(stages):
    interleave = stages.find("interleave")
    assert interleave.engines == ["serial"] and "fused" in stages.find("group").engines
    for engine, words in (("fused", "choose serial"), ("steam", "serial, fused")):
        with pytest.raises(ProtocolError, match=words) as caught:
            stages.get(interleave, engine)
        assert caught.value.code == "unsupported"


def test_a_stage_that_has_died_is_made_anew(stages):
    group = stages.find("group")
    first = stages.get(group, None)
    first.close(1)
    assert stages.get(group, None) is not first


def test_two_checkpoints_of_one_variant_are_a_mistake():
    with pytest.raises(UserError, match="both group"):
        Stages([checkpoint("group"), checkpoint("group")], **OPTIONS)


def test_checkpoints_of_one_name_say_their_variant_too():
    folder, other = checkpoint("group").loaded, checkpoint("gap").loaded
    stages = Stages([Checkpoint("run", folder), Checkpoint("run", other), checkpoint("interleave")], **OPTIONS)
    assert [one.name for one in stages.checkpoints] == ["run (group)", "run (gap)", "the interleave one"]
    assert stages.named("run (gap)").variant == stages.named("gap").variant == "gap"
    with pytest.raises(ProtocolError, match="group, gap, interleave"):
        stages.named("run")
