"""Ways to make a model fail or stand still where a test wants it."""

import threading
from contextlib import contextmanager

import torch


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@contextmanager
def failing(model, fails, error=out_of_memory):
    """The LLM raises in its last layer, when all others have stored the rows, where `fails(caches)`."""

    def check(module, args, kwargs):
        cache = kwargs["past_key_values"]
        if fails(list(getattr(cache, "caches", [cache]))):
            raise error()

    hook = model.model.language_model.layers[-1].register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


class Gate:
    """Lets forwards of the LLM through one at a time, or all of them: the slowest model there can be.

    Use it as a context; `stuck` tells that a forward stands before it.
    """

    def __init__(self, model, passes: int = 0):
        self._text, self._changed = model.model.language_model, threading.Condition()
        self._passes, self._open, self._standing = passes, False, False

    def let(self, passes: int) -> None:
        """So many more forwards."""
        with self._changed:
            self._passes += passes
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def stuck(self, timeout_s: float = 60) -> None:
        """Return when a forward stands before the gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._standing and not self._passes, timeout_s)

    def _stand(self, module, args, kwargs):
        with self._changed:
            self._standing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._passes)
            self._standing, self._passes = False, max(0, self._passes - 1)

    def __enter__(self) -> "Gate":
        self._hook = self._text.register_forward_pre_hook(self._stand, with_kwargs=True)
        return self

    def __exit__(self, *exc):
        self._hook.remove()
        self.open()
