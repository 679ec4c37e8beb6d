"""A session beside a watcher that fails, is closed, or is no longer wanted: the others go on, memory comes back."""

import gc
import weakref

import pytest

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.beside import StreamsSession
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask, Order
from swwatch.engine.trace import Asked, Spoken, Watched
from swwatch.engine.watcher import ThreadWatcher, WatcherError
from swwatch.policies.choose import Greedy
from tests.engine.test_orders import LateOrders, listen
from tests.helpers.streams import Paced, plain, random_stream, spoken_by
from tests.helpers.watcher_work import Hesitant

SIZES = [(2, 3)] * 5
SHORT = {"choose": Greedy(max_new_tokens=30)}


def test_an_exception_in_the_watcher_ends_the_session_it_belongs_to(load_tiny):
    loaded = load_tiny("group")
    streams = [random_stream(loaded, SIZES, answer_len=0, seed=seed) for seed in range(2)]
    alone = [spoken_by(loaded.model, Session(loaded.model, s.prompt, **SHORT), Paced(s)) for s in streams]
    batch, model = Batch(loaded.model), Hesitant(loaded.model)
    model.failing = streams[1].pixels[2]
    with ThreadWatcher(model) as watcher:
        events = []
        for i, stream in enumerate(streams):
            session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, **SHORT)
            events += batch.add(i, session.run(Paced(stream)))
        while len(batch):
            events += batch.advance()
    ends = {i: event.error for i, event in events if isinstance(event, Ended)}
    said = [plain(event for key, event in events if key == i) for i in range(2)]
    assert ends[0] is None and said[0] == alone[0]
    assert isinstance(ends[1], ArithmeticError) and said[1] == alone[1][:6], "the words before it have been said"


def test_a_closed_watcher_ends_its_sessions_with_a_clear_error(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    watcher = ThreadWatcher(loaded.model)
    run = drive(loaded.model, StreamsSession(loaded.model, stream.prompt, watcher=watcher, **SHORT).run(Paced(stream)))
    while not isinstance(next(run), Spoken):
        pass
    watcher.close()
    with pytest.raises(WatcherError, match="open a new one"):
        list(run)


@pytest.mark.parametrize("order", [Ask((7, 8, 9), "and?"), Order.PAUSE, Order.STOP])
@pytest.mark.parametrize("num_said", [1, 4, 5])
def test_orders_in_mid_sentence_do_what_they_do_in_the_fused_engine(load_tiny, order, num_said):
    """The next step is with the watcher by then, and is taken in, waited for, or dropped."""
    loaded, told = load_tiny("overlap"), []
    stream = random_stream(loaded, SIZES, answer_len=0)
    with ThreadWatcher(Hesitant(loaded.model)) as watcher:
        for kind, options in ((FusedSession, SHORT), (StreamsSession, SHORT | {"watcher": watcher})):
            session = kind(loaded.model, stream.prompt, **options)
            events = listen(loaded.model, session, LateOrders(stream, None, {num_said: [order]}))
            asked = [(event.step, event.text) for event in events if isinstance(event, Asked)]
            told.append((plain(events), asked, [e.step for e in events if isinstance(e, Watched)]))
        watcher._executor.submit(lambda: None).result()
        assert watcher._worker._caches == {}
    assert told[0] == told[1] and (len(told[1][0]) == num_said) == isinstance(order, Order)


@pytest.mark.parametrize("how", ["to its end", "dropped half-way", "stopped"])
def test_memory_is_returned_on_both_sides_when_a_session_ends(load_tiny, monkeypatch, how):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    caches, new_cache = weakref.WeakSet(), loaded.model.new_cache

    def noted(*how):
        cache = new_cache(*how)
        caches.add(cache)
        return cache

    monkeypatch.setattr(loaded.model, "new_cache", noted)
    orders = {2: [Order.STOP]} if how == "stopped" else {}
    gc.disable()  # at once, not when the collector comes round
    try:
        with ThreadWatcher(loaded.model) as watcher:
            session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, **SHORT)
            run = session.run(Paced(stream, None, orders))
            for event in drive(loaded.model, run):
                if how == "dropped half-way" and isinstance(event, Spoken):
                    break
            assert len(caches) >= 1
            run.close()
            del session, run
            other = StreamsSession(
                loaded.model, stream.prompt, watcher=watcher, **SHORT
            )  # its prompt comes after all that
            list(drive(loaded.model, other.begin()))
            other._tickets[0][1].take()
            assert len(caches) == 2, "the other one's, on both sides"
    finally:
        gc.enable()


def test_the_watcher_is_done_with_a_session_when_its_last_step_is_in(load_tiny):
    loaded = load_tiny("group")
    stream = random_stream(loaded, SIZES, answer_len=0)
    with ThreadWatcher(loaded.model) as watcher:
        session = StreamsSession(loaded.model, stream.prompt, watcher=watcher, **SHORT)
        for event in drive(loaded.model, session.run(Paced(stream))):
            if isinstance(event, Spoken) and event.step == len(SIZES) - 1:
                break
        watcher._executor.submit(lambda: None).result()
        assert watcher._worker._caches == {}
