"""Ranks share counters and nothing else; whoever fails or falls silent stops all with one readable message."""

import threading
import time

import pytest
from torch.distributed import HashStore, TCPStore

from swwatch.errors import UserError
from swwatch.launch import ranks
from swwatch.launch.place import ProcessRank, place_of
from swwatch.launch.ranks import SingleProcess, Stopped, Team, join
from swwatch.launch.signals import Preempted


def teams(size, store=None, **options):
    store = store or HashStore()
    return [Team(store, rank, size, **options) for rank in range(size)]


def in_threads(members, work):
    """Run `work(team)` for every rank inside its `with` block; rank -> the error it ended with."""
    errors = {}

    def one(team):
        try:
            with team:
                work(team)
        except BaseException as error:
            errors[team.rank] = error

    threads = [threading.Thread(target=one, args=(team,)) for team in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_a_number_is_given_to_one_rank_only():
    taken = []

    def work(team):
        while (i := team.add("claimed") - 1) < 50:
            taken.append(i)
        team.leave() if team.rank else team.wait_for_all()

    assert in_threads(teams(3), work) == {} and sorted(taken) == list(range(50))


def test_one_process_needs_no_store():
    with join({}) as alone:
        assert type(alone) is SingleProcess and (alone.rank, alone.size) == (0, 1)
        assert [alone.add("claimed"), alone.add("claimed"), alone.add("skipped")] == [1, 2, 1]


def test_what_rank_0_tells_reaches_all():
    heard = {}

    def work(team):
        if team.rank:
            heard[team.rank] = team.hear()
        else:
            team.tell(["a", "é"])

    assert in_threads(teams(3), work) == {} and heard == {1: ["a", "é"], 2: ["a", "é"]}


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_rank_ends_the_others_with_its_words(failing):
    def work(team):
        if team.rank == failing:
            raise UserError("the disk is full")
        while True:
            team.add("claimed")
            time.sleep(0.01)

    errors = in_threads(teams(2), work)
    assert str(errors[failing]) == "the disk is full"
    assert isinstance(errors[1 - failing], Stopped)
    assert f"rank {failing}: the disk is full" in str(errors[1 - failing])


def test_a_signal_in_one_rank_ends_the_others_as_if_it_had_come_to_them():
    def work(team):
        if team.rank == 1:
            raise Preempted
        while True:
            team.add("claimed")
            time.sleep(0.01)

    errors = in_threads(teams(3), work)
    assert [errors[rank].code for rank in range(3)] == [75, 75, 75]


def test_ranks_that_wait_are_stopped_too():
    def work(team):
        if team.rank == 1:
            raise ZeroDivisionError("no such luck")
        team.hear() if team.rank else team.wait_for_all()

    errors = in_threads(teams(3), work)
    assert isinstance(errors[1], ZeroDivisionError), "its traceback is for the reader"
    assert all("rank 1: ZeroDivisionError: no such luck" in str(errors[rank]) for rank in (0, 2))


def test_the_same_mistake_of_all_ranks_is_told_once():
    meet = threading.Barrier(3)

    def work(team):
        meet.wait()
        raise UserError("no checkpoint at nowhere")

    errors = in_threads(teams(3), work)
    assert sorted(type(error).__name__ for error in errors.values()) == ["SystemExit", "SystemExit", "UserError"]


class Clock:
    """Time that passes by sleeping alone; what else goes on meanwhile is `during(now)`."""

    def __init__(self, during):
        self.now, self.during = 0.0, during

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.during(self.now)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_is_missed_and_the_others_do_not_hang(monkeypatch, killed):
    store = HashStore()
    team = teams(2, store, patience_s=60)[1 - killed]
    store.add(f"beats/{killed}", 1)  # it began, and then no more
    monkeypatch.setattr(ranks, "time", clock := Clock(lambda now: None))
    silent = f"rank {killed} has given no sign of life for 60 s.*same command again"
    with pytest.raises(UserError, match=silent), team:
        team.hear() if team.rank else team.wait_for_all()
    assert 60 <= clock.now < 62


def test_a_slow_rank_that_gives_signs_of_life_is_waited_for(monkeypatch):
    store = HashStore()
    first, _ = teams(2, store, patience_s=60)

    def work_on(now):
        store.add("beats/1", 1) if now < 300 else store.set("left/1", "1")

    monkeypatch.setattr(ranks, "time", clock := Clock(work_on))
    with first:
        first.wait_for_all()
    assert 300 <= clock.now < 302


class GoneStore:
    """What a TCPStore answers once its host has ended."""

    def __getattr__(self, name):
        def ask(*args):
            raise RuntimeError("Connection reset by peer")

        return ask


def test_the_end_of_the_stores_host_is_told():
    (team,) = teams(1, store=GoneStore())
    with pytest.raises(Stopped, match="lost the others.*same command again"), team:
        team.add("claimed")


def test_ranks_meet_at_a_tcp_store():
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env = {"WORLD_SIZE": "2", "MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    members = [join(env | {"RANK": str(rank)}) for rank in range(2)]
    assert [team.rank for team in members] == [0, 1]
    assert [team.add("claimed") for team in members] == [1, 2]
    again = join(env | {"RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"})
    assert again.add("claimed") == 1, "workers that torchrun starts anew count from the start"


@pytest.mark.parametrize(
    "env, place",
    [
        ({}, ProcessRank()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n0", "MASTER_PORT": "77"},)
        + (ProcessRank(3, 4, 1, "n0", 77),),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ProcessRank(0, 2, 0, "127.0.0.1", 29500, True)),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}, ProcessRank(0, 2)),
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "123456"},
            ProcessRank(5, 8, 1, "127.0.0.1", 23_456, False),
        ),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ProcessRank()),  # a batch script itself is no step
    ],
)
def test_the_place_is_read_from_torchrun_or_slurm(env, place):
    assert place_of(env) == place


@pytest.mark.parametrize(
    "env, message",
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 is not among"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "1"}, "scontrol show hostnames"),
    ],
)
def test_a_place_that_cannot_be_is_refused(env, message):
    with pytest.raises(UserError, match=message):
        place_of(env)
