"""Several training processes as one: they meet, agree on errors, and stop together.

Outside of torchrun there is one process, and every function here is then the plain call.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from swwatch.errors import UserError
from swwatch.launch.place import place_of
from swwatch.launch.signals import die_with_parent

T = TypeVar("T")

TIMEOUT = timedelta(minutes=60)  # the others wait while the main process writes a large model to a slow disk


def rank() -> int:
    """This process among all; 0 is the main one, which alone writes and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """This process among those of its node."""
    return int(os.environ.get("LOCAL_RANK", 0))


def processes_per_node() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """The span in which the processes that torchrun started work as one.

    Raises:
        UserError: the environment speaks of several processes, but not in torchrun's way.
    """
    if "LOCAL_RANK" not in os.environ:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError("WORLD_SIZE asks for several processes: start them with bash scripts/sft.sh or torchrun")
        if place_of(os.environ).size > 1 and not os.environ.get("NNODES"):
            raise UserError(
                "this is one of several tasks of a Slurm step: bash scripts/sft.sh joins them, one task on each node, "
                "when NNODES says how many (NNODES=1: each task trains by itself)"
            )
        yield
        return
    die_with_parent()
    meet()
    stdout = sys.stdout
    with open(os.devnull, "w") as nowhere:
        if rank() > 0:
            sys.stdout = nowhere
        try:
            yield
        except (UserError, SystemExit):  # all leave, none inside a collective: gloo's threads end before Python does
            _let_gloo_go()
            if dist.get_backend() == "gloo":
                dist.destroy_process_group()
            raise
        finally:
            sys.stdout = stdout
    _let_gloo_go()
    dist.destroy_process_group()  # after a crash it would wait for processes that are gone


def _let_gloo_go() -> None:
    """Wait without the interpreter's lock, for which gloo's threads may wait: they free what they exchanged last.

    Who frees the last trace of the group (DDP's reducer) holds that lock and waits for those threads: both for ever,
    seen with torch 2.11 on a busy machine. torch tells nobody when they are done; they need a moment.
    """
    time.sleep(0.2)


def meet() -> None:
    """Join the process group; a single process outside of torchrun makes a group of one, which engines need."""
    if dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    cuda = torch.cuda.is_available()
    if cuda:
        if local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"{processes_per_node()} processes need as many GPUs: {torch.cuda.device_count()} are here"
            )
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)


def gather(value: T) -> list[T]:
    """The value of every process, in order of rank, to all of them."""
    if num_processes() == 1:
        return [value]
    values = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


def together(call: Callable[[], T]) -> T:
    """Call on every process, and go on only if none found a mistake, so that none waits for one that gave up.

    Raises:
        UserError: of the first process that met one. Others than the main one leave without a word.
    """
    result, problem = None, None
    try:
        result = call()
    except UserError as error:
        problem = str(error)
    _agree(gather(problem))
    return result


def on_main(call: Callable[[], T]) -> T:
    """Call on the main process; its result, or its UserError, is everybody's."""
    result, problem = None, None
    if rank() == 0:
        try:
            result = call()
        except UserError as error:
            problem = str(error)
    if num_processes() > 1:
        shared = [(result, problem)]
        dist.broadcast_object_list(shared, src=0)
        result, problem = shared[0]
    _agree([problem])
    return result


def main_first(call: Callable[[], T]) -> T:
    """As `together`, when the main process has done it: it writes what the others then find."""

    def alone() -> None:
        call()

    on_main(alone)
    return together(call)


def barrier() -> None:
    gather(None)


def _agree(problems: list[str | None]) -> None:
    found = [(number, problem) for number, problem in enumerate(problems) if problem is not None]
    if not found:
        return
    if rank() > 0:
        _leave()
    number, problem = found[0]
    raise UserError(problem if number == 0 else f"process {number} of {len(problems)}: {problem}")


@contextlib.contextmanager
def alike() -> Iterator[None]:
    """Around what gives every process the same UserError: the main one tells it."""
    try:
        yield
    except UserError:
        if rank() > 0:
            _leave()
        raise


def _leave() -> NoReturn:
    """End a process that leaves the telling to the main one: when that has gone, or torchrun would end it too soon."""
    with contextlib.suppress(RuntimeError):  # the lost connection
        barrier()
    raise SystemExit(2)


class StopSignals:
    """Notes stop signals instead of dying of them, by `note` as their handler.

    Attributes:
        seen: a signal came to this process.
    """

    def __init__(self):
        self.seen = False

    def note(self, number, frame) -> None:
        self.seen = True

    def anywhere(self) -> bool:
        """Whether a signal came to any process; the same answer for all."""
        return any(gather(self.seen))


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
