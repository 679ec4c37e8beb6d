"""CUDA graphs by key: a computation is recorded when first asked for, and replayed as one launch from then on."""

from collections.abc import Callable, Hashable
from threading import Lock

import torch

RECORDING = Lock()  # of the process: one recording at a time


class CudaGraphs:
    """Recorded computations of one caller, which never run at the same time: they share their working memory.

    What is recorded must read its input from, and write to, tensors that stay where they are, and must not wait for
    the device. All runs are on the CUDA stream of the first. A result stands in shared memory and is good until the
    next run.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._home: torch.cuda.Stream | None = None
        # what was recorded keeps the tensors alive that it reads
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor, Callable]] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, key: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """`compute()`, recorded under `key` if nothing is yet. Running it twice must be the same as once."""
        here = torch.cuda.current_stream(self._device)
        self._home = self._home or here
        if here != self._home:
            raise RuntimeError("recorded forwards run on one CUDA stream: take another() model for a second one")
        if key not in self._recorded:
            with RECORDING:
                self._recorded[key] = *self._record(compute), compute
        graph, result, _ = self._recorded[key]
        graph.replay()
        return result

    def _record(self, compute: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # 1) run it as it is: libraries make their handles and workspaces at the first call, which recording forbids
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            compute()
        here.wait_stream(self._stream)
        # 2) record. Other threads (a watcher, a decoder) may go on meanwhile, so only this one's errors count
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with torch.cuda.stream(here), recording:  # `here` again, even where the end of a recording fails
            result = compute()
        return graph, result
