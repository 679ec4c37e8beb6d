"""Sessions beside a watcher in a thread: promises P1 to P4 whenever steps arrive and however long watching takes."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import BesideSession, StreamsSession
from swwatch.engine.choose import ENGINES, open_session, open_watcher
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask
from swwatch.engine.trace import Spoken, Watched
from swwatch.engine.watcher import ThreadWatcher
from swwatch.errors import UserError
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from tests.helpers.streams import Paced, ToldSession, fed_positions, full_forward, plain, random_stream, spoken_by
from tests.helpers.watcher_work import Hesitant

PARALLEL = speaking(Speaks.PARALLEL)
SIZES = [(2, 3)] * 5
SHORT = {"choose": Greedy(max_new_tokens=30)}

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=8)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
# all at once, as they come, slower than anything is said
paces = st.one_of(st.just([0] * 8), st.lists(st.integers(0, 5), min_size=8, max_size=8), st.just([9] * 8))
asked = st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 199), min_size=1, max_size=5), max_size=2)


class ToldBeside(StreamsSession):
    """Says what it is told, and keeps the logits."""

    tell, _choose = ToldSession.tell, ToldSession._choose


class Early(ToldBeside):
    """What must not be: it takes the keys and values of the next step while the words of this one are being said."""

    def _predict(self, rows, embeds, feeds_left):
        if self._watch_ahead():
            self._submit(self.ahead, self.ahead.rows, self.ahead.parts)
            result = self._tickets[0][1].take()
            result.rows.step.fill_(0)  # or the mask alone would keep the words from seeing it
            self.cache.receive(result.rows, result.keys_values)
        yield from ()
        return (yield from Session._predict(self, rows, embeds, feeds_left))


@pytest.fixture(scope="module", params=PARALLEL)
def world(request, load_tiny):
    """A model, and a hesitant watcher that all sessions of this module share."""
    loaded = load_tiny(request.param)
    with ThreadWatcher(Hesitant(loaded.model)) as watcher:
        yield loaded, watcher


@given(sizes, schedules, paces, asked, st.booleans(), st.sampled_from([1.0, 1.15]), st.booleans(), st.integers(0, 99))
@settings(max_examples=12)
def test_p2_it_says_what_serial_says(world, sizes, schedule, gaps, asked, late, penalty, early, seed):
    """And feeds the same tokens, once (P4), with questions in mid-stream and answers that end and begin again."""
    loaded, watcher = world
    model = loaded.model
    stream = random_stream(loaded, sizes, 1 + seed % 8, 0, seed)
    orders = {step: [Ask(tuple(ids), "?")] for step, ids in asked.items()}
    options = {"schedule": schedule, "choose": Greedy(max_new_tokens=1 + seed, penalty=penalty, stop_early=early)}
    serial = Session(model, stream.prompt, **options)
    beside = StreamsSession(model, stream.prompt, watcher=watcher, **options)
    theirs = spoken_by(model, serial, Paced(stream, None, orders, late))
    assert spoken_by(model, beside, Paced(stream, gaps, orders, late)) == theirs
    assert beside.cache.num_fed == serial.cache.num_fed and fed_positions(beside) == fed_positions(serial)
    assert len(beside.watch_seconds) == len(sizes) + late


@given(sizes, schedules, paces, st.integers(1, 30), st.booleans(), st.integers(0, 99))
@settings(max_examples=8)
def test_p1_it_equals_training(world, sizes, schedule, gaps, answer_len, late, seed):
    loaded, watcher = world
    stream = random_stream(loaded, sizes, 1 + seed % 8, answer_len, seed)
    theirs, _ = full_forward(loaded, stream, schedule, late)
    options = {"schedule": schedule, "choose": Greedy(max_new_tokens=answer_len), "watcher": watcher}
    session = ToldBeside(loaded.model, stream.prompt, **options).tell(stream.answer)
    spoken_by(loaded.model, session, Paced(stream, gaps, None, late))
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)


def told_logits(kind, loaded, stream, **options) -> torch.Tensor:
    session = kind(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20), **options)
    spoken_by(loaded.model, session.tell(stream.answer), Paced(stream))
    return torch.stack(session.seen_logits)


def test_on_one_cpu_logits_are_those_of_serial_bit_for_bit(world):
    loaded, watcher = world
    stream = random_stream(loaded, SIZES)
    assert torch.equal(
        told_logits(ToldBeside, loaded, stream, watcher=watcher), told_logits(ToldSession, loaded, stream)
    )


def test_taking_keys_and_values_too_early_would_be_noticed(world):
    loaded, watcher = world
    stream = random_stream(loaded, SIZES)
    theirs = told_logits(ToldSession, loaded, stream)
    session = Early(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20), watcher=watcher)
    session.tell(stream.answer)
    seen = []
    with pytest.raises(ValueError, match="next watched token is number"):  # at the boundary: it is there already
        for event in drive(loaded.model, session.run(Paced(stream))):
            seen.append(event)
    assert sum(isinstance(event, Spoken) for event in seen) == 3
    assert float((torch.stack(session.seen_logits) - theirs[:3]).abs().max()) > 1e-2


def test_without_waiting_for_the_watcher_it_would_be_noticed(world, monkeypatch):
    """A session that does not join speaks from a cache without the step."""
    loaded, watcher = world
    stream = random_stream(loaded, SIZES)
    theirs = told_logits(ToldSession, loaded, stream)

    def never(self, incoming):
        yield from self._tell_watched(incoming.index, incoming.step)

    monkeypatch.setattr(ToldBeside, "_bring_in", never, raising=False)
    assert float((told_logits(ToldBeside, loaded, stream, watcher=watcher) - theirs).abs().max()) > 1e-2


def test_p3_no_peeking_while_the_next_frame_is_watched(world):
    loaded, watcher = world
    before, after = random_stream(loaded, SIZES), random_stream(loaded, SIZES)
    after.pixels[3] = after.pixels[3] + 1.0
    first, second = (told_logits(ToldBeside, loaded, stream, watcher=watcher) for stream in (before, after))
    assert torch.equal(first[:9], second[:9])
    assert bool((first[9:] != second[9:]).any(dim=1).all())


def test_the_next_step_is_handed_over_before_the_words_and_never_two_steps_ahead(load_tiny):
    loaded = load_tiny("overlap")
    stream, log = random_stream(loaded, SIZES, answer_len=0), []
    with ThreadWatcher(loaded.model) as watcher:
        submit = watcher.submit
        watcher.submit = lambda key, work: log.append("submit") or submit(key, work)
        session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, choose=Greedy(1.0, 15))
        source = Paced(stream)
        for event in drive(loaded.model, session.run(source)):
            log.append(event)
            if isinstance(event, Spoken):
                assert source.taken <= event.step + 2
    for i in range(len(SIZES) - 1):
        place = next(j for j, e in enumerate(log) if isinstance(e, Watched) and e.step == i)
        assert log[place + 1] == "submit", "the next step is under way before the first word of this one"
    assert session.num_beside == len(SIZES) - 1 and log.count("submit") == len(SIZES) + 1


def test_if_nothing_arrives_it_simply_speaks(load_tiny):
    loaded = load_tiny("gap")
    stream = random_stream(loaded, SIZES, answer_len=0)
    with ThreadWatcher(loaded.model) as watcher:
        session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, choose=Greedy(1.0, 15))
        spoken_by(loaded.model, session, Paced(stream, [20] * 5))
    assert session.num_beside == 0


@pytest.mark.parametrize("shared", [True, False], ids=["one watcher", "a watcher each"])
def test_sessions_in_a_batch_say_together_what_they_say_alone(load_tiny, shared):
    """Each waits for its own tickets, and nobody for another's."""
    loaded = load_tiny("group")
    model, cases = loaded.model, [(WaitK(3), 0), (RandomK(3, seed=2), 2), (WaitK(1), 9), (RandomK(2, seed=9), 1)]
    streams = [random_stream(loaded, [(1 + i % 3, 2)] * (2 + 2 * i), prompt_len=3 + i, seed=i) for i in range(4)]
    options = [
        {"schedule": schedule, "choose": Greedy(max_new_tokens=8 + 5 * i)} for i, (schedule, _) in enumerate(cases)
    ]
    alone = [
        spoken_by(model, Session(model, stream.prompt, **option), Paced(stream))
        for stream, option in zip(streams, options, strict=True)
    ]
    watchers = [ThreadWatcher(Hesitant(model, i)) for i in range(1 if shared else 4)]
    batch, said = Batch(model), {i: [] for i in range(4)}
    for watcher in watchers:
        watcher.listen(batch.wake)
    try:
        events = []
        for i, (stream, option) in enumerate(zip(streams, options, strict=True)):
            session = StreamsSession(model, stream.prompt, watcher=watchers[i % len(watchers)], **option)
            events += batch.add(i, session.run(Paced(stream, [cases[i][1]] * len(stream.pixels))))
        while len(batch):
            events += batch.advance()
            if batch.is_idle() and not events:
                batch.wait()
    finally:
        for watcher in watchers:
            watcher.close()
    for i, event in events:
        if isinstance(event, Ended):
            assert event == Ended()
        else:
            said[i].append(event)
    assert [plain(said[i]) for i in said] == alone


def test_whoever_drives_many_is_woken_when_a_ticket_is_ready(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    batch = Batch(loaded.model)
    with ThreadWatcher(Hesitant(loaded.model, most_s=0.02)) as watcher:
        watcher.listen(batch.wake)
        session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, choose=Greedy(max_new_tokens=15))
        events = batch.add(0, session.run(Paced(stream)))
        while len(batch):
            events += batch.advance()
            if len(batch) and batch.is_idle():
                batch.wait(30)  # without the call this test takes minutes
    assert events[-1] == (0, Ended())


def test_steps_may_also_be_pushed(load_tiny):
    """`begin`, `watch` and `close` for those who have the steps in hand."""
    loaded = load_tiny("overlap")
    model, stream = loaded.model, random_stream(loaded, SIZES, answer_len=0)
    said = []
    with ThreadWatcher(model) as watcher:
        session = StreamsSession(model, stream.prompt, watcher=watcher, **SHORT)
        said += drive(model, session.begin())
        for i in range(len(SIZES)):
            said += drive(model, session.watch(stream.pixels[i], stream.grids[i], i + 0.5))
        said += drive(model, session.close())
    assert plain(said) == spoken_by(model, Session(model, stream.prompt, **SHORT), Paced(stream, late_end=True))


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - set(PARALLEL)))
def test_variants_that_cannot_watch_while_they_speak_are_refused(load_tiny, variant):
    with (
        ThreadWatcher(load_tiny(variant).model) as watcher,
        pytest.raises(UserError, match="Take the engine 'serial'"),
    ):
        StreamsSession(load_tiny(variant).model, [1, 2], watcher=watcher)


def test_the_table_of_engines_opens_it(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    with open_watcher("streams", loaded.model) as watcher:
        session = open_session("streams", loaded.model, stream.prompt, watcher=watcher, **SHORT)
        assert isinstance(session, StreamsSession) and isinstance(watcher, ThreadWatcher)
        ours = spoken_by(loaded.model, session, Paced(stream))
    assert ours == spoken_by(loaded.model, Session(loaded.model, stream.prompt, **SHORT), Paced(stream))
    assert {name for name, row in ENGINES.items() if issubclass(row.session, BesideSession)} == {
        "streams",
        "two_device",
    }


def test_beside_a_fast_model_the_watcher_has_another_one(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    fast = CudaGraphModel(loaded.model, 100, 60, seats=2, first_length=32)
    with ThreadWatcher(fast) as watcher:
        assert watcher._worker.model is not fast
        ours = spoken_by(fast, StreamsSession(fast, stream.prompt, watcher=watcher, **SHORT), Paced(stream))
    assert ours == spoken_by(loaded.model, Session(loaded.model, stream.prompt, **SHORT), Paced(stream))


def test_many_sessions_in_threads_of_their_own_share_a_watcher_and_a_model(load_tiny):
    loaded = load_tiny("overlap")
    streams = [random_stream(loaded, SIZES, answer_len=0, seed=seed) for seed in range(4)]
    said = {}
    with ThreadWatcher(Hesitant(loaded.model, most_s=0.001)) as watcher:

        def speak(i: int) -> None:
            session = StreamsSession(loaded.model, streams[i].prompt, watcher=watcher, **SHORT)
            said[i] = spoken_by(loaded.model, session, Paced(streams[i], [i] * 5))

        threads = [threading.Thread(target=speak, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, stream in enumerate(streams):
        assert said[i] == spoken_by(loaded.model, Session(loaded.model, stream.prompt, **SHORT), Paced(stream))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast path"])
@pytest.mark.parametrize("variant", PARALLEL)
def test_on_cuda_it_says_what_serial_says(load_tiny, variant, fast):
    loaded = load_tiny(variant)
    loaded.model.to("cuda")
    try:
        model = CudaGraphModel(loaded.model, 400, 100, seats=3) if fast else loaded.model
        for seed in range(10):
            stream = random_stream(loaded, [(3, 4)] * 12, answer_len=0, seed=seed)
            options = {"schedule": RandomK(3, seed), "choose": Greedy(max_new_tokens=60)}
            theirs = spoken_by(model, Session(model, stream.prompt, **options), Paced(stream))
            with ThreadWatcher(model) as watcher:
                session = StreamsSession(model, stream.prompt, watcher=watcher, **options)
                assert spoken_by(model, session, Paced(stream, [seed % 3] * 12)) == theirs
                assert all(second.prefill_s > 0 and second.vision_s > 0 for second in session.watch_seconds)
    finally:
        loaded.model.to("cpu")
