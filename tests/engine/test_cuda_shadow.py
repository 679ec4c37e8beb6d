"""Streaming on CUDA devices that are not there: the same words as on a CPU, how often the host waits, and what no
order of streams allows. See tests/helpers/shadow.py; what a device itself does is in the tests marked `gpu`."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from swwatch.data import pixels as pixels_of_data
from swwatch.data.budget import BUDGETS
from swwatch.data.pixels import FrameEncoder
from swwatch.engine.batch import Batch, Ended
from swwatch.engine.choose import open_session, open_watcher
from swwatch.engine.watcher import ThreadWatcher
from swwatch.model.loading import load
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import WaitK, parse_schedule
from swwatch.rules.variants import VARIANTS
from swwatch.toy.checkpoint import make_checkpoint
from tests.helpers import turn_streams
from tests.helpers.feeds import small
from tests.helpers.shadow import MixedDevices, OnShadow, cuda_shadow, to_shadow
from tests.helpers.streams import Paced, Stream, asking, plain, random_stream, spoken_by
from tests.helpers.tiny import SIZES as SIZES_OF_TINY

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device, which shows more")

CHOICE = "policies/chooser.py"
SIZES = [(2, 2), (1, 3)]


def spoken(loaded, model, engine="serial", sizes=SIZES, orders=None, **options):
    stream = random_stream(loaded, sizes, seed=1)
    watcher = open_watcher(engine, model)
    more = {} if watcher is None else {"watcher": watcher}
    try:
        session = open_session(engine, model, stream.prompt, choose=Greedy(1.05, 5), **more, **options)
        return spoken_by(model, session, Paced(stream, orders=orders))
    finally:
        if watcher is not None:
            watcher.close()


def waits(shadow) -> list[str]:
    """Places of the package where the host waited, but for the choice of a token."""
    return [f"{w.place}: {w.why}" for w in shadow.waits if not w.place.startswith((CHOICE, "outside"))]


def choices(shadow) -> int:
    return sum(w.place.startswith(CHOICE) for w in shadow.waits)


# ---- how often the host waits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_host_waits_once_for_a_token_and_never_for_watching(load_tiny, variant):
    loaded = load_tiny(variant)
    theirs = spoken(loaded, loaded.model)
    with cuda_shadow() as shadow:
        assert spoken(loaded, to_shadow(loaded.model)) == theirs
        assert waits(shadow) == [] and choices(shadow) == len(theirs) and shadow.races == []


@pytest.mark.parametrize("system", ["streamingvlm", "livecc"])
def test_chat_systems_wait_once_for_a_token(load_tiny, system):
    loaded = load_tiny(system)
    steps = turn_streams.random_steps(loaded, 2)
    theirs = [said.ids for said in turn_streams.play(turn_streams.begin(loaded), steps)]
    with cuda_shadow() as shadow:
        ours = turn_streams.begin(replace(loaded, model=to_shadow(loaded.model)))
        assert [said.ids for said in turn_streams.play(ours, steps)] == theirs
        assert waits(shadow) == [] and 1 < choices(shadow) <= sum(map(len, theirs))


def test_the_fused_engine_on_recorded_forwards_waits_once_for_a_token(load_tiny):
    """Recordings are replayed from the memory that they were made in."""
    loaded = load_tiny("group")
    theirs = spoken(loaded, loaded.model)
    with cuda_shadow() as shadow:
        quick = small(to_shadow(loaded.model))
        assert quick.watches_aside
        assert spoken(loaded, quick, "fused") == theirs and quick.num_graphs > 3
        assert waits(shadow) == [] and choices(shadow) == len(theirs) and shadow.races == []


def test_thoughts_beside_the_words_cost_no_further_wait(load_tiny):
    """They are chosen with the words, in the same forwards."""
    loaded, sizes = load_tiny("group"), [(2, 2)] * 3
    how = {"sizes": sizes, "think": "notes:2", "schedule": WaitK(2)}
    theirs = spoken(loaded, loaded.model, "fused", **how)
    with cuda_shadow() as shadow:
        assert spoken(loaded, to_shadow(loaded.model), "fused", **how) == theirs
        assert waits(shadow) == [] and shadow.races == []


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_wait_once_for_a_token(tmp_path, family):
    folder = make_checkpoint(tmp_path / "model", family=family, seed=1, **SIZES_OF_TINY)
    loaded = load(folder, variant="group", device="cpu")
    theirs = spoken(loaded, loaded.model)
    with cuda_shadow() as shadow:
        ours = load(folder, variant="group", device="cuda", dtype="float32", attention="sdpa")
        assert ours.model.device == torch.device("cuda:0")
        assert spoken(ours, ours.model) == theirs
        assert {place.split(":")[0] for place in waits(shadow)} <= {"model/loading.py"}


def test_a_round_of_many_sessions_waits_once(load_tiny):
    loaded = load_tiny("group")
    streams = [random_stream(loaded, SIZES, seed=seed) for seed in range(3)]
    theirs = [spoken_by(loaded.model, new_session(loaded.model, stream), Paced(stream)) for stream in streams]
    with cuda_shadow() as shadow:
        model = to_shadow(loaded.model)
        batch, said = Batch(model), [[] for _ in streams]
        events = [e for i, s in enumerate(streams) for e in batch.add(i, new_session(model, s).run(Paced(s)))]
        while len(batch):
            before = choices(shadow)
            events += batch.advance()
            assert choices(shadow) <= before + 1
        assert not [e for _, e in events if isinstance(e, Ended) and e.error]
        for i, event in events:
            said[i].append(event)
        assert [plain(events) for events in said] == theirs
        assert waits(shadow) == [] and choices(shadow) < sum(map(len, theirs))


def new_session(model, stream):
    return open_session("serial", model, stream.prompt, choose=Greedy(1.05, 5))


SMALL = "text_sink=2:text_window=2"
KEEPS = {  # what is kept -> places where the host may wait beside
    "window:1": [],
    f"rekv:4:vision_s=1:{SMALL}": ["model/parking.py"],
    f"livevlm:16:vision_s=1:newest=4:{SMALL}": ["model/long_term.py"],
    f"vstream:1:detail=1:turns_s=1:{SMALL}": ["policies/memory/vstream.py"],
}


@pytest.mark.parametrize("see", ["dtd:0.5", "stc:0.4", "curve:0.9"])
def test_a_policy_that_sees_less_waits_once_a_patch(load_tiny, see):
    loaded, sizes = load_tiny("group", see=see), [(2, 2)] * 3
    theirs = spoken(loaded, loaded.model, sizes=sizes)
    with cuda_shadow() as shadow:
        assert spoken(loaded, to_shadow(loaded.model), sizes=sizes) == theirs
        places = waits(shadow)
        assert 1 <= len(places) <= len(sizes) and all("policies/see/" in place for place in places), places


def test_a_policy_that_decides_when_to_speak_waits_for_its_decisions_and_no_word(load_tiny):
    """SVED reads its newest words anew: at most two numbers a step, whatever the number of words."""
    loaded, how = load_tiny("group"), {"sizes": [(2, 2)] * 3, "schedule": parse_schedule("sved:2:alpha=1.03")}
    theirs = spoken(loaded, loaded.model, **how)
    with cuda_shadow() as shadow:
        assert spoken(loaded, to_shadow(loaded.model), **how) == theirs
        assert choices(shadow) == len(theirs) and 1 <= len(waits(shadow)) <= 2 * 2
        assert all(place.startswith("engine/decider.py") for place in waits(shadow))


@pytest.mark.parametrize("keep", KEEPS)
def test_a_policy_that_forgets_parks_or_recalls_says_the_same_and_waits_where_it_must(load_tiny, keep):
    loaded, sizes = load_tiny("group"), [(2, 2)] * 3
    orders = asking(loaded, {2: [5, 6, 7]})
    theirs = spoken(loaded, loaded.model, sizes=sizes, orders=orders, keep=keep)
    with cuda_shadow() as shadow:
        orders = asking(loaded, {2: [5, 6, 7]})
        assert spoken(loaded, to_shadow(loaded.model), sizes=sizes, orders=orders, keep=keep) == theirs
        assert {place.split(":")[0] for place in waits(shadow)} == set(KEEPS[keep])
        if "rekv" in keep:  # once for keys, values and means of a block, whatever the number of layers
            assert sum("parking.py" in place and "genexpr" in place for place in waits(shadow)) in (3, 6), waits(
                shadow
            )


# ---- streams and events ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine, devices", [("streams", 1), ("two_device", 2)])
def test_what_is_watched_beside_the_words_is_ordered_by_streams_and_events(load_tiny, engine, devices):
    loaded = load_tiny("group")
    theirs = spoken(loaded, loaded.model)
    with cuda_shadow(devices) as shadow:
        assert spoken(loaded, to_shadow(loaded.model), engine) == theirs
        assert shadow.races == [] and choices(shadow) == len(theirs)


class EncodedThere(Paced):
    """Pixels are made on the device as a step arrives, last of all in the stream of whoever asks for them."""

    def __init__(self, stream, frames, encoder):
        super().__init__(stream)
        self.frames, self.encoder = iter(frames), encoder

    def poll(self):
        step = super().poll()
        return step and replace(step, pixel_values=self.encoder.encode(next(self.frames), None)[0] * 1)


FRAMES = np.random.default_rng(0).integers(0, 256, (3, 2, 56, 84, 3), dtype=np.uint8)


def spoken_of_frames(loaded, model, engine: str, device: str):
    here = FrameEncoder(loaded.processor.video_processor, BUDGETS["declared"])
    pixels, grids = zip(*(here.encode(two, None) for two in FRAMES), strict=True)
    stream = Stream(random_stream(loaded, SIZES).prompt, pixels, grids, [])
    source = EncodedThere(stream, FRAMES, FrameEncoder(here.video_processor, BUDGETS["declared"], device))
    watcher = open_watcher(engine, model)
    more = {} if watcher is None else {"watcher": watcher}
    try:
        return spoken_by(model, open_session(engine, model, stream.prompt, choose=Greedy(1.05, 5), **more), source)
    finally:
        if watcher is not None:
            watcher.close()


@pytest.mark.parametrize("engine, fast", [("streams", False), ("fused", True)])
def test_frames_that_are_encoded_on_the_device_are_ordered_before_and_behind_the_tower(
    load_tiny, monkeypatch, engine, fast
):
    loaded = load_tiny("group")
    theirs = spoken_of_frames(loaded, loaded.model, "serial", "cpu")
    monkeypatch.setattr(pixels_of_data, "stream_beside", lambda device: torch.cuda.Stream(device))
    with cuda_shadow() as shadow:
        model = small(to_shadow(loaded.model)) if fast else to_shadow(loaded.model)
        assert spoken_of_frames(loaded, model, engine, "cuda") == theirs
        assert shadow.races == []


def without(monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, lambda *_: None)


def test_a_watcher_that_does_not_wait_for_its_stream_is_found(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    with cuda_shadow() as shadow:
        model = to_shadow(loaded.model)
        stream = type(torch.cuda.current_stream())
        without(monkeypatch, stream, "synchronize")
        spoken(loaded, model, "streams")
        assert any("comes behind no wait" in race for race in shadow.races)


def test_keys_and_values_that_are_not_lent_to_the_speakers_stream_are_found(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    monkeypatch.setattr(ThreadWatcher, "bring", lambda self, keys_values: keys_values)
    with cuda_shadow() as shadow:
        spoken(loaded, to_shadow(loaded.model), "streams")
        assert any("given back" in race for race in shadow.races)


def test_features_taken_without_waiting_for_the_tower_are_found(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    monkeypatch.setattr(VideoFeatures, "take", lambda self: self.embeds)
    with cuda_shadow() as shadow:
        spoken(loaded, small(to_shadow(loaded.model)), "fused")
        assert any("comes behind no wait" in race for race in shadow.races)


def tower_and_step(loaded):
    stream = random_stream(loaded, SIZES)
    return small(to_shadow(loaded.model)).tower, stream.pixels[0].to("cuda"), stream.grids[0]


def pixels_go(loaded):
    tower, *step = tower_and_step(loaded)
    return tower, tower.look(*step)


def features_go(loaded):
    tower, *step = tower_and_step(loaded)
    return tower, step, tower.look(*step).take() + 1


def frames_go(loaded):
    encoder = FrameEncoder(loaded.processor.video_processor, BUDGETS["declared"], "cuda")
    return encoder, encoder.encode(FRAMES[0], None)[0] + 1


@pytest.mark.parametrize("lent", [True, False])
@pytest.mark.parametrize("who", [pixels_go, features_go, frames_go])
def test_memory_that_goes_while_a_stream_may_be_at_it_must_have_been_lent_to_it(load_tiny, monkeypatch, who, lent):
    """Who drops a tensor as soon as its use is queued. Sessions keep theirs for longer, and so would not show it."""
    monkeypatch.setattr(pixels_of_data, "stream_beside", lambda device: torch.cuda.Stream(device))
    if not lent:
        without(monkeypatch, OnShadow, "record_stream")
    with cuda_shadow() as shadow:
        held = who(load_tiny("group"))
        assert held and all("given back" in race for race in shadow.races) and bool(shadow.races) != lent


# ---- the helper itself ----------------------------------------------------------------------------------------------


def test_planted_faults_are_found():
    with cuda_shadow(2) as shadow:
        here, there = torch.arange(4.0, device="cuda:0"), torch.arange(4.0, device="cuda:1")
        with pytest.raises(MixedDevices, match="cuda:0 and cuda:1"):
            here + there
        with pytest.raises(MixedDevices, match="of the CPU"):
            here + torch.ones(4)
        assert not shadow.waits and bool((here + 1 > 0).all()) and here.sum().item() == 6
        assert [w.why for w in shadow.waits] == ["a value is read"] * 2
        shadow.waits.clear()
        assert here[here > 1].tolist() == [2, 3] and here.cpu()[1] == 1
        assert [w.why for w in shadow.waits] == ["a shape depends on data", "a copy to the host", "a copy to the host"]
        shadow.waits.clear()
        torch.ones(2).to("cuda", non_blocking=True)
        assert not shadow.waits
        torch.ones(2).to("cuda")
        assert [w.why for w in shadow.waits] == ["a copy to the device that is not non_blocking"]
        early = here.to("cpu", non_blocking=True)
        assert early.tolist() != [0, 1, 2, 3], "nobody has waited for this copy"
        torch.cuda.synchronize()
        assert early.tolist() == [0, 1, 2, 3] and not shadow.races
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_without_values_nothing_is_computed_and_what_would_depend_on_one_is_refused():
    with cuda_shadow(values=False) as shadow:
        large = torch.ones(1 << 20, 1 << 20, device="cuda") @ torch.ones(1 << 20, 2, device="cuda")
        assert large.inner.is_meta and large.shape == (1 << 20, 2) and large.argmax().item() == 0
        assert large[:9][torch.arange(9, device="cuda") > 5].shape == (3, 2), "flags that no such number made are true"
        assert [w.why for w in shadow.waits] == ["a value is read", "a shape depends on data"]
        with pytest.raises(NotImplementedError, match="depends on values"):
            (large > 0).nonzero()


def test_a_planted_race_is_found_and_an_event_or_a_stream_mends_it():
    for mended in (None, "event", "stream"):
        with cuda_shadow() as shadow:
            side, main = torch.cuda.Stream(), torch.cuda.current_stream()
            with torch.cuda.stream(side):
                made = torch.ones(3, device="cuda") * 2
                done = side.record_event()
            if mended == "event":
                main.wait_event(done)
            if mended == "stream":
                main.wait_stream(side)
            made + 1
            assert bool(shadow.races) == (mended is None)
            side.wait_stream(main)  # else `made` is given back too early
            del made
            assert bool(shadow.races) == (mended is None)


@pytest.mark.parametrize("mended", [None, "event", "lent"])
def test_memory_goes_when_all_that_streams_did_with_it_is_over(mended):
    """Its last use counts, also behind an event that was waited for, and in a stream that has written it before."""
    with cuda_shadow() as shadow:
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        made = torch.ones(3, device="cuda")
        side.wait_stream(main)
        with torch.cuda.stream(side):
            made.mul_(2)
            main.wait_event(side.record_event())
            made + 1
        if mended == "event":
            main.wait_event(side.record_event())
        if mended == "lent":
            made.record_stream(side)
        del made
        assert bool(shadow.races) == (mended is None)


def test_a_recording_refuses_to_wait_and_a_replay_reads_again():
    with cuda_shadow():
        static = torch.ones(2, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = static * 2 + 1
            with pytest.raises(RuntimeError, match="capturing"):
                result.sum().item()
        static.fill_(5)
        graph.replay()
        assert result.tolist() == [11, 11]
