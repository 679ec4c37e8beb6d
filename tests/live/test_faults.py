"""What may go wrong around a live session: senders, readers, other sessions, memory. No test waits for time."""

import os
import signal
import threading
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from swwatch.data.budget import BUDGETS
from swwatch.data.video import StepFrames
from swwatch.engine.batch import Batch, Ended, OutOfMemory
from swwatch.engine.watcher import WatcherGone
from swwatch.errors import UserError
from swwatch.live.stage import Dropped, Token, Watched
from swwatch.policies.choose import Greedy
from tests.helpers.faults import Gate, failing, out_of_memory
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
    wait_for,
)

ANSWER = Greedy(max_new_tokens=24)


def watched(count: int):
    return lambda events: sum(isinstance(event, Watched) for event in events) >= count


def lost(events) -> int:
    return sum(event.steps for event in events if isinstance(event, Dropped))


# ---- senders --------------------------------------------------------------------------------------------------------


def test_a_source_that_stalls_keeps_nobody_and_is_taken_up_again(load_tiny):
    loaded, pictures, others = load_tiny("group"), frames(8), frames(8, seed=1)
    with stage_of(loaded) as stage:
        stalls, flows = (stage.open(question=QUESTION, choose=ANSWER) for _ in range(2))
        push_all(stalls, pictures[:4])
        events = read_until(stalls, watched(2))
        push_all(flows, others)
        flows.end()
        assert read_to_end(flows)[1] == Ended(), "while the other one says nothing"
        assert not stalls.ended
        push_all(stalls, pictures[4:], start_s=2.0)
        stalls.end()
        more, end = read_to_end(stalls)
    assert end == Ended() and said(events + more) == narrate_alone(loaded, pictures, choose=ANSWER)


def test_a_source_that_ends_early_is_told_to_its_end(load_tiny):
    """Three frames: one step and a half."""
    loaded = load_tiny("group")
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        push_all(session, frames(3))
        session.end()
        session.end()
        events, end = read_to_end(session)
        assert session.push(1.5, frames(1)[0]).reason == "ended"
    assert end == Ended() and said(events)
    assert [event.step for event in events if isinstance(event, Watched)] == [0]


def test_a_source_that_ends_before_its_first_frame_is_an_error(load_tiny):
    with stage_of(load_tiny("group")) as stage:
        session = stage.open(question=QUESTION)
        session.end()
        events, end = read_to_end(session)
        assert not events and isinstance(end.error, UserError) and "before its first frame" in str(end.error)
        session = stage.open(question=QUESTION)  # and the stage goes on
        push_all(session, frames(2))
        session.end()
        assert read_to_end(session)[1] == Ended()


def test_jumps_in_time_neither_fill_the_queue_nor_turn_the_clock_back(load_tiny):
    """An hour ahead, then far behind the first frame."""
    loaded, pictures = load_tiny("group"), frames(8)
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER, queue_size=32)
        times = [0.0, 0.5, 3600.0, 3600.5, -5e4, -5e4 + 0.5, -5e4 + 1.0]
        assert all(session.push(at, picture).taken for at, picture in zip(times, pictures, strict=False))
        session.end()
        events, end = read_to_end(session)
    seen = [event for event in events if isinstance(event, Watched)]
    assert end == Ended() and not lost(events) and 3 <= len(seen) <= 16
    emitted = [event.t_emit_s for event in events if isinstance(event, Token)]
    assert emitted == sorted(emitted) and [step.arrival_s for step in seen] == sorted(s.arrival_s for s in seen)
    assert all(0 <= event.t_frame_s <= event.t_emit_s < 3000 for event in events if isinstance(event, Token))


def test_repeated_and_late_timestamps_are_refused_and_change_nothing(load_tiny):
    loaded, pictures, noise = load_tiny("group"), frames(6), frames(2, seed=9)
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        for i, picture in enumerate(pictures):
            assert session.push(i / 2, picture).taken
            assert session.push(i / 2, noise[0]).reason == "repeated"
            if i:
                assert session.push(i / 2 - 0.2, noise[1]).reason == "late"
        session.end()
        events, end = read_to_end(session)
        assert session.stats().frames_dropped == 6 + 5
    assert end == Ended() and said(events) == narrate_alone(loaded, pictures, choose=ANSWER)


def test_a_change_of_resolution_is_gone_along_with(load_tiny):
    """Between steps and within one."""
    loaded = load_tiny("overlap")
    sizes = [(56, 84), (56, 84), (84, 56), (84, 56), (28, 28), (112, 112), (56, 56)]
    pictures = [frames(1, seed=i, size=size)[0] for i, size in enumerate(sizes)]
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        assert all(pushed.taken for pushed in push_all(session, pictures))
        session.end()
        events, end = read_to_end(session)
    assert end == Ended() and said(events)
    assert len([event for event in events if isinstance(event, Watched)]) == 3


@pytest.mark.parametrize(
    "picture", [np.zeros((56, 56), np.uint8), np.zeros((56, 56, 3)), np.zeros((2, 2000, 3), np.uint8), "picture"]
)
def test_what_is_no_picture_is_refused_and_the_session_goes_on(load_tiny, picture):
    loaded, pictures = load_tiny("group"), frames(4)
    with stage_of(loaded) as stage:
        session = stage.open(question=QUESTION, choose=ANSWER)
        push_all(session, pictures[:3])
        with pytest.raises(UserError):
            session.push(1.2, picture)
        push_all(session, pictures[3:], start_s=1.5)
        session.end()
        events, end = read_to_end(session)
    assert end == Ended() and said(events) == narrate_alone(loaded, pictures, choose=ANSWER)


# ---- a slow speaker, a reader that does not read --------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["drop_oldest", "merge"])
def test_a_slow_speaker_never_keeps_the_sender_and_what_is_lost_is_counted(load_tiny, policy):
    """The model stands still in mid-sentence, and a minute of video is pushed at once."""
    loaded = load_tiny("group")
    with stage_of(loaded) as stage, Gate(loaded.model, passes=3) as gate:
        session = stage.open(question=QUESTION, choose=ANSWER, queue_size=3, policy=policy)
        push_all(session, frames(2))
        events = read_until(session, lambda events: any(isinstance(event, Token) for event in events))
        gate.stuck()
        pushed = push_all(session, frames(2) * 60, start_s=1.0)
        assert all(p.taken and p.queued <= 3 for p in pushed)
        assert pushed[-1].dropped == 57 == session.stats().frames_dropped // 2
        assert lost(session.read(WAIT_S)) == 57, "a reader is told at once"
        gate.open()
        session.end()
        more, end = read_to_end(session)
    assert end == Ended() and sum(isinstance(event, Watched) for event in events + more) == 1 + 3
    assert not lost(more)


def test_under_block_the_sender_waits_for_room_and_no_longer_than_it_may(load_tiny):
    loaded, pictures = load_tiny("group"), frames(12)
    with stage_of(loaded) as stage, Gate(loaded.model) as gate:
        session = stage.open(question=QUESTION, choose=ANSWER, queue_size=1, policy="block")
        gate.stuck()
        push_all(session, pictures[:2])  # the first step has room; from here on there is none
        session.push(1.0, pictures[2])
        assert session.push(1.5, pictures[3], timeout_s=0).reason == "full"
        sender = threading.Thread(target=push_all, args=(session, pictures[4:], 2.0))
        sender.start()
        gate.open()
        sender.join(WAIT_S)
        assert not sender.is_alive()
        session.end()
        events, end = read_to_end(session)
    assert end == Ended() and sum(isinstance(event, Watched) for event in events) == 5 and lost(events) == 1


def test_a_sender_that_waits_is_let_go_when_the_session_ends(load_tiny):
    loaded, pictures = load_tiny("group"), frames(12)
    with stage_of(loaded) as stage, Gate(loaded.model) as gate:
        session = stage.open(question=QUESTION, queue_size=1, policy="block")
        sender = threading.Thread(target=push_all, args=(session, pictures))
        sender.start()
        gate.stuck()
        session.stop()
        gate.open()
        assert read_to_end(session)[1] == Ended()
        sender.join(WAIT_S)
        assert not sender.is_alive()


def test_who_does_not_read_stands_still_alone_and_goes_on_when_read(load_tiny):
    loaded, pictures, others = load_tiny("group"), frames(8), frames(8, seed=1)
    with stage_of(loaded) as stage:
        deaf = stage.open(question=QUESTION, choose=ANSWER, max_events=5, queue_size=2)
        push_all(deaf, pictures[:4])
        heard = stage.open(question=QUESTION, choose=ANSWER)
        push_all(heard, others)
        heard.end()
        words, end = read_to_end(heard)
        assert end == Ended() and said(words) == narrate_alone(loaded, others, choose=ANSWER)
        wait_for(lambda: deaf.stats().held)
        assert not deaf.ended and deaf.stats().tokens == 3, "two steps watched and three words: five events"
        assert all(pushed.queued <= 2 for pushed in push_all(deaf, pictures * 4, start_s=2.0))
        deaf.end()
        events, end = read_to_end(deaf)
        assert end == Ended() and deaf.stats().held >= 1
    assert lost(events) >= 13 and len([event for event in events if isinstance(event, Token)]) > 6


def test_one_that_nobody_reads_can_be_stopped(load_tiny):
    with stage_of(load_tiny("group")) as stage:
        session = stage.open(question=QUESTION, max_events=1)
        push_all(session, frames(8))
        session.stop()
        assert read_to_end(session)[1] == Ended()


# ---- a session that fails -------------------------------------------------------------------------------------------


def three(stage, loaded, monkeypatch):
    """Three sessions with all their frames pushed; the second one's cache is told."""
    caches, new_cache = [], loaded.model.new_cache
    monkeypatch.setattr(loaded.model, "new_cache", lambda *how: caches.append(new_cache(*how)) or caches[-1])
    sessions = [stage.open(question=QUESTION, choose=ANSWER, queue_size=16) for _ in range(3)]
    return sessions, caches[1]


@pytest.mark.parametrize("variant", ["group", "interleave"])
def test_a_session_that_runs_out_of_memory_ends_and_the_others_never_notice(load_tiny, monkeypatch, variant):
    loaded, clips = load_tiny(variant), [frames(8, seed=i) for i in range(3)]
    alone = [narrate_alone(loaded, clip, choose=ANSWER) for clip in clips]
    with stage_of(loaded) as stage:
        sessions, victim = three(stage, loaded, monkeypatch)
        with failing(loaded.model, lambda caches: any(c is victim for c in caches) and victim.num_fed > 60):
            for session, clip in zip(sessions, clips, strict=True):
                push_all(session, clip)
                session.end()
            heard = [read_to_end(session) for session in sessions]
    assert isinstance(heard[1][1].error, OutOfMemory) and "lower the pixel budget" in str(heard[1][1].error)
    assert said(heard[1][0]) == alone[1][: len(said(heard[1][0]))] != alone[1]
    assert [(said(heard[i][0]), heard[i][1]) for i in (0, 2)] == [(alone[i], Ended()) for i in (0, 2)]


@pytest.mark.parametrize("policy", ["drop_oldest", "block", "merge"])
def test_no_memory_for_pixels_ends_that_session_and_not_its_sender(load_tiny, monkeypatch, policy):
    loaded, pictures = load_tiny("group"), frames(8)
    alone = narrate_alone(loaded, pictures, choose=ANSWER)
    with stage_of(loaded) as stage:
        other, session = (stage.open(question=QUESTION, choose=ANSWER, policy=policy, queue_size=8) for _ in "ab")
        push_all(session, pictures[:2])
        events = read_until(session, lambda events: len(said(events)) == 3)
        monkeypatch.setattr(session._encode.frames, "encode", Mock(side_effect=out_of_memory()))
        push_all(session, pictures[2:4], start_s=1.0)
        more, end = read_to_end(session)
        assert isinstance(end.error, OutOfMemory) and said(events + more) == alone[:3]
        assert session.push(9.0, pictures[4]).reason == "ended"
        push_all(other, pictures)
        other.end()
        heard, end = read_to_end(other)
    assert end == Ended() and said(heard) == alone


def test_an_exception_in_one_session_ends_that_one(load_tiny, monkeypatch):
    loaded, clips = load_tiny("group"), [frames(8, seed=i) for i in range(3)]
    alone = [narrate_alone(loaded, clip, choose=ANSWER) for clip in clips]
    with stage_of(loaded) as stage:
        sessions, _ = three(stage, loaded, monkeypatch)
        for session, clip in zip(sessions, clips, strict=True):
            push_all(session, clip)
        sessions[1].source.fail(ConnectionError("the camera is gone"))
        for session in sessions:
            session.end()
        heard = [read_to_end(session) for session in sessions]
    error = heard[1][1].error
    assert isinstance(error, ConnectionError) and error.__traceback__ is None
    assert [(said(heard[i][0]), heard[i][1]) for i in (0, 2)] == [(alone[i], Ended()) for i in (0, 2)]


def test_the_end_of_the_models_thread_ends_all_with_its_error(load_tiny, monkeypatch):
    with stage_of(load_tiny("group")) as stage:
        sessions = [stage.open(question=QUESTION) for _ in range(2)]
        assert stage.alive

        def broken(self, held=()):
            raise SystemError("the driver is gone")

        monkeypatch.setattr(Batch, "advance", broken)
        push_all(sessions[0], frames(2))
        for session in sessions:
            assert isinstance(read_to_end(session)[1].error, SystemError)
        with pytest.raises(UserError, match="the driver is gone"):
            stage.open(question=QUESTION)
        assert not stage.alive


def test_the_end_of_the_watchers_process_ends_the_stage_which_could_watch_nothing_more(load_tiny):
    with stage_of(load_tiny("group"), engine="two_device") as stage:
        sessions = [stage.open(question=QUESTION) for _ in range(2)]
        push_all(sessions[0], frames(2))
        read_until(sessions[0], watched(1))
        os.kill(stage._watcher.pid, signal.SIGKILL)
        push_all(sessions[0], frames(2), start_s=1.0)
        for session in sessions:
            assert isinstance(read_to_end(session)[1].error, WatcherGone)
        wait_for(lambda: not stage.alive)
        with pytest.raises(UserError, match="make another one.*process ended by itself"):
            stage.open(question=QUESTION)


def test_a_forward_that_does_not_end_keeps_nobody_who_closes_the_stage(load_tiny):
    loaded = load_tiny("group")
    with Gate(loaded.model) as gate:
        with stage_of(loaded) as stage:
            session = stage.open(question=QUESTION)
            gate.stuck()
            stage.close(timeout_s=0)
            assert "was closed" in str(read_to_end(session)[1].error)
            gate.open()
    assert not stage._thread.is_alive()


def test_threads_of_sessions_do_not_turn_gradients_on(load_tiny):
    """What the model computes in its thread keeps no graph, which would grow with the stream."""
    loaded, graphs = load_tiny("group"), []
    hook = loaded.model.model.language_model.register_forward_hook(
        lambda module, args, out: graphs.append(out.last_hidden_state.requires_grad)
    )
    try:
        with stage_of(loaded) as stage:
            session = stage.open(question=QUESTION, choose=ANSWER)
            push_all(session, frames(4))
            session.end()
            assert read_to_end(session)[1] == Ended()
    finally:
        hook.remove()
    assert graphs and not any(graphs) and torch.is_grad_enabled()


@pytest.mark.parametrize("height, width", [(900, 700), (56, 84), (30, 1800), (2, 300)])
def test_pictures_that_wait_to_be_merged_are_as_small_as_the_model_sees_them(load_tiny, height, width):
    """In full size eight steps of them took 400 MB, and the thread of all sessions resized them."""
    loaded = load_tiny("group")
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    with stage_of(loaded) as stage:
        encode = stage.open(policy="merge")._encode
    step = StepFrames(0, pictures, 0.5, last=False)
    small, direct = encode.shrink(step), encode(step)
    assert small.frames.size <= 6 * BUDGETS["declared"].max_pixels
    assert torch.equal(encode(small).pixel_values, direct.pixel_values)
    assert torch.equal(encode(small).grid_thw, direct.grid_thw)
