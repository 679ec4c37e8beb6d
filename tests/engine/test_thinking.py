"""Thoughts beside words: promises P1 to P4 with three streams, over the engines, in fp32 on the CPU."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import StreamsSession
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import Feed, Request, answer_to, drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask
from swwatch.engine.trace import Reflected, Spoken
from swwatch.engine.watcher import ThreadWatcher
from swwatch.errors import UserError
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.policies.choose import Greedy, Sampling
from swwatch.policies.speak import RandomK, WaitK
from swwatch.policies.think import Notes
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from swwatch.rules.visibility import THOUGHT
from tests.helpers.streams import Paced, ToldSession, fed_positions, full_forward, random_stream

PARALLEL = speaking(Speaks.PARALLEL)
SIZES = [(2, 3)] * 5

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=9)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
notes = st.builds(Notes, st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.0, 3.0]), st.integers(1, 7))
paces = st.one_of(st.just([0] * 12), st.lists(st.integers(0, 5), min_size=12, max_size=12), st.just([9] * 12))
asked = st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 199), min_size=1, max_size=5), max_size=2)


class ToldFused(FusedSession):
    tell, _choose = ToldSession.tell, ToldSession._choose


class ToldStreams(StreamsSession):
    tell, _choose = ToldSession.tell, ToldSession._choose


def told(session, thoughts: list[int]) -> list[torch.Tensor]:
    """Have a session think these; what they were chosen from."""
    seen = []

    def pick(logits):
        yield from ()
        seen.append(logits)
        return thoughts[len(seen) - 1]

    session.thinking._pick = pick
    return seen


def told_by(model, session, source) -> tuple[list, list]:
    """(words, thoughts) of a run, without the moment of their emission."""
    events = list(drive(model, session.run(source)))
    return tuple(
        [(e.step, e.token_id, e.newest_visible_step, e.t_frame_s) for e in events if isinstance(e, kind)]
        for kind in (Spoken, Reflected)
    )


@pytest.mark.parametrize("engine", [ToldSession, ToldFused, ToldStreams], ids=["serial", "fused", "streams"])
@given(
    st.sampled_from(PARALLEL), sizes, schedules, notes, paces, st.integers(1, 30), st.booleans(), st.integers(0, 99)
)
@settings(max_examples=3, deadline=None)
def test_p1_thinking_and_speaking_equal_training(
    load_tiny, engine, variant, sizes, schedule, think, gaps, answer_len, late, seed
):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, 1 + seed % 8, answer_len, seed)
    plan = think.plan(len(sizes) + late, 1.0)
    thoughts = random.Random(seed).choices(range(200), k=sum(plan.at))
    theirs, tokens = full_forward(loaded, stream, schedule, late, thoughts=(plan, thoughts))
    watcher = {"watcher": ThreadWatcher(loaded.model)} if engine is ToldStreams else {}
    options = {"schedule": schedule, "choose": Greedy(max_new_tokens=answer_len), "think": think}
    session = engine(loaded.model, stream.prompt, **options, **watcher).tell(stream.answer)
    seen = told(session, thoughts)
    told_by(loaded.model, session, Paced(stream, gaps, None, late))
    for opened in watcher.values():
        opened.close()
    torch.testing.assert_close(torch.stack([*seen, *session.seen_logits]), theirs, atol=1e-4, rtol=0)
    n = session.cache.num_fed  # all but the last word and the last thought, where nothing follows them
    assert len(tokens) - 2 <= n <= len(tokens)


def test_p1_would_notice_a_word_that_sees_other_thoughts(load_tiny):
    loaded, think = load_tiny("group"), Notes(2)
    stream, plan = random_stream(loaded, SIZES), think.plan(5, 1.0)
    ours, other = (
        full_forward(loaded, stream, WaitK(3), thoughts=(plan, ids))[0] for ids in ([7] * 8, [7] * 3 + [9] * 5)
    )
    first = 8 + 9  # behind the thoughts; the fourth of these is the last of the second step, and fed at the third
    assert torch.equal(ours[8:first], other[8:first]), "words of the first three steps see what is the same in both"
    assert bool((ours[first:] != other[first:]).any(1).all())


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, notes, paces, asked, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=3, deadline=None)
def test_p2_fused_thinks_and_says_what_serial_does(
    load_tiny, variant, sizes, schedule, think, gaps, asked, late, draws, early, seed
):
    """And feeds the same tokens, once (P4): with questions, notes that end by themselves, and thoughts forgotten."""
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), sizes, 1 + seed % 8, 0, seed)
    orders = {step: [Ask(tuple(ids), "?")] for step, ids in asked.items()}
    think = Notes(think.k, think.every_s, think.limit, 2, 3) if early else think
    kind = Sampling if draws else Greedy
    options = {"schedule": schedule, "choose": kind(max_new_tokens=1 + seed, stop_early=early), "think": think}
    serial, fused = (made(model, stream.prompt, **options) for made in (Session, FusedSession))
    ours = told_by(model, fused, Paced(stream, gaps, orders, late))
    assert ours == told_by(model, serial, Paced(stream, None, orders, late))
    assert fused.cache.num_fed == serial.cache.num_fed and fed_positions(fused) == fed_positions(serial)
    held = serial.cache.tokens.get(THOUGHT, ())
    assert not early or len(held) <= 5 + think.k + len(model.markup.note), "thoughts go by their own window"


def test_video_thought_and_word_ride_in_one_forward(load_tiny):
    """Three rows of work, one read of the weights: as many feeds as the longer of the two has tokens."""
    model = load_tiny("gap").model
    stream = random_stream(load_tiny("gap"), [(2, 3)] * 4, answer_len=0)
    counts = {}
    for kind in (Session, FusedSession):
        session = kind(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 9), think=Notes(2))
        run, answer, feeds = session.run(Paced(stream)), None, []
        while True:
            try:
                event = run.send(answer)
            except StopIteration:
                break
            answer = answer_to(model, event) if isinstance(event, Request) else None
            if isinstance(event, Feed):
                feeds.append({int(stream) for stream in event.rows.stream})
        counts[kind] = feeds
    assert {0, 1, 2} in counts[FusedSession] and all(len(streams) == 1 for streams in counts[Session])
    prompt, steps, thoughts, words = 1, 4, 6, 9
    assert len(counts[Session]) == prompt + steps + thoughts + words
    assert len(counts[FusedSession]) == prompt + 1 + words, "all but the first step ride, and so do all thoughts"


def test_p3_a_thought_sees_nothing_that_has_not_come(load_tiny):
    loaded, seen = load_tiny("overlap"), []
    for change in (0.0, 1.0):
        stream = random_stream(loaded, SIZES)
        stream.pixels[3] = stream.pixels[3] + change
        session = FusedSession(loaded.model, stream.prompt, schedule=WaitK(2), choose=Greedy(1.0, 20), think=Notes(3))
        logits = told(session, list(range(12)))
        told_by(loaded.model, session, Paced(stream))
        seen.append(torch.stack(logits))
    assert torch.equal(seen[0][:9], seen[1][:9]) and bool((seen[0][9:] != seen[1][9:]).any(1).all())


def test_p9_a_batch_of_thinking_sessions_is_each_alone(load_tiny):
    model, alone, together = load_tiny("group").model, {}, {}
    how = [(Session, Notes(2)), (FusedSession, Notes(1, 2.0)), (FusedSession, None), (Session, Notes(4, 0.0, 5, 1, 2))]
    streams = [random_stream(load_tiny("group"), SIZES, 3 + seed, 0, seed) for seed in range(4)]
    options = {"schedule": WaitK(2), "choose": Greedy(1.0, 12)}
    batch, events = Batch(model), []
    for key, ((kind, think), stream) in enumerate(zip(how, streams, strict=True)):
        alone[key] = told_by(model, kind(model, stream.prompt, think=think, **options), Paced(stream))
        events += batch.add(key, kind(model, stream.prompt, think=think, **options).run(Paced(stream)))
    while len(batch):
        events += batch.advance()
    assert all(event.error is None for _, event in events if isinstance(event, Ended))
    for key in alone:
        mine = [event for name, event in events if name == key]
        together[key] = tuple(
            [(e.step, e.token_id, e.newest_visible_step, e.t_frame_s) for e in mine if isinstance(e, kind)]
            for kind in (Spoken, Reflected)
        )
    assert together == alone
    assert [bool(thoughts) for _, thoughts in alone.values()] == [think is not None for _, think in how]


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_a_state_between_two_steps_goes_on_with_its_thoughts(load_tiny, kind):
    loaded = load_tiny("group")
    model, stream = loaded.model, random_stream(loaded, SIZES, answer_len=0)
    options = {"schedule": WaitK(2), "choose": Sampling(max_new_tokens=14), "think": Notes(3, 0.0, 5)}

    def step(session, i):
        run = session.watch(stream.pixels[i], stream.grids[i], i + 0.5, i == 4)
        return [(type(e), e.step, e.token_id) for e in drive(model, run) if isinstance(e, Spoken | Reflected)]

    for kept in (1, 3):
        whole, told, state = kind(model, stream.prompt, **options), [], None
        list(drive(model, whole.begin()))
        for i in range(5):
            if i == kept:
                state = whole.state()
            told.append(step(whole, i))
        again = kind(model, stream.prompt, **options)
        again.restore(state)
        assert [step(again, i) for i in range(kept, 5)] == told[kept:]
    with pytest.raises(UserError, match="one of the two thinks"):
        kind(model, stream.prompt).restore(state)


@pytest.mark.parametrize("variant", ["overlap", "gap"])
def test_p12_a_stream_without_end_forgets_its_thoughts_by_their_own_window(load_tiny, variant):
    model, told = load_tiny(variant).model, {}
    stream = random_stream(load_tiny(variant), [(1, 2)] * 26, answer_len=0)
    options = {"schedule": WaitK(2), "choose": Greedy(1.0, None), "keep": "window:4:text_sink=2:text_window=6"}
    for kind in (Session, FusedSession):
        session = kind(model, stream.prompt, think=Notes(2, limit=5, sink=3, window=6), **options)
        held, told[kind] = [], []
        for event in drive(model, session.run(Paced(stream))):
            if isinstance(event, Spoken | Reflected) and event.step < 25:
                told[kind].append((event.step, type(event).__name__, event.token_id))
            if isinstance(event, Spoken) and THOUGHT in session.cache.tokens:
                thoughts = session.cache.tokens[THOUGHT]
                held.append((len(thoughts), int(thoughts.position_ids.max())))
            if isinstance(event, Spoken) and event.step == 25:
                break
        counts, ends = zip(*held, strict=True)
        assert max(counts) <= 3 + 6 + 2 + len(model.markup.note), (
            "sink, window, a step's tokens and what begins a note"
        )
        assert max(counts[32:]) == max(counts[18:32])
        assert max(ends[32:]) <= max(ends[18:32]) + 2, "positions are closed up"
    by_stream = [sorted(told[kind], key=lambda event: event[:2]) for kind in (Session, FusedSession)]
    assert by_stream[0] == by_stream[1]


def test_what_cannot_think_is_refused(load_tiny):
    for name in VARIANTS.keys() - set(PARALLEL):
        with pytest.raises(UserError, match="take a variant that has streams of their own"):
            Session(load_tiny(name).model, [1], think="notes:2")
    fast = CudaGraphModel(load_tiny("group").model, max_watched=64, max_said=32, first_length=8)
    with pytest.raises(UserError, match="CUDA graphs"):
        Session(fast, [1], think="notes:2")
    model = load_tiny("group").model
    with pytest.raises(UserError, match="give it a window"):
        Session(model, [1], think="notes:2", keep="window:16")
    with pytest.raises(UserError, match="take window:16"):
        Session(model, [1], think="notes:2:window=9", keep="recent:4")


def test_thoughts_off_are_no_thoughts(load_tiny):
    """And thoughts on change words, so that the tests above compare something."""
    loaded, said = load_tiny("group"), []
    stream = random_stream(loaded, SIZES)
    for think in (None, Notes(4)):
        session = ToldSession(loaded.model, stream.prompt, choose=Greedy(1.0, 20), think=think).tell(stream.answer)
        told_by(loaded.model, session, Paced(stream))
        said.append(torch.stack(session.seen_logits))
        assert (THOUGHT in session.cache.tokens) == (think is not None)
    change = (said[0] - said[1]).abs().amax(1)
    assert bool((change[:3] < 1e-5).all()) and bool((change[3:] > 1e-3).all()), "nothing was thought before step 0"
