"""Servers behind one door that run on this machine: a process each, started, looked after and ended here."""

import multiprocessing
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import httpx

from swwatch.client.address import Address
from swwatch.errors import UserError
from swwatch.launch.signals import die_with_parent
from swwatch.launch.worker import leave
from swwatch.paths import only_one
from swwatch.serve.keeping import ENDING
from swwatch.serve.log import log
from swwatch.serve.replicas import SILENT_S, Replica
from swwatch.serve.scaling import Scale
from swwatch.serve.settings import ServeSettings

STEADY_S, LONGEST_PAUSE_S = 60.0, 30.0  # one that dies sooner is started again after a pause, which doubles
ENDED_S = 30.0  # one that stops, and has not ended by itself by then, is killed
CORES = 4  # of a replica, where `auto` counts CPUs
Serve = Callable[[ServeSettings, Callable[[int], None]], None]


class Child(Replica):
    """A replica in a process of its own: asleep until it is started, and started again when it dies.

    Attributes:
        used_s: when it was last in use, woken or told to rest, of time.monotonic().
    """

    def __init__(self, serve: Serve, settings: ServeSettings, environment: dict[str, str]):
        super().__init__(str(settings.replica))
        self._serve, self._settings, self._environment = serve, settings, environment
        self.process: SpawnProcess | None = None
        self.asleep, self.used_s = True, 0.0
        self._pause_s = self._start_at_s = self._began_s = 0.0

    def start(self) -> None:
        """Begin to load; `look` finds out when it serves."""
        shutil.rmtree(self._environment["TMPDIR"], ignore_errors=True)  # left by the one before
        os.mkdir(self._environment["TMPDIR"])
        spawn = multiprocessing.get_context("spawn")
        self._ready, sender = spawn.Pipe(duplex=False)
        about = (self._serve, self._settings, self._environment, os.getpid(), sender)
        self.process = spawn.Process(target=_begin, args=about, name=f"replica {self.name}", daemon=True)
        self.process.start()
        sender.close()
        self.asleep, self.address, self.starts = False, None, self.starts + 1
        self._began_s = self.used_s = time.monotonic()

    def wake(self, now_s: float) -> None:
        """Have it started by the next `look`."""
        self.asleep, self.address, self._pause_s = False, None, 0.0
        self._start_at_s = self._began_s = self.used_s = now_s

    def rest(self, now_s: float) -> None:
        """End it, until it is woken."""
        self.asleep, self.used_s, self.stops = True, now_s, self.stops + 1
        self.gone()
        if self.runs:
            self.stop()

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.is_alive()

    @property
    def in_use(self) -> bool:
        """Somebody would miss it."""
        return bool(self.sessions or self.held or self.sockets)

    @property
    def begun_s(self) -> float | None:
        loads = not self.asleep and self.address is None and not self._pause_s
        return self._began_s if loads else None

    @property
    def signs(self) -> list[Connection | int]:
        """What multiprocessing.connection.wait waits on for news of it."""
        return [self._ready, self.process.sentinel]

    def hear(self) -> None:
        """Take its address, if it tells it. Raises UserError: it cannot be started."""
        if self.address is None and self._ready.poll():
            try:
                message = self._ready.recv()
            except EOFError:  # it died
                return
            if isinstance(message, str):
                raise UserError(message)
            self.address = Address(f"http://127.0.0.1:{message}", self._settings.token)
            self._heard_s = time.monotonic()
            self.took_s = self._heard_s - self._began_s

    async def look(self, http: httpx.AsyncClient) -> bool:
        """As of others; one that has died, or is silent for long, is started again."""
        if self.asleep:
            if self.runs and time.monotonic() - self.used_s > ENDED_S:
                self.kill()
            return False
        if self._start_at_s:
            if time.monotonic() >= self._start_at_s:
                self._start_again()
            return False
        try:
            self.hear()
        except UserError as error:
            log("replica not started", level=40, replica=self.name, why=str(error))
        if not self.runs:
            return self._died()
        if self.address is not None:
            await super().look(http)
            self.up = self.up and not self.asleep  # by now
            if time.monotonic() - self._heard_s > SILENT_S:
                self.kill()
        return False

    def _start_again(self) -> None:
        self._start_at_s = 0.0
        try:
            self.start()
        except OSError as error:  # no room on the disk, or for a process
            log("replica not started", level=40, replica=self.name, why=str(error))
            self._wait(steady=False)

    def _died(self) -> bool:
        code = self.process.exitcode
        log("replica died", level=40, replica=self.name, code=code)
        self.gone()
        self._wait(self.address is not None and time.monotonic() - self._began_s > STEADY_S)
        return code != 0 or self._settings.keep_sessions is None

    def _wait(self, steady: bool) -> None:
        """Until it is started again, longer where it did not last."""
        self._pause_s = 0.0 if steady else min(LONGEST_PAUSE_S, max(1.0, 2 * self._pause_s))
        self._start_at_s = time.monotonic() + self._pause_s

    def stop(self) -> None:
        """Ask it to end."""
        self.process.terminate()

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.process is not None:
            self.process.kill()
            self.process.join()


@contextmanager
def children(settings: ServeSettings, scale: Scale, serve: Serve) -> Iterator[list[Child]]:
    """As many replicas as there may be, of which the first serve; at the end none does, and nothing of theirs is left
    but what is kept.

    Args:
        scale: those of least that are started, or that kept sessions need.
        serve: what each process does: called with its settings, and with what is to be told the port.
    Raises:
        UserError: they cannot be started.
    """
    cores = max(1, len(os.sched_getaffinity(0)) // scale.most)
    threads = os.environ.get("OMP_NUM_THREADS", str(cores))
    num = scale.least
    with ExitStack() as held:
        for folder, what in ((settings.record_folder, "recordings"), (settings.keep_sessions, "sessions")):
            if folder is not None:
                held.enter_context(only_one(folder, f"{what} to {folder}"))
        if settings.keep_sessions is not None:
            num = scale.wanted(len(list(settings.keep_sessions.rglob(f"*{ENDING}"))))
            _spread(settings.keep_sessions, num)
        own = tempfile.TemporaryDirectory(prefix="swwatch-replicas-", ignore_cleanup_errors=True)
        held.enter_context(own)
        replicas = [
            Child(serve, _settings_of(settings, n), {"TMPDIR": f"{own.name}/{n}", "OMP_NUM_THREADS": threads})
            for n in range(scale.most)
        ]
        held.callback(lambda: [child.kill() for child in replicas])
        for number, child in enumerate(replicas[:num]):
            child.start()
            if not settings.model and not number:  # a toy may have to be made, by one of them
                _wait_for([child])
        _wait_for(replicas[:num])
        yield replicas


def scale_here(settings: ServeSettings) -> Scale:
    """How many replicas --replicas asks for; auto is one a GPU, else one for four cores.

    Raises:
        UserError: one that is started later would find no GPU of its own.
    """
    least, colon, most = settings.replicas.partition(":")
    if least == "auto":
        least = most = num_devices() or max(1, len(os.sched_getaffinity(0)) // CORES)
    scale = Scale(int(least), int(most or least), settings.max_sessions, settings.replica_idle_s + settings.grace_s)
    if colon and settings.device in (None, "cuda") and (num := num_devices()):
        most = max(1, num // _devices_each(settings))
        if scale.most > most:
            raise UserError(f"--replicas {settings.replicas}: the GPUs here are enough for {most}, give no more")
    return scale


def num_devices() -> int:
    """CUDA devices that are here."""
    import torch

    return torch.cuda.device_count()


def _devices_each(settings: ServeSettings) -> int:
    return 2 if settings.engine == "two_device" else 1


def _settings_of(settings: ServeSettings, number: int) -> ServeSettings:
    """Of one replica, which nobody but the door may use."""
    keep = settings.keep_sessions and settings.keep_sessions / str(number)
    private = {"host": "127.0.0.1", "port": 0, "token": secrets.token_urlsafe(24), "no_token": False, "open": False}
    return replace(settings, replicas=None, replica=number, keep_sessions=keep, allow_origin=[], **private)


def _spread(folder: Path, num: int) -> None:
    """Give kept sessions of one server, or of another number of replicas, to those that there are now."""
    homes = [folder / str(number) for number in range(num)]
    strays = [path for path in sorted(folder.rglob(f"*{ENDING}")) if path.parent not in homes]
    for path, home in zip(strays, cycle(homes)):
        home.mkdir(exist_ok=True)
        path.rename(home / path.name)


def _wait_for(replicas: list[Child]) -> None:
    """Until all serve. Raises UserError: one cannot."""
    while waiting := [child for child in replicas if child.address is None]:
        wait([sign for child in waiting for sign in child.signs])
        for child in waiting:
            child.hear()
            if child.address is None and not child.runs:
                why = f"ended with code {child.process.exitcode} before it served"
                raise UserError(f"replica {child.name} {why}; what it has printed tells why")


def _begin(serve: Serve, settings: ServeSettings, environment: dict[str, str], parent: int, ready: Connection) -> None:
    """One replica, in its own process."""
    die_with_parent(parent, signal.SIGTERM)  # who is told to end puts away what is to be kept
    os.environ.update(environment)
    if settings.device in (None, "cuda"):
        _take_devices(settings)
    try:
        serve(settings, ready.send)
    except UserError as error:
        ready.send(str(error))
        leave(2)
    except KeyboardInterrupt:
        leave(130)
    leave(0)


def _take_devices(settings: ServeSettings) -> None:
    """See those CUDA devices alone that are this replica's: one, or two where the engine wants them, in turn."""
    num, each = num_devices(), _devices_each(settings)
    if num > each:
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[:num]
        names = names if any(names) else [str(number) for number in range(num)]
        first = settings.replica % (num // each) * each
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[first : first + each])
