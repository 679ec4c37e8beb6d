"""Functions in processes of their own, forked from one that has imported everything: imports would take most of the
time of runs as small as these."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FROM = multiprocessing.get_context("forkserver")
FROM.set_forkserver_preload(["swwatch.train.command", "swwatch.train.trainer", "deepspeed"])


@dataclass(frozen=True)
class Done:
    """As subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


class Forked:
    """A process that runs `function(*args)`, whose result is its exit code, in a process group of its own."""

    def __init__(self, function: Callable[..., int], *args, env: dict[str, str] | None = None):
        """Args: env: all of its environment; by default this process's own."""
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = FROM.Process(target=_run, args=(self._files, env or dict(os.environ), function, args))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def end(self, timeout_s: float = 600) -> Done:
        """Wait for it."""
        self._process.join(timeout_s)
        assert self._process.exitcode is not None, "it hangs"
        with self._folder:
            return Done(self._process.exitcode, *(file.read_text() for file in self._files))

    def kill(self) -> None:
        """Kill it outright, and not the processes that it has started."""
        self._process.kill()
        self._process.join()
        self._folder.cleanup()


def _run(files: list[Path], env: dict[str, str], function: Callable[..., int], args: tuple) -> None:
    os.setsid()
    for descriptor, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(env)
    import torch

    torch.set_num_threads(1)
    raise SystemExit(function(*args))
