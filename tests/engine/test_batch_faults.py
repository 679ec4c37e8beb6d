"""What goes wrong in one session of a batch is that session's own affair, and one that waits keeps nobody."""

import gc
import threading
import weakref

import pytest

from swwatch.engine.batch import Batch, Ended, OutOfMemory
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import Wait, drive
from swwatch.engine.session import Session
from swwatch.engine.source import Step
from swwatch.errors import UserError
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Window
from tests.engine.test_batch import plain, together, whole
from tests.helpers.faults import failing, out_of_memory
from tests.helpers.feeds import Arrived, small
from tests.helpers.serial import SerialSession
from tests.helpers.streams import play, random_stream


def four(loaded, answer_len=14):
    streams = [random_stream(loaded, [(1 + i % 2, 2)] * (2 + i), seed=i) for i in range(4)]
    decoding = {"choose": Greedy(max_new_tokens=answer_len)}
    alone = [plain(play(SerialSession(loaded.model, s.prompt, **decoding), s)) for s in streams]
    return streams, [Session(loaded.model, s.prompt, **decoding) for s in streams], alone


@pytest.mark.parametrize("variant", ["group", "overlap", "interleave", "origin"])
def test_the_session_that_runs_out_of_memory_ends_and_the_others_never_notice(load_tiny, variant):
    loaded = load_tiny(variant)
    streams, sessions, alone = four(loaded)
    victim = sessions[2].cache
    fed = []  # the third forward of the victim is one too many

    def fails(caches):
        fed.append(any(cache is victim for cache in caches))
        return fed[-1] and victim.num_fed > 8

    with failing(loaded.model, fails):
        ended = together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=4)
    assert isinstance(ended[2][1].error, OutOfMemory) and isinstance(ended[2][1].error, UserError)
    assert "lower the pixel budget" in str(ended[2][1].error) and "2 GiB" in str(ended[2][1].error)
    assert plain(ended[2][0]) == alone[2][: len(ended[2][0])] != alone[2]
    assert [(plain(ended[i][0]), ended[i][1]) for i in (0, 1, 3)] == [(alone[i], Ended()) for i in (0, 1, 3)]


def test_its_memory_is_free_before_the_others_are_tried_again(load_tiny):
    loaded = load_tiny("gap")
    streams, sessions, alone = four(loaded)
    victim = weakref.ref(sessions[0].cache)
    runs = [whole(*pair) for pair in zip(sessions, streams, strict=True)]
    batch = Batch(loaded.model)
    for key, run in enumerate(runs):
        batch.add(key, run)
    del sessions, runs, run
    seen = []
    gc.disable()
    try:
        with failing(loaded.model, lambda caches: seen.append(victim() is not None) or seen[-1]):
            events = batch.advance() + batch.advance()
        assert [key for key, event in events if isinstance(event, Ended)] == [0]
        assert seen[:3] == [True] * 3 and not any(seen[3:])  # four, two and one with it, then never again
    finally:
        gc.enable()


def test_what_does_not_fit_together_goes_on_in_parts(load_tiny):
    loaded = load_tiny("group")
    streams, sessions, alone = four(loaded)
    sizes = []
    with failing(loaded.model, lambda caches: sizes.append(len(caches)) or len(caches) > 2):
        ended = together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=4)
    assert [(plain(ended[i][0]), ended[i][1]) for i in range(4)] == [(said, Ended()) for said in alone]
    assert sizes.count(4) == 1, "it is not tried again and again"


@pytest.mark.parametrize("kind", [Session, FusedSession])
@pytest.mark.parametrize("variant", ["group", "overlap"])
def test_streams_without_end_that_do_not_fit_together_say_what_each_says_alone(load_tiny, variant, kind):
    """Feeds are undone in the midst of forgetting: of what was evicted and re-numbered nothing comes back."""
    loaded, window = load_tiny(variant), Window(vision_s=2, text_sink=1, text_window=3)
    streams = [random_stream(loaded, [(1 + i % 2, 2)] * 7, seed=i) for i in range(3)]
    options = {"choose": Greedy(max_new_tokens=16), "keep": window}

    def open_run(stream):
        steps = [Step(p, g, 0.0, i == 6) for i, (p, g) in enumerate(zip(stream.pixels, stream.grids, strict=True))]
        return kind(loaded.model, stream.prompt, **options).run(Arrived(steps))

    alone = [plain(drive(loaded.model, open_run(stream))) for stream in streams]
    tried = []

    def fails(caches):
        tried.append(len(caches))
        return len(caches) > 1 and len(tried) % 3 == 0

    with failing(loaded.model, fails):
        ended = together(loaded.model, [open_run(stream) for stream in streams], at_once=3)
    assert len(tried) > 20 and [(plain(ended[i][0]), ended[i][1]) for i in range(3)] == [(x, Ended()) for x in alone]


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_on_the_fast_path_what_does_not_fit_together_goes_on_in_parts(load_tiny, monkeypatch, kind):
    """Rows have their slots, and some are written, when the forward fails."""
    loaded = load_tiny("group")
    streams = [random_stream(loaded, [(2, 2)] * 3, seed=i) for i in range(3)]
    alone = [plain(play(SerialSession(loaded.model, s.prompt, choose=Greedy(max_new_tokens=9)), s)) for s in streams]
    fast, tried = small(loaded.model, seats=3), []
    step_many = fast.step_many

    def short_of_memory(caches, *rest):
        logits = step_many(caches, *rest)
        tried.append(len(caches))
        if len(caches) > 1 and len(tried) % 2:
            raise out_of_memory()
        return logits

    monkeypatch.setattr(fast, "step_many", short_of_memory)
    runs = [
        kind(fast, s.prompt, choose=Greedy(max_new_tokens=9)).run(
            Arrived([Step(p, g, i + 0.5, i == 2) for i, (p, g) in enumerate(zip(s.pixels, s.grids, strict=True))])
        )
        for s in streams
    ]
    ended = together(fast, runs, at_once=3)
    assert len(tried) > 9 and [(plain(ended[i][0]), ended[i][1]) for i in range(3)] == [(x, Ended()) for x in alone]


def test_any_other_failure_of_the_model_is_told_as_it_is(load_tiny, monkeypatch):
    loaded = load_tiny("group")
    streams, sessions, alone = four(loaded)
    victim = sessions[1].cache
    with failing(loaded.model, lambda caches: victim in caches, lambda: RuntimeError("device-side assert")):
        ended = together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=4)
    assert isinstance(ended[1][1].error, RuntimeError) and str(ended[1][1].error) == "device-side assert"
    assert [plain(ended[i][0]) for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]


def test_a_failing_vision_tower_ends_the_session_whose_picture_it_was(load_tiny):
    loaded = load_tiny("group")
    streams, sessions, alone = four(loaded)
    streams[3].pixels[1] = streams[3].pixels[1][:-3]  # fewer patches than its grid tells
    ended = together(loaded.model, [whole(*pair) for pair in zip(sessions, streams, strict=True)], at_once=4)
    assert isinstance(ended[3][1].error, Exception) and plain(ended[3][0]) == alone[3][:3]
    assert [plain(ended[i][0]) for i in range(3)] == alone[:3]


def test_a_removed_session_is_gone_at_once_and_the_others_go_on(load_tiny):
    loaded = load_tiny("overlap")
    streams, sessions, alone = four(loaded)
    caches = [weakref.ref(session.cache) for session in sessions]
    batch, said = Batch(loaded.model), {}
    for key, pair in enumerate(zip(sessions, streams, strict=True)):
        batch.add(key, whole(*pair))
    del sessions, pair

    def advance(rounds):
        for key, event in (event for _ in range(rounds) for event in batch.advance()):
            said.setdefault(key, []).append(event)

    gc.disable()
    try:
        advance(4)
        batch.remove(1)
        assert caches[1]() is None and all(caches[i]() is not None for i in (0, 2, 3))
    finally:
        gc.enable()
    with pytest.raises(KeyError):
        batch.remove(1)
    advance(60)
    assert not len(batch) and [plain(said[i][:-1]) for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]


def test_a_run_that_is_held_stays_where_it_is(load_tiny):
    loaded = load_tiny("group")
    streams, sessions, alone = four(loaded)
    batch, said = Batch(loaded.model), {i: [] for i in range(4)}
    for key, pair in enumerate(zip(sessions, streams, strict=True)):
        batch.add(key, whole(*pair))
    for turn in range(80):
        for key, event in batch.advance(held={2} if turn < 40 else ()):
            said[key].append(event)
        if turn == 39:
            assert not said[2] and len(batch) == 1 and batch.is_idle({2}) and not batch.is_idle()
    assert [plain(said[i][:-1]) for i in range(4)] == alone


class Door:
    """A source that has nothing until it is opened; it counts how often it is asked."""

    def __init__(self):
        self.asked, self.opened = 0, False

    def wait(self, timeout_s=None):
        assert timeout_s == 0, "nobody may be kept"

    def pass_through(self):
        self.asked += 1
        while not self.opened:
            yield Wait(self)
            self.asked += 1
        yield "through"


def test_one_that_waits_is_polled_every_round_and_keeps_nobody(load_tiny):
    loaded = load_tiny("group")
    streams, sessions, alone = four(loaded)
    batch, door, said = Batch(loaded.model), Door(), []
    assert batch.add("door", door.pass_through()) == [] and batch.is_idle()
    batch.add("talker", whole(sessions[0], streams[0]))
    assert not batch.is_idle()
    rounds = 0
    while len(batch) > 1:
        said += [event for _, event in batch.advance()]
        rounds += 1
    assert plain(said[:-1]) == alone[0] and door.asked == 1 + rounds
    door.opened = True
    assert batch.advance() == [("door", "through"), ("door", Ended())]


def test_whoever_has_something_new_ends_the_sleep():
    batch, door = Batch(None), Door()
    batch.add("door", door.pass_through())
    batch.advance()

    def open_it():
        door.opened = True
        batch.wake()

    opener = threading.Thread(target=open_it)
    opener.start()
    batch.wait(60)
    assert door.opened
    opener.join()
    assert batch.advance()[-1] == ("door", Ended())


def test_news_are_never_lost_and_told_once():
    batch = Batch(None)
    batch.wake()
    batch.advance()
    batch.wake()
    batch.wait()  # would never end
    asleep = threading.Thread(target=batch.wait, args=(60,))
    asleep.start()
    asleep.join(0.05)
    assert asleep.is_alive(), "what was news before is none any more"
    batch.wake()
    asleep.join()
