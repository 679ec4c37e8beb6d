"""A stop signal ends a program that has its pieces on the disk with exit code 75, and is told once."""

import os
import signal

import pytest

from swwatch.launch.signals import PREEMPTED, STOP_SIGNALS, Preempted, stops_at_once


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_ends_the_program_with_its_code_and_the_handler_of_before_comes_back(number, capsys):
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as ended, stops_at_once():
        os.kill(os.getpid(), number)
        signal.pause()
    assert ended.value.code == PREEMPTED
    assert capsys.readouterr().err.count("the same command continues") == 1
    assert signal.getsignal(number) == before


def test_only_the_first_rank_tells_it(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Preempted), stops_at_once():
        raise Preempted
    assert capsys.readouterr().err == ""
