"""SIGTERM and SIGUSR1, by which a batch system says that the time is up: what is done is kept, and the code is 75."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator

from swwatch.launch.place import place_of

PREEMPTED = 75  # exit code of what a signal stopped and the same command continues (sysexits' EX_TEMPFAIL)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1


class Preempted(SystemExit):
    """Ends a process that a signal stopped, with exit code 75."""

    def __init__(self):
        super().__init__(PREEMPTED)


@contextlib.contextmanager
def handled_by(handler) -> Iterator[None]:
    """Within it a stop signal calls `handler(number, frame)`."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """Around a program whose finished pieces are on the disk already: a stop signal ends it where it is.

    Raises:
        Preempted: a signal came, to this process or to another rank.
    """

    def stop(number, frame):
        raise Preempted

    try:
        with handled_by(stop):
            yield
    except Preempted:
        if place_of(os.environ).rank == 0:
            print("stopped by a signal: the same command continues, what is finished is kept", file=sys.stderr)
        raise


def ignore_stop_signals() -> None:
    """For loader workers: a batch system signals every process, and their parent still needs what they decode."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Have the kernel kill this process with its launcher: torchrun, killed outright, would leave it running.

    Args:
        parent: id of the launcher, where it may have died before this was called.
        number: of the signal.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
