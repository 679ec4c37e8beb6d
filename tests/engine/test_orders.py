"""Questions in mid-stream, pause, resume and stop: what they do, and when."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask, Order
from swwatch.engine.trace import Asked, Spoken, Watched
from swwatch.policies.choose import Greedy
from swwatch.policies.speak import RandomK, WaitK
from swwatch.rules.layout import Kind
from swwatch.rules.variants import VARIANTS, Speaks, speaking
from swwatch.rules.visibility import SAID, WATCHED
from tests.helpers.serial import SerialSession
from tests.helpers.streams import Paced, ToldSession, full_forward, plain, play, random_stream, spoken_by

ALL = sorted(VARIANTS)
STREAMING = sorted(speaking(Speaks.ALTERNATING, Speaks.PARALLEL))
PARALLEL = sorted(speaking(Speaks.PARALLEL))
SIZES = [(2, 3)] * 5
QUESTION = (7, 8, 9, 10)

sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=8)
schedules = st.one_of(st.builds(WaitK, st.integers(1, 4)), st.builds(RandomK, st.integers(1, 3), st.integers(0, 99)))
asked = st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 199), min_size=1, max_size=5), max_size=3)


class LateOrders(Paced):
    """Tells its orders when so many tokens were said; `say` counts them."""

    num_said = 0

    def orders(self):
        return self.told.pop(self.num_said, [])


def listen(model, session, source) -> list:
    """All that a session tells, its words counted for the source."""
    events = []
    for event in drive(model, session.run(source)):
        events.append(event)
        source.num_said = sum(isinstance(e, Spoken) for e in events)
    return events


def steps_said(events) -> list[int]:
    return [event.step for event in events if isinstance(event, Spoken)]


@pytest.mark.parametrize("variant", ALL)
@given(sizes, schedules, asked, st.integers(1, 30), st.booleans(), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_streaming_with_questions_equals_one_forward(
    load_tiny, variant, sizes, schedule, asked, answer_len, late, seed
):
    """Streaming with questions equals one forward over the same layout, and each question is told at its step."""
    loaded = load_tiny(variant)
    stream = random_stream(loaded, sizes, 1 + seed % 8, answer_len, seed)
    asked = {step: ids for step, ids in sorted(asked.items()) if step < len(sizes) + late}
    theirs, _ = full_forward(loaded, stream, schedule, late, asked)
    # one word more than it is told: at the limit an answer would be over, and a question would begin another one
    session = ToldSession(loaded.model, stream.prompt, schedule=schedule, choose=Greedy(max_new_tokens=answer_len + 1))
    orders, events = {step: [Ask(tuple(ids), f"{step}?")] for step, ids in asked.items()}, []
    for event in drive(loaded.model, session.tell(stream.answer).run(Paced(stream, None, orders, late))):
        events.append(event)
        if len(steps_said(events)) == answer_len:
            break
    torch.testing.assert_close(torch.stack(session.seen_logits), theirs, atol=1e-4, rtol=0)
    took = [(event.step, event.text) for event in events if isinstance(event, Asked)]
    assert took == [(step, f"{step}?") for step in asked if step <= events[-1].step]


@pytest.mark.parametrize("variant", ALL)
def test_a_question_shifts_the_video_behind_it_and_is_seen_from_its_step_on(load_tiny, variant):
    """Positions and visibility in numbers: a prompt of 5, patches of 2 x 3, a question of 4 before the third."""
    loaded = load_tiny(variant)
    tokens = full_forward(loaded, random_stream(loaded, SIZES), WaitK(3), asks={2: list(QUESTION)})[1]
    asked = tokens.where(Kind.PROMPT) & (tokens.step == 2)
    patches = {step: tokens.position_ids[:, tokens.where(Kind.VIDEO) & (tokens.step == step)] for step in range(5)}
    at = tokens.position_ids[0, asked].tolist()
    first = {  # the question's first position: one past what the axis of the video has reached
        "interleave": 5 + 3 + 3 + 3 + 3 + 3,  # prompt, patch, header, words, patch, words
        "overlap": 5 + 3 + 6,  # where the third patch would have begun: behind the header and words of the first step
    }.get(variant, 5 + 2 + 3 - 2)  # the second patch ends at t = 7, h = 6, w = 7
    assert at == list(range(first, first + 4))
    assert patches[2][:, 0].tolist() == [at[-1] + 1] * 3
    if variant not in ("interleave", "overlap"):
        assert patches[4][:, 0].tolist() == [at[-1] + 1 + 2 * 2, at[-1] + 1, at[-1] + 1]
    text = tokens.where(Kind.HEADER) | tokens.where(Kind.ANSWER)
    sees = tokens.visible()[:, asked]
    if variant in PARALLEL:
        rows = text.nonzero()[:, 0]
        for row, following in zip(rows, rows[1:], strict=False):
            assert bool(sees[row].all()) == bool(sees[row].any()) == (int(tokens.step[following]) >= 2)
    assert bool(sees[tokens.where(Kind.VIDEO) & (tokens.step >= 2)].all())
    assert not sees[tokens.where(Kind.VIDEO) & (tokens.step < 2)].any()


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_a_question_in_mid_sentence_takes_effect_with_the_next_step_that_is_taken(load_tiny, kind):
    """After the fourth word, the first of step 1. Fused has begun to watch step 2 by then, so that it is step 3."""
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), SIZES, answer_len=0)
    options = {"schedule": WaitK(3), "choose": Greedy(1.0, 24)}
    without = listen(model, kind(model, stream.prompt, **options), LateOrders(stream))
    events = listen(
        model, kind(model, stream.prompt, **options), LateOrders(stream, None, {4: [Ask(QUESTION, "and?")]})
    )
    step = 3 if kind is FusedSession else 2
    (answers,) = [event for event in events if isinstance(event, Asked)]
    assert (answers.step, answers.text) == (step, "and?")
    ours, theirs = ([e.token_id for e in told if isinstance(e, Spoken)] for told in (events, without))
    assert ours[: 3 * step] == theirs[: 3 * step] and ours != theirs
    before = [event for event in events[: events.index(answers)] if isinstance(event, Spoken | Watched)]
    assert max(e.step for e in before if isinstance(e, Spoken)) == step - 1
    assert [e.step for e in before if isinstance(e, Watched)][-1] == step, "it is in with the video of its step"


@pytest.mark.parametrize("variant", STREAMING)
def test_an_answer_that_had_ended_begins_again_with_a_header_when_asked(load_tiny, variant):
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), SIZES, answer_len=0)
    options = {"schedule": WaitK(3), "choose": Greedy(1.0, 24, stop_early=True)}
    words, end = [20, 21, 22, 23, 24, 25], model.markup.im_end

    def session(question):
        told = ToldSession(model, stream.prompt, **options).tell([*words[:4], end, *words[4:6], end])
        events = list(drive(model, told.run(Paced(stream, None, {3: [Ask(QUESTION, "?")]} if question else None))))
        return told, events

    assert steps_said(session(question=False)[1]) == [0, 0, 0, 1, 1]
    told, events = session(question=True)
    assert steps_said(events) == [0, 0, 0, 1, 1, 3, 3, 3]
    said = told.cache.tokens[SAID if variant in PARALLEL else WATCHED]
    header = len(model.markup.header)
    kinds = [k for k in said.kind if k in ("header", "answer")]
    fed = 3 if variant == "interleave" else 2  # in one sequence the last word goes in before the next step
    assert kinds == ["header"] * header + ["answer"] * 5 + ["header"] * header + ["answer"] * fed
    assert said.step[said.where(Kind.HEADER)].tolist() == [0] * header + [3] * header


def test_an_answer_at_its_limit_begins_again_too_and_counts_anew(load_tiny):
    model = load_tiny("gap").model
    stream = random_stream(load_tiny("gap"), SIZES, answer_len=0)
    for kind in (Session, FusedSession):
        session = kind(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 4))
        events = listen(model, session, Paced(stream, None, {3: [Ask(QUESTION, "?")]}))
        assert steps_said(events) == [0, 0, 0, 1, 3, 3, 3, 4]


@pytest.mark.parametrize("variant", STREAMING)
def test_in_a_pause_steps_are_watched_and_nothing_is_said(load_tiny, variant):
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), SIZES, answer_len=0)
    options = {"schedule": WaitK(3), "choose": Greedy(1.0, 40)}
    for kind in (Session, FusedSession) if variant in PARALLEL else (Session,):
        source = LateOrders(stream, None, {4: [Order.PAUSE]})
        events = listen(model, kind(model, stream.prompt, **options), source)
        assert steps_said(events) == [0, 0, 0, 1], "the pause takes effect before the next word"
        assert [event.step for event in events if isinstance(event, Watched)] == list(range(5))


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_after_a_pause_it_speaks_on_with_the_newest_step_in_view(load_tiny, kind):
    model = load_tiny("overlap").model
    stream = random_stream(load_tiny("overlap"), SIZES, answer_len=0)
    session = kind(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 40))
    events = listen(model, session, Paced(stream, None, {1: [Order.PAUSE], 4: [Order.RESUME]}))
    spoken = [event for event in events if isinstance(event, Spoken)]
    assert spoken[0].step == spoken[0].newest_visible_step == 3 and steps_said(events)[:4] == [3, 3, 3, 4]


@pytest.mark.parametrize("kind", [Session, FusedSession])
def test_a_stop_ends_before_the_next_word_and_while_it_waits(load_tiny, kind):
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), SIZES, answer_len=0)
    source = LateOrders(stream, None, {5: [Order.STOP]})
    assert steps_said(listen(model, kind(model, stream.prompt), source)) == [0, 0, 0, 1, 1]
    assert source.taken < 5, "nothing more is watched"
    source = Paced(stream, [0, 10**9], {1: [Order.PAUSE]})
    run = kind(model, stream.prompt).run(source)
    told = drive(model, run)
    assert isinstance(next(told), Watched)
    source.told[1] = [Order.STOP]
    assert list(told) == []


def test_orders_of_one_moment_are_taken_in_order(load_tiny):
    model = load_tiny("group").model
    stream = random_stream(load_tiny("group"), SIZES, answer_len=0)
    orders = {2: [Order.PAUSE, Ask(QUESTION, "first"), Order.RESUME, Ask(QUESTION, "second")]}
    session = Session(model, stream.prompt, schedule=WaitK(3), choose=Greedy(1.0, 40))
    events = listen(model, session, Paced(stream, None, orders))
    assert [(e.step, e.text) for e in events if isinstance(e, Asked)] == [(2, "first"), (2, "second")]
    assert steps_said(events)[:9] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    rows = session.cache.tokens[WATCHED]
    assert int((rows.where(Kind.PROMPT) & (rows.step == 2)).sum()) == 2 * len(QUESTION)
    text = rows.position_ids[0, rows.where(Kind.PROMPT) & (rows.step == 2)]
    assert bool((text.diff() == 1).all()), "one behind the other"


@pytest.mark.parametrize("variant", PARALLEL)
def test_without_orders_the_loop_says_what_pushing_says(load_tiny, variant):
    model = load_tiny(variant).model
    stream = random_stream(load_tiny(variant), SIZES, answer_len=0)
    pushed = plain(play(SerialSession(model, stream.prompt), stream))
    assert spoken_by(model, Session(model, stream.prompt), Paced(stream)) == pushed
