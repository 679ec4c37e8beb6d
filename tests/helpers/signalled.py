"""`swwatch train` in a process of its own, which signals itself at a chosen moment."""

import importlib
import os
import signal

from tests.helpers.forked import Done, Forked


def signal_at(owner: str, function: str, count: int, arguments: list[str], number: int) -> Done:
    """Signal the process, workers included, when `function` of `owner` is about to be called the `count`-th time.

    Args:
        owner: a module, or "module:attribute".
    """
    return Forked(train_signalled, owner, function, count, arguments, int(number)).end()


def kill_at(owner: str, function: str, count: int, arguments: list[str]) -> None:
    done = signal_at(owner, function, count, arguments, signal.SIGKILL)
    assert done.returncode == -9, f"it was to be killed in {function}\n{done.stderr}"


def train_signalled(owner: str, function: str, count: int, arguments: list[str], number: int) -> int:
    """In the process."""
    module, _, attribute = owner.partition(":")
    owner = importlib.import_module(module)
    owner = getattr(owner, attribute) if attribute else owner
    real = getattr(owner, function)

    def stop(*args, **kwargs):
        nonlocal count
        count -= 1
        if count == 0:
            os.killpg(0, number)
        return real(*args, **kwargs)

    setattr(owner, function, stop)
    from swwatch.train.command import main

    return main(arguments)
