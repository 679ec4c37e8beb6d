"""Live sessions on the fast path: the same words from memory set aside, and what happens when that is too little."""

import copy
import threading
from dataclasses import replace

import pytest
import torch

from swwatch.engine.batch import Ended
from swwatch.errors import UserError
from swwatch.live.stage import Capacity, Stage, Token
from swwatch.model.cuda_graph_model import CudaGraphModel
from swwatch.policies.choose import Greedy
from tests.helpers.live_stages import (
    QUESTION,
    frames,
    narrate_alone,
    push_all,
    read_to_end,
    read_until,
    said,
    stage_of,
)

ANSWER = Greedy(max_new_tokens=12)
SMALL = Capacity(video_s=8, tokens=30)


@pytest.mark.parametrize(
    ("variant", "engine"), [("group", "serial"), ("overlap", "fused"), ("gap", "streams"), ("interleave", "serial")]
)
def test_on_the_fast_path_sessions_say_the_same_and_seats_are_used_again(load_tiny, variant, engine):
    loaded = load_tiny(variant)
    clips = [frames(2 * (2 + i), seed=i) for i in range(3)]
    alone = [narrate_alone(loaded, clip, choose=ANSWER) for clip in clips]
    assert len({token for words in alone for token in words}) > 10, "all alike would prove nothing"
    with stage_of(loaded, max_sessions=2, engine=engine, fast=True, capacity=SMALL) as stage:
        assert (
            stage.fast and isinstance(stage.loaded.model, CudaGraphModel) and stage.loaded.model.store.num_seats == 2
        )
        for turn in range(3):  # six sessions in two seats
            heard = []
            pair = [(turn + i) % 3 for i in range(2)]
            sessions = [stage.open(question=QUESTION, choose=ANSWER, queue_size=32) for _ in pair]
            for i, session in zip(pair, sessions, strict=True):
                push_all(session, clips[i])
                session.end()
            heard = [read_to_end(session) for session in sessions]
            assert [(said(events), end) for events, end in heard] == [(alone[i], Ended()) for i in pair]


def test_a_session_that_outgrows_its_room_ends_with_that_error_and_the_others_go_on(load_tiny):
    loaded, clips = load_tiny("group"), [frames(8), frames(12, seed=1)]
    alone = narrate_alone(loaded, clips[0], choose=ANSWER)
    with stage_of(loaded, max_sessions=2, fast=True, capacity=Capacity(video_s=8, tokens=20)) as stage:
        other = stage.open(question=QUESTION, choose=ANSWER, queue_size=32)
        talker = stage.open(question=QUESTION, choose=Greedy(max_new_tokens=500), schedule="wait-k:30", queue_size=32)
        push_all(other, clips[0][:4])
        read_until(other, lambda events: any(isinstance(event, Token) for event in events))
        push_all(talker, clips[1])
        events, end = read_to_end(talker)
        assert isinstance(end.error, UserError) and "outgrown its room of 8 s of video and 20" in str(end.error)
        assert len(said(events)) > 20, "what was said until then was told"
        stage.open(question=QUESTION).stop()  # its seat is free
        push_all(other, clips[0][4:], start_s=2.0)
        other.end()
        rest, end = read_to_end(other)
        assert end == Ended() and said(rest) == alone[-len(said(rest)) :] and said(rest)


def test_memory_that_cannot_be_had_is_told_before_anybody_comes(load_tiny, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError("nothing left")

    monkeypatch.setattr("swwatch.live.memory.CudaGraphModel", full)
    with pytest.raises(UserError, match="no memory for 3 sessions of 8 s .*: allow fewer sessions"):
        Stage(load_tiny("group"), max_sessions=3, fast=True, capacity=SMALL)
    with pytest.raises(UserError, match="at least"):
        Capacity(video_s=0)


def test_on_a_cpu_nothing_is_set_aside_unless_it_is_asked_for(load_tiny):
    loaded = load_tiny("group")
    with stage_of(loaded) as stage:
        assert not stage.fast and stage.loaded is loaded


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("variant", "engine"), [("group", "fused"), ("overlap", "streams"), ("interleave", "serial")])
def test_on_cuda_many_sessions_say_on_the_fast_path_what_they_say_on_the_plain_model(load_tiny, variant, engine):
    """More sessions than torch has streams; frames are encoded in threads while forwards are recorded."""
    loaded = load_tiny(variant)
    loaded = replace(loaded, model=copy.deepcopy(loaded.model).to("cuda"))
    clips = [frames(2 * (2 + i), seed=i) for i in range(4)]

    def heard(rounds, **how):
        told = []
        with stage_of(loaded, max_sessions=4, engine=engine, capacity=SMALL, **how) as stage:
            assert stage.fast is how.get("fast", True), "on CUDA the fast path is taken unless it is not wanted"
            for _ in range(rounds):
                sessions = [stage.open(question=QUESTION, choose=ANSWER, queue_size=32) for _ in clips]
                pairs = zip(sessions, clips, strict=True)
                senders = [threading.Thread(target=push_all, args=pair) for pair in pairs]
                for sender in senders:
                    sender.start()
                for sender, session in zip(senders, sessions, strict=True):
                    sender.join()
                    session.end()
                told.append([read_to_end(session) for session in sessions])
        assert all(end == Ended() for turn in told for _, end in turn)
        return [[said(events) for events, _ in turn] for turn in told]

    (plain,) = heard(1, fast=False)
    assert len({token for words in plain for token in words}) > 10, "all alike would prove nothing"
    assert heard(10) == [plain] * 10
