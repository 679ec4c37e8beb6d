"""The data loader's worker processes: how much they keep ready, how they end, what it means when one dies."""

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from torch.utils.data import DataLoader

from swwatch.data.reading import worker_died
from swwatch.data.samples import Samples
from swwatch.launch.signals import die_with_parent, ignore_stop_signals
from swwatch.train.settings import TrainSettings
from swwatch.train.upstream import end_workers, loader_workers

# How workers start, whatever Python's default: a fork's parent is the trainer, a forkserver's the server, which its
# children keep alive, so that both would outlive a trainer that was killed.
START = "fork"
DYING_S = 10.0  # between a closed connection and the end of the process, with a core dump


def start_worker(worker_id: int) -> None:
    """What a loader worker does first."""
    ignore_stop_signals()
    die_with_parent()  # it has inherited the lock of the output folder


def prefetch_factor(settings: TrainSettings, accumulation: int) -> int | None:
    """Batches that a worker keeps ready: together those of the next step, which are all taken at once.

    Args:
        accumulation: forwards of this process in a step.
    """
    if not settings.num_workers:
        return None
    return settings.prefetch_factor or max(2, math.ceil(accumulation / settings.num_workers))


@contextlib.contextmanager
def workers_end(loader_of: Callable[[], DataLoader | None], clips: Samples) -> Iterator[None]:
    """Around a run: its workers end with it, however it ends.

    Args:
        loader_of: gives the run's loader, once there is one.
    Raises:
        UserError: a worker died; names the clip.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:  # any of these, depending on what the loader was at
        with _deaf_to_children():
            workers = loader_workers(loader_of())
            ended = wait([worker.sentinel for worker in workers], 0.0 if isinstance(error, RuntimeError) else DYING_S)
            for worker in workers:
                worker.join(DYING_S if worker.sentinel in ended else 0.0)  # its files are closed a little earlier
            died = worker_died(workers, clips.reading, clips.name)
        if died is None:
            raise
        raise died from error
    finally:
        with _deaf_to_children():
            end_workers(loader_of())


@contextlib.contextmanager
def _deaf_to_children() -> Iterator[None]:
    """Without torch's handler of SIGCHLD, which raises wherever the program is when a worker dies."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
