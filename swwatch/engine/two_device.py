"""A watcher with a copy of the model of its own: on another GPU, or in another process.

Watching then takes no computing time from the speaker; only keys and values travel, once a step.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from copy import deepcopy
from dataclasses import fields, replace
from functools import partial
from multiprocessing.connection import wait

import torch
import torch.multiprocessing  # noqa: F401  teaches multiprocessing to send tensors through shared memory
from transformers.initialization import no_init_weights

from swwatch.engine.requests import Look
from swwatch.engine.watcher import ThreadWatcher, Watcher, WatcherGone, WatchWorker, Work
from swwatch.errors import UserError
from swwatch.model.loading import load
from swwatch.model.protocols import StreamingModel
from swwatch.model.quantised import linear_layers, to_int8
from swwatch.model.upstream import attention_of, from_config, set_attention
from swwatch.policies.see import See
from swwatch.rules.layout import Layout


class Copy:
    """What a model is made of, to make it again on another device or in another process (it can be pickled)."""

    def __init__(self, model: StreamingModel):
        model = model.plain
        if model.quantised and model.device.type != "cpu":
            raise UserError(f"engine two_device copies no weights of {model.quantised}: choose another engine")
        if model.packed:
            raise UserError("engine two_device shares plain weights with its process: leave --pack out")
        self.family, self.config, self.dtype = type(model), deepcopy(model.config), model.dtype
        self.attention = [attention_of(c) for c in (model.config.text_config, model.config.vision_config)]
        self.quantised, self.state = model.quantised, model.state_dict()

    def on(self, device: torch.device | str):
        """The model there, in eval mode. Where its weights are there already, as on a CPU, they are shared."""
        with no_init_weights(), torch.device(device):
            model = from_config(self.family, deepcopy(self.config), dtype=self.dtype)
        configs = model.config.text_config, model.config.vision_config
        for config, attention in zip(configs, self.attention, strict=True):
            set_attention(config, attention)
        if self.quantised:
            for layer in linear_layers(model).values():
                layer.to("meta")  # whose weights come from the state
            to_int8(model)
        on_cpu = torch.device(device).type == "cpu"
        state = {name: value.to(device) for name, value in self.state.items()} if on_cpu else self.state
        model.load_state_dict(state, assign=on_cpu)
        return model.eval()


class DeviceWatcher(ThreadWatcher):
    """A watcher in a thread, whose copy of the model is on another GPU. Keys and values go from device to device."""

    def __init__(self, model: StreamingModel, device: torch.device | str):
        """
        Args:
            model: the speaker's; its weights are copied.
            device: where to.
        """
        super().__init__(Copy(model).on(device), model.device)


class ProcessWatcher(Watcher):
    """A watcher in a process of its own: on a machine without two GPUs, where speaker and watcher share no Python.

    Pixels, keys and values go through shared memory. The process ends with `close`, with this one, however that ends
    (a killed parent cannot say goodbye), and before Ctrl-C reaches it. If it dies, tickets raise WatcherGone.
    """

    def __init__(self, make: Callable[[], object], device: torch.device | str = "cpu", threads: int = 1):
        """Start the process and wait until its model is there.

        Args:
            make: makes the model, in that process; it is pickled. See `of` and `load`.
            device: of the caches that receive.
            threads: of torch in that process.
        Raises:
            Exception: what went wrong in `make`. WatcherGone: the process ended.
        """
        context = multiprocessing.get_context("spawn")  # a forked child would share CUDA and locks with this process
        super().__init__(ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads,)))
        self._device, self._closed = torch.device(device), False
        try:
            self.pid: int = self._send(_open_worker, make).result()
        except BrokenExecutor as error:
            raise self.gone() from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, model, **options) -> "ProcessWatcher":
        """A copy of a model on the CPU. The weights go through shared memory, and a model on the CPU shares them."""
        copy = Copy(model)
        copy.state = {name: value.cpu() for name, value in copy.state.items()}
        return cls(partial(copy.on, "cpu"), model.device, **options)

    @classmethod
    def load(cls, path, *, device: torch.device | str = "cpu", threads: int = 1, **options) -> "ProcessWatcher":
        """A checkpoint, loaded again in the process. Arguments as for `loading.load` (its device: `on`).

        Args:
            device: of the caches that receive.
            options: for `loading.load`, in the process; its device is the CPU unless `on` names another.
        """
        on = options.pop("on", "cpu")
        return cls(partial(_load, path, device=str(on), **options), device, threads)

    def close(self) -> None:
        """As `Watcher.close`; the process is gone when this returns."""
        self._closed = True
        super().close()

    def gone(self) -> WatcherGone:
        if self._closed:
            return super().gone()
        return WatcherGone(
            "the watcher's process ended by itself (killed, often for memory): its sessions cannot go on, "
            "open new ones with a new watcher"
        )

    def bring(self, keys_values: torch.Tensor) -> torch.Tensor:
        """Out of shared memory, which is given back when the ticket is, and onto the device."""
        if self._device.type == "cpu":
            return keys_values.clone()
        # From pinned memory the copy is queued in the speaker's own stream, before whatever reads it, and the host
        # goes on. torch gives the pinned memory out again only after that copy
        return keys_values.pin_memory().to(self._device, non_blocking=True)

    def _task(self, key: int, work: Work) -> tuple:
        columns = torch.stack([getattr(work.rows, f.name) for f in fields(Layout)[:-1]])
        columns = torch.cat([columns, work.rows.position_ids]).numpy()  # few: in the message itself
        return _watch, key, columns, [_to_share(part) for part in work.parts], work.see, work.decides

    def _forgetting(self, key: int) -> tuple:
        return _forget, key


def _to_share(part: tuple[int, ...] | Look) -> tuple[int, ...] | Look:
    if not isinstance(part, Look):
        return part
    # a copy: sending moves a tensor's memory into shared memory, where the session's own would stay
    pixels, grid = (tensor.to("cpu", copy=True) for tensor in (part.pixel_values, part.grid_thw))
    return replace(part, pixel_values=pixels, grid_thw=grid)


def second_device(model, threads: int = 1) -> Watcher:
    """The watcher of this machine that has a device of its own: the next GPU, or a process on the CPU.

    Args:
        threads: of torch in the process, where it is one.
    Raises:
        UserError: the model is on the only GPU.
    """
    if model.device.type != "cuda":
        return ProcessWatcher.of(model, threads=threads)
    if torch.cuda.device_count() < 2:
        raise UserError("two_device needs a second GPU, and this machine has one: take streams or fused")
    return DeviceWatcher(model, torch.device("cuda", (model.device.index + 1) % torch.cuda.device_count()))


# What runs in the process. It has one thread for its work, and one model.
_worker: WatchWorker | None = None


def _begin(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes no queue. Its end is noticed here, also in the middle of a forward."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _load(path, **options):
    return load(path, **options).model


def _open_worker(make: Callable[[], object]) -> int:
    global _worker
    _worker = WatchWorker(make())
    return os.getpid()


def _watch(key: int, columns, parts: list, see: See | None, decides: bool) -> tuple:
    columns = torch.from_numpy(columns)
    work = Work(Layout(*columns[:5], columns[5:]), tuple(parts), see, decides)
    keys_values, patch, not_yet, stopwatch = _worker.watch(key, work)
    keys_values = keys_values.cpu()  # on a GPU this waits until all is computed
    return keys_values, patch, None if not_yet is None else float(not_yet), stopwatch.seconds()


def _forget(key: int) -> None:
    _worker.forget(key)
