"""Live sessions: many at once say what each says alone; what they are told takes effect; nothing is left behind."""

import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from swwatch.data.prompt import load_prompts
from swwatch.data.video import StepFrames
from swwatch.engine.batch import Ended
from swwatch.engine.requests import drive
from swwatch.errors import UserError
from swwatch.live.stage import Asked, Full, Stage, Thought, Token, Turn, Watched
from swwatch.narrate.words import narrate, narration
from swwatch.policies.choose import Greedy
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import TURNS
from tests.helpers.faults import Gate
from tests.helpers.live_stages import (
    QUESTION,
    WAIT_S,
    frames,
    narrate_alone,
    push_all,
    read_to_end,
    read_until,
    said,
    stage_of,
)

ANSWER = Greedy(max_new_tokens=24)


def tokens_of(events) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


@pytest.mark.parametrize("variant", ["group", "overlap", "interleave", "origin"])
def test_pushed_frames_are_narrated_as_the_same_steps_of_a_file(load_tiny, variant):
    loaded, pictures = load_tiny(variant), frames(10)
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        pushed = push_all(session, pictures)
        session.end()
        events, end = read_to_end(session)
    assert end == Ended() and session.ended and not len(stage)
    assert all(p.taken and not p.dropped and not p.reason for p in pushed)
    steps = [StepFrames(i, np.stack(pictures[2 * i : 2 * i + 2]), i + 0.5, False) for i in range(5)]
    options = {"question": QUESTION, "system": load_prompts().system, "max_new_tokens": 24}
    assert said(events) == said(narrate(loaded, steps, **options))
    assert [event.step for event in events if isinstance(event, Watched)] == list(range(5))
    tokens = tokens_of(events)
    assert len(tokens) > 9 and all(0 <= token.t_frame_s <= token.t_emit_s for token in tokens)


@pytest.mark.parametrize("engine", ["serial", "fused", "streams"])
def test_sessions_side_by_side_say_what_each_says_alone(load_tiny, engine):
    """Six of them, four at a time, pushed by as many threads, of other lengths, schedules and questions."""
    loaded = load_tiny("group")
    clips = [frames(2 * (2 + i), seed=i, size=(56, 56 + 28 * (i % 3))) for i in range(6)]
    options = [
        {"schedule": f"random:{1 + i % 3}:seed={i}", "choose": Greedy(max_new_tokens=10 + 3 * i)} for i in range(6)
    ]
    alone = [narrate_alone(loaded, clip, **option) for clip, option in zip(clips, options, strict=True)]
    assert len({token for words in alone for token in words}) > 20, "all alike would prove nothing"
    heard, places = {}, threading.Semaphore(4)

    def live(stage, i):
        with places:
            session = stage.open(question=QUESTION, queue_size=32, **options[i])
            pause = random.Random(i)
            for at, picture in enumerate(clips[i]):
                session.push(100.0 * i + at / 2, picture)
                time.sleep(pause.random() / 200)
            session.end()
            heard[i] = read_to_end(session)

    with stage_of(loaded, max_sessions=4, engine=engine) as stage:
        assert stage.engine == engine and stage.why
        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(live, stage, i) for i in range(6)]:
                done.result()
    assert [(said(heard[i][0]), heard[i][1]) for i in range(6)] == [(words, Ended()) for words in alone]


def test_a_question_in_mid_sentence_is_answered_from_the_next_step_and_in_the_trace(load_tiny):
    loaded, pictures = load_tiny("group"), frames(6)
    with stage_of(loaded) as stage, Gate(loaded.model, passes=4) as gate:
        session = stage.open(question=QUESTION, schedule="wait-k:6", choose=ANSWER)
        push_all(session, pictures[:2])
        events = read_until(session, lambda events: tokens_of(events))
        gate.stuck()
        session.ask("What colour?")
        gate.open()
        push_all(session, pictures[2:], start_s=1.0)
        session.end()
        more, end = read_to_end(session)
    events += more
    assert end == Ended()
    (questions,) = [event for event in events if isinstance(event, Asked)]
    assert (questions.step, questions.text) == (1, "What colour?")
    at = events.index(questions)
    assert [token.step for token in tokens_of(events[:at])] == [0] * 6, "the sentence is finished"
    assert all(token.step > 0 for token in tokens_of(events[at:]))
    assert said(events)[6:] != narrate_alone(loaded, pictures, schedule="wait-k:6", choose=ANSWER)[6:]


def test_stop_in_mid_sentence_ends_before_the_next_token(load_tiny):
    loaded = load_tiny("overlap")
    with stage_of(loaded) as stage, Gate(loaded.model, passes=4) as gate:
        session = stage.open(question=QUESTION, schedule="wait-k:20", choose=ANSWER)
        push_all(session, frames(4))
        events = read_until(session, lambda events: tokens_of(events))
        gate.stuck()
        session.stop()
        gate.open()
        more, end = read_to_end(session)
    assert end == Ended() and len(tokens_of(events + more)) <= 4
    assert session.push(9.0, frames(1)[0]).reason == "ended"


def test_paused_it_watches_in_silence_and_speaks_when_it_is_resumed(load_tiny):
    loaded, pictures = load_tiny("group"), frames(8)
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        session.pause()
        push_all(session, pictures[:4])

        def watched(count):
            return lambda events: sum(isinstance(event, Watched) for event in events) == count

        events = read_until(session, watched(2))
        assert not tokens_of(events)
        session.resume()
        push_all(session, pictures[4:], start_s=2.0)
        session.end()
        events, end = read_to_end(session)
    assert end == Ended() and len(tokens_of(events)) > 6


def test_stats_tell_what_happened(load_tiny):
    loaded = load_tiny("group")
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        assert session.stats().lag_s is None
        push_all(session, frames(8))
        session.push(3.5, frames(1)[0])
        session.end()
        events, _ = read_to_end(session)
        stats = session.stats()
    assert (stats.frames_in, stats.frames_dropped, stats.steps_watched, stats.steps_queued) == (9, 1, 4, 0)
    newest = tokens_of(events)[-1]
    assert (
        stats.tokens == len(tokens_of(events))
        and stats.tokens_per_s > 0
        and stats.lag_s == newest.t_emit_s - newest.t_frame_s
    )


def test_a_full_stage_refuses_until_a_session_ends(load_tiny):
    with stage_of(load_tiny("group"), max_sessions=1) as stage:
        first = stage.open(question=QUESTION)
        with pytest.raises(Full, match="all 1 places"):
            stage.open(question=QUESTION)
        first.stop()
        read_to_end(first)
        second = stage.open(question=QUESTION)
        second.stop()
        assert read_to_end(second)[1] == Ended()


def test_closing_the_stage_ends_every_session_and_its_thread(load_tiny):
    stage = Stage(load_tiny("group"))
    sessions = [stage.open(question=QUESTION) for _ in range(3)]
    push_all(sessions[0], frames(4))
    stage.close(WAIT_S)
    assert not stage._thread.is_alive()
    for session in sessions:
        error = read_to_end(session)[1].error
        assert isinstance(error, UserError) and "the stage was closed" in str(error)
        assert session.read() == []
        with pytest.raises(UserError, match="has ended"):
            session.ask("Anybody?")
    with pytest.raises(UserError, match="is closed"):
        stage.open(question=QUESTION)
    stage.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"question": "a<|im_end|>"}, "must not contain"),
        ({"schedule": "now and then"}, "is not understood"),
        ({"policy": "hope"}, "no queue policy"),
        ({"queue_size": 0}, "queue size 0"),
        ({"max_events": 0}, "max_events 0"),
    ],
)
def test_what_cannot_be_is_refused_and_takes_no_place(load_tiny, wrong, told):
    with stage_of(load_tiny("group"), max_sessions=1) as stage:
        with pytest.raises(UserError, match=told):
            stage.open(**{"question": QUESTION} | wrong)
        stage.open(question=QUESTION)


def test_a_pixel_budget_of_whole_videos_is_refused(load_tiny):
    with pytest.raises(UserError, match="budget 'declared'"):
        Stage(load_tiny("group", pixel_budget="release"))


def test_the_memory_of_closed_sessions_is_returned(load_tiny, monkeypatch):
    """Fifty sessions one after the other: no cache outlives its session, nor do pixels."""
    loaded, caches, pictures = load_tiny("group"), weakref.WeakSet(), frames(6)
    new_cache = loaded.model.new_cache

    def counted(*how):
        caches.add(cache := new_cache(*how))
        return cache

    monkeypatch.setattr(loaded.model, "new_cache", counted)
    gc.collect()
    gc.disable()  # at once, not when the collector comes round
    try:
        with stage_of(loaded) as stage:
            for turn in range(50):
                session = stage.open(question=QUESTION, choose=ANSWER)
                push_all(session, pictures)
                if turn % 2:
                    session.stop()
                else:
                    session.end()
                read_to_end(session)
                if turn == 10:
                    before = _bytes_of_tensors()
            assert _bytes_of_tensors() - before < 2**20, "a leak of the pixels of 39 clips would be 13 MB"
            idle = stage.open(question=QUESTION)  # begun after the others were let go
            push_all(idle, pictures[:2])
            read_until(idle, lambda events: any(isinstance(event, Watched) for event in events))
            assert len(caches) == 1 and sum(cache.nbytes for cache in caches) > 0
    finally:
        gc.enable()
    assert not len(caches)


def _bytes_of_tensors() -> int:
    return sum(one.nbytes for one in gc.get_objects() if issubclass(type(one), torch.Tensor))


TOLD = Token | Thought | Turn


@pytest.mark.parametrize("variant", sorted(TURNS))
def test_chat_turns_side_by_side_say_what_each_says_of_a_file(load_tiny, variant):
    loaded, clips = load_tiny(variant), [frames(12, seed=seed) for seed in range(3)]
    thinks, alone = SYSTEMS[variant].thinks, []
    options = {"question": QUESTION} | ({"seconds_per_turn": 2, "choose": {"max_new_tokens": 9}} if thinks else {})
    for pictures in clips:
        steps = [StepFrames(i, np.stack(pictures[2 * i : 2 * i + 2]), i + 0.5, False) for i in range(6)]
        run = narration(loaded, steps, **options)
        alone.append([untimed(event) for event in drive(loaded.model, run) if isinstance(event, TOLD)])
    with stage_of(loaded) as stage:
        sessions = [stage.open(**options, queue_size=32) for _ in clips]
        for session, pictures in zip(sessions, clips, strict=True):
            push_all(session, pictures)
            session.end()
        heard = [read_to_end(session) for session in sessions]
    assert stage.engine == "serial" and "turns" in stage.why
    for (events, end), words in zip(heard, alone, strict=True):
        assert end == Ended()
        assert [untimed(event) for event in events if isinstance(event, TOLD)] == words
        assert [event.step for event in events if isinstance(event, Watched)] == list(range(6))
        newest = -1
        for event in events:
            newest = event.step if isinstance(event, Watched) else newest
            assert not isinstance(event, Token) or event.step == event.newest_visible_step == newest
        assert sum(isinstance(event, Turn) for event in events) == (6 if variant == "streamingvlm" else 4)
        assert sum(isinstance(event, Turn) and event.thought for event in events) == (3 if thinks else 0)


def untimed(event: Token | Thought | Turn) -> tuple:
    return event if isinstance(event, Turn) else (event.step, event.token_id, event.text)


def test_chat_turns_are_asked_paused_and_stopped(load_tiny):
    loaded, pictures = load_tiny("streamingvlm"), frames(12)
    with stage_of(loaded) as stage:
        session = stage.open(choose={"max_new_tokens": 3}, seconds_per_turn=1)
        push_all(session, pictures[:4])
        read_until(session, lambda events: sum(isinstance(event, Turn) for event in events) == 2)
        session.ask("What now?")
        session.pause()
        push_all(session, pictures[4:8], start_s=2.0)
        events = read_until(session, lambda events: sum(isinstance(event, Turn) for event in events) == 2)
        assert [(event.step, event.text) for event in events if isinstance(event, Asked)] == [(2, "What now?")]
        assert not any(isinstance(event, Token) for event in events), "watched in silence"
        session.resume()
        push_all(session, pictures[8:10], start_s=4.0)
        events = read_until(session, lambda events: any(isinstance(event, Turn) for event in events))
        assert 0 < sum(isinstance(event, Token) for event in events) <= 3
        session.stop()
        assert read_to_end(session)[1] == Ended()


@pytest.mark.parametrize(
    ("variant", "wrong", "told"),
    [
        ("livecc", {"schedule": "wait-k:3"}, "by no schedule"),
        ("livecc", {"window": object()}, "has no window"),
        ("group", {"seconds_per_turn": 2}, "has no seconds per turn"),
    ],
)
def test_an_option_of_another_form_is_refused(load_tiny, variant, wrong, told):
    with stage_of(load_tiny(variant)) as stage, pytest.raises(UserError, match=told):
        stage.open(**wrong)


def test_the_fast_path_is_refused_where_tokens_move(load_tiny):
    with pytest.raises(UserError, match="streamingvlm forgets"):
        Stage(load_tiny("streamingvlm"), fast=True)
