"""The fused engine: promises P1 to P4 where the next step rides in the forwards of the words, in fp32 on the CPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.batch import Batch, Ended
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import Feed, Request, Wait, answer_to, drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask
from swwatch.engine.trace import Spoken, Watched
from swwatch.errors import UserError
from swwatch.model.vision_tower import VideoFeatures
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from swwatch.rules.visibility import SAID
from tests.helpers.streams import Paced, ToldSession, fed_positions, full_forward, plain, random_stream, spoken_by

PARALLEL = speaking(Speaks.PARALLEL)
SIZES = [(2, 3)] * 5

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=12)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
# all at once, as they come, slower than anything is said
paces = st.one_of(st.just([0] * 12), st.lists(st.integers(0, 5), min_size=12, max_size=12), st.just([9] * 12))
asked = st.dictionaries(st.integers(0, 11), st.lists(st.integers(0, 199), min_size=1, max_size=5), max_size=2)


class ToldFused(FusedSession):
    """Says what it is told, and keeps the logits."""

    tell, _choose = ToldSession.tell, ToldSession._choose


def feeds_of(model, session, source) -> list[tuple[int, int]]:
    """How many watched and how many said rows each feed of a run had, the prompt's left out."""
    run, answer, feeds = session.run(source), None, []
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return feeds[1:]
        answer = answer_to(model, event) if isinstance(event, Request) else None
        if isinstance(event, Feed):
            said = int((event.rows.stream == SAID).sum())
            assert event.predicts is None if not said else bool(event.rows[event.predicts].stream == SAID)
            feeds.append((len(event.rows) - said, said))


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, paces, asked, st.booleans(), st.sampled_from([1.0, 1.15]), st.booleans(), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_p2_fused_says_what_serial_says(load_tiny, variant, sizes, schedule, gaps, asked, late, penalty, early, seed):
    """And feeds the same tokens, once (P4), with questions in mid-stream and answers that end and begin again."""
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), sizes, 1 + seed % 8, 0, seed)
    orders = {step: [Ask(tuple(ids), "?")] for step, ids in asked.items()}
    options = {"schedule": schedule, "choose": Greedy(max_new_tokens=1 + seed, penalty=penalty, stop_early=early)}
    serial, fused = (kind(model, stream.prompt, **options) for kind in (Session, FusedSession))
    ours = spoken_by(model, fused, Paced(stream, gaps, orders, late))
    assert ours == spoken_by(model, serial, Paced(stream, None, orders, late))
    assert fused.cache.num_fed == serial.cache.num_fed and fed_positions(fused) == fed_positions(serial)
    assert fused.num_fused == 0 or len(sizes) + late > 1


@pytest.mark.parametrize("variant", PARALLEL)
@given(sizes, schedules, paces, st.integers(1, 40), st.booleans(), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_p1_fused_equals_training(load_tiny, variant, sizes, schedule, gaps, answer_len, late, seed):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, 1 + seed % 8, answer_len, seed)
    theirs, tokens = full_forward(loaded, stream, schedule, late)
    session = ToldFused(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=answer_len))
    spoken_by(loaded.model, session.tell(stream.answer), Paced(stream, gaps, None, late))
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)
    n = session.cache.num_fed
    assert n in (len(tokens) - 1, len(tokens)), "all but the last word, where nothing follows it"


def test_a_step_is_split_evenly_over_the_words_before_it(load_tiny):
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), [(2, 4)] * 3, answer_len=0)
    suffix, header = len(model.markup.suffix), len(model.markup.header)
    session = FusedSession(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 8))
    feeds = feeds_of(model, session, Paced(stream))
    assert feeds[:4] == [(8, 0), (3, header), (3, 1), (2, 1)], "the first step alone, the second with its words"
    assert feeds[4:7] == [(4, 1), (4, 1), (suffix, 1)], "the last one brings the suffix"
    assert all(watched == 0 for watched, _ in feeds[7:]) and session.num_fused == 6
    # a step that comes in the middle of the words rides with what is left of them, one that is late goes alone
    late = FusedSession(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 8))
    assert feeds_of(model, late, Paced(stream, [0, 1, 9]))[:6] == [(8, 0), (0, header), (4, 1), (4, 1), (0, 1), (0, 1)]
    assert feeds_of(model, FusedSession(model, stream.prompt), Paced(stream, [0, 1, 9]))[7] == (8 + suffix, 0)


class Slow(VideoFeatures):
    """A vision tower that is through when it was asked so many times."""

    asked, after = 0, 2

    @property
    def ready(self) -> bool:
        Slow.asked += 1
        return Slow.asked > self.after


def test_words_go_on_while_the_vision_tower_works_beside_them(load_tiny, monkeypatch):
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), [(2, 4)] * 3, answer_len=0)
    options = {"schedule": WaitK(3), "choose": Greedy(1.0, 8)}
    serial = spoken_by(model, Session(model, stream.prompt, **options), Paced(stream))

    def begin_watching(pixel_values, grid_thw):
        Slow.asked = 0
        return Slow(model.watch_video(pixel_values, grid_thw))

    monkeypatch.setattr(model, "begin_watching", begin_watching)
    first = (0, len(model.markup.header))
    for after, feeds in (
        (1, [first, (4, 1), (4, 1)]),
        (2, [first, (0, 1), (8, 1)]),
        (9, [first, (0, 1), (0, 1), (8, 0)]),  # at the end of the words it is waited for
    ):
        monkeypatch.setattr(Slow, "after", after)
        assert feeds_of(model, FusedSession(model, stream.prompt, **options), Paced(stream))[1:][: len(feeds)] == feeds
        assert spoken_by(model, FusedSession(model, stream.prompt, **options), Paced(stream)) == serial


def test_without_words_the_next_steps_are_watched_alone(load_tiny):
    """A schedule that is silent, and an answer that is over: nothing waits for words that will not come."""
    model = load_tiny("gap").model
    stream = random_stream(load_tiny("gap"), SIZES, answer_len=0)
    session = FusedSession(model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=2))
    feeds = feeds_of(model, session, Paced(stream))
    assert feeds[0] == (6, 0) and feeds[1:3] == [(3, 3), (3, 1)]
    assert feeds[3:] == [(6, 0), (6, 0), (6 + len(model.markup.suffix), 0)]


@pytest.mark.parametrize("variant", PARALLEL)
def test_p3_no_peeking_while_the_next_frame_rides_along(load_tiny, variant):
    loaded = load_tiny(variant)
    before, after = random_stream(loaded, SIZES), random_stream(loaded, SIZES)
    after.pixels[3] = after.pixels[3] + 1.0
    seen = []
    for stream in (before, after):
        session = ToldFused(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20)).tell(
            stream.answer
        )
        seen.append((spoken_by(loaded.model, session, Paced(stream)), torch.stack(session.seen_logits)))
        assert session.num_fused == 12
    early = [i for i, (_, _, newest, _) in enumerate(seen[0][0]) if newest < 3]
    assert len(early) == 9 and torch.equal(seen[0][1][early], seen[1][1][early])
    assert (seen[0][1] != seen[1][1]).any(dim=1).sum() == 20 - 9


@pytest.mark.parametrize("wrong", ["mask", "positions", "order"])
def test_a_wrong_mask_position_or_order_would_be_noticed(load_tiny, monkeypatch, wrong):
    loaded = load_tiny("overlap")
    stream = random_stream(loaded, SIZES)
    theirs, _ = full_forward(loaded, stream, WaitK(3))

    def difference() -> float:
        session = ToldFused(loaded.model, stream.prompt, schedule=WaitK(3), choose=Greedy(max_new_tokens=20)).tell(
            stream.answer
        )
        spoken_by(loaded.model, session, Paced(stream))
        return float((torch.stack(session.seen_logits) - theirs).abs().max())

    assert difference() < 1e-4
    if wrong == "mask":  # words that see what rides along with them

        def take_pending(self, index):
            return FusedSession._take_words(self, index + (self.ahead is not None))

        monkeypatch.setattr(ToldFused, "_take_words", take_pending, raising=False)
    elif wrong == "positions":  # two steps ahead: the patch begins before it is known where

        def watch_ahead(self):
            new = FusedSession._watch_ahead(self)
            if new:
                self.ahead.rows.position_ids.add_(1)
            return new

        monkeypatch.setattr(ToldFused, "_watch_ahead", watch_ahead, raising=False)
    else:  # the second half of a patch before the first

        def look(self, incoming):
            yield from FusedSession._look(self, incoming)
            incoming.embeds = incoming.embeds.roll(1, 0)

        monkeypatch.setattr(ToldFused, "_look", look, raising=False)
    assert difference() > 1e-2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", PARALLEL)
def test_fused_sessions_say_together_what_they_say_alone(load_tiny, variant, attention):
    loaded = load_tiny(variant, attention=attention)
    model, cases = loaded.model, [(WaitK(3), 0), (RandomK(3, seed=2), 2), (WaitK(1), 9), (RandomK(2, seed=9), 1)]

    def case(i: int):
        schedule, gap = cases[i]
        stream = random_stream(loaded, [(1 + i % 3, 2)] * (2 + 2 * i), prompt_len=3 + i, seed=i)
        session = FusedSession(model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=8 + 5 * i))
        return session, Paced(stream, [gap] * len(stream.pixels))

    alone = [spoken_by(model, *case(i)) for i in range(len(cases))]
    batch, said = Batch(model), {i: [] for i in range(len(cases))}
    events = []
    for i in range(len(cases)):
        session, source = case(i)
        events += batch.add(i, session.run(source))
    while len(batch):
        events += batch.advance()
    assert all(event == Ended() for _, event in events if isinstance(event, Ended))
    for i, event in events:
        said[i].append(event)
    assert [plain(said[i]) for i in said] == alone
    assert len({token for run in alone for _, token, *_ in run}) > 5, "all alike would prove nothing"


def test_a_step_is_told_as_watched_once_before_any_word_that_sees_it(load_tiny):
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), SIZES, answer_len=0)
    for kind in (Session, FusedSession):
        events = list(drive(model, kind(model, stream.prompt).run(Paced(stream, late_end=True))))
        watched = [event for event in events if isinstance(event, Watched)]
        assert [(w.step, w.arrival_s) for w in watched] == [(i, i + 0.5) for i in range(5)]
        newest = -1
        for event in events:
            if isinstance(event, Watched):
                assert event.step == newest + 1
                newest = event.step
            elif isinstance(event, Spoken):
                assert event.newest_visible_step <= newest <= event.newest_visible_step + (kind is FusedSession)


def test_it_never_looks_further_ahead_than_one_step_nor_waits_while_it_has_words(load_tiny):
    model = load_tiny("overlap").model
    stream = random_stream(load_tiny("overlap"), SIZES, answer_len=0)
    source, session = Paced(stream), FusedSession(model, stream.prompt, choose=Greedy(max_new_tokens=20))
    for event in drive(model, session.run(source)):
        if isinstance(event, Spoken):
            assert source.taken <= event.step + 2
    waits = sum(isinstance(event, Wait) for event in _requests(model, stream))
    assert waits == 0, "all steps were there"


def _requests(model, stream):
    run, answer = FusedSession(model, stream.prompt, choose=Greedy(max_new_tokens=20)).run(Paced(stream)), None
    while True:
        try:
            event = run.send(answer)
        except StopIteration:
            return
        yield event
        answer = answer_to(model, event) if isinstance(event, Request) else None


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - set(PARALLEL)))
def test_variants_that_cannot_watch_while_they_speak_are_refused(load_tiny, variant):
    with pytest.raises(UserError, match="Take the engine 'serial'"):
        FusedSession(load_tiny(variant).model, [1, 2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("variant", PARALLEL)
def test_on_cuda_fused_says_what_serial_says_in_float32(load_tiny, variant):
    loaded = load_tiny(variant)
    stream = random_stream(loaded, SIZES, answer_len=0)
    loaded.model.to("cuda")
    try:
        for gaps in ([0] * 5, [0, 1, 2, 0, 9]):
            serial, fused = (
                kind(loaded.model, stream.prompt, choose=Greedy(max_new_tokens=24)) for kind in (Session, FusedSession)
            )
            assert spoken_by(loaded.model, fused, Paced(stream, gaps)) == spoken_by(
                loaded.model, serial, Paced(stream)
            )
            assert fused.num_fused
        session, at_s = FusedSession(loaded.model, stream.prompt), {}
        for event in drive(loaded.model, session.run(Paced(stream))):
            if isinstance(event, Watched):
                at_s[event.step] = event.t_s
            elif isinstance(event, Spoken):
                assert at_s[event.newest_visible_step] <= event.t_emit_s
        assert list(at_s) == list(range(5)) and list(at_s.values()) == sorted(at_s.values())
    finally:
        loaded.model.to("cpu")
