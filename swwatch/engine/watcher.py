"""Watching beside speaking: who runs the vision tower and the watched rows while a session goes on saying its words.

What was watched depends on prompt and video only (see visibility.py), so that it can be computed anywhere. A `Watcher`
keeps, for each session that it serves, a cache of watched tokens that nobody else touches. Work goes in, and keys and
values come out as tensors that nobody writes to again: the two sides share nothing that changes.

`ThreadWatcher` is a thread, on CUDA with a stream of its own. two_device.py has watchers on another GPU and in a
process of their own.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

import torch

from swwatch.data.pixels import merged_grids
from swwatch.engine.requests import Look, answer_to
from swwatch.model.protocols import SessionCache, StreamingModel
from swwatch.policies.see import See
from swwatch.policies.see.seen import Seen
from swwatch.rules.layout import Layout
from swwatch.rules.patch import Patch


class WatcherError(RuntimeError):
    """A watcher cannot go on with a session: it failed at it before, or it is gone."""


class WatcherGone(WatcherError):
    """It was closed, or its process ended: nothing can be watched by it any more."""


@dataclass(frozen=True)
class Work:
    """Watched rows of one session, to be computed in one forward.

    Attributes:
        rows: Q tokens that continue what this session's earlier work fed.
        parts: what they are, in order: token ids, or pixels for the vision tower.
        see: a policy that decides late, and so here, which rows of the patch are left; None: all.
        decides: the chance of "not yet" after the last row is wanted, see model.streaming.
    """

    rows: Layout
    parts: tuple[tuple[int, ...] | Look, ...]
    see: See | None = None
    decides: bool = False


@dataclass(frozen=True)
class WatchSeconds:
    """What a piece of work took in seconds: the vision tower, and the LLM's forward. Waiting for a turn is no part."""

    vision_s: float
    prefill_s: float


@dataclass(frozen=True)
class WatchedKeysValues:
    """What came out of a piece of work: keys and values (layers, 2, B, N, Q, D) of the Q rows that are left of it.

    Attributes:
        patch: what the work's policy left of the video; None: it had none, or no video.
        not_yet: 0-d, where it is wanted and rows are left.
    """

    rows: Layout
    keys_values: torch.Tensor
    patch: Patch | None
    not_yet: torch.Tensor | float | None
    seconds: WatchSeconds


class Stopwatch:
    """Three moments of a computation: its beginning, after the vision tower, its end.

    On CUDA they are events that the GPU notes when it comes to them in its current stream. Nothing waits for them.
    """

    def __init__(self, device: torch.device):
        self._on_gpu, self._moments = device.type == "cuda", []

    def note(self) -> None:
        """Now."""
        if self._on_gpu:
            self._moments.append(torch.cuda.Event(enable_timing=True))
            self._moments[-1].record()
        else:
            self._moments.append(time.perf_counter())

    def seconds(self) -> WatchSeconds:
        """Once the last moment has passed."""
        pairs = itertools.pairwise(self._moments)
        return WatchSeconds(*(a.elapsed_time(b) / 1000 if self._on_gpu else b - a for a, b in pairs))


class WatchWorker:
    """The computing half of every watcher: a model, and a watched cache for each session."""

    def __init__(self, model: StreamingModel):
        """Args: the model. Its weights are read, and it must keep nothing from call to call."""
        self.model = model
        self._caches: dict[int, SessionCache | None] = {}  # None: a forward of that session failed half-way
        self._seen: dict[int, Seen] = {}  # of sessions whose policy decides late

    def watch(self, key: int, work: Work) -> tuple[torch.Tensor, Patch | None, torch.Tensor | None, Stopwatch]:
        """Feed a session's next rows.

        Returns:
            Their keys and values (layers, 2, B, N, Q, D), a copy which later work does not change, what a policy that
            decides late left of the video, the chance of "not yet", and when. On CUDA keys and values are queued then,
            and not computed.
        """
        cache = self._caches[key] if key in self._caches else self.model.new_cache()
        if cache is None:
            raise WatcherError("watching failed at an earlier step of this session")
        self._caches[key] = None
        stopwatch, num_before = Stopwatch(self.model.device), cache.num_fed
        stopwatch.note()
        rows, patch, not_yet, embeds = work.rows, None, None, []
        for part in work.parts:
            if not isinstance(part, Look) or work.see is None:
                embeds.append(self._embed(part))
                continue
            seen = self._seen.setdefault(key, Seen(work.see))
            (grid,) = merged_grids(part.grid_thw, self.model.config.vision_config.spatial_merge_size)
            features = self._embed(replace(part, reuse=seen.reuse))
            patch, features = seen.look(features, grid, self.model.num_deep)
            embeds.append(features)
            rows = rows.strike(patch)
        stopwatch.note()
        if len(rows) and work.decides:
            _, not_yet = self.model.step(cache, rows, torch.cat(embeds).to(self.model.dtype), None, decides=-1)
        elif len(rows):
            self.model.step(cache, rows, torch.cat(embeds).to(self.model.dtype), None)
        keys_values = cache.export(num_before)[1]
        stopwatch.note()
        self._caches[key] = cache
        return keys_values, patch, not_yet, stopwatch

    @torch.no_grad()
    def _embed(self, part: tuple[int, ...] | Look) -> torch.Tensor:
        if isinstance(part, Look):
            return answer_to(self.model, part)
        return self.model.embed(part)

    def forget(self, key: int) -> None:
        """Return a session's memory."""
        self._caches.pop(key, None)
        self._seen.pop(key, None)


class Ticket:
    """Work under way. A session waits on it as on a source (requests.Wait)."""

    def __init__(self, watcher: "Watcher", rows: Layout, future: Future):
        self._watcher, self._rows, self._future = watcher, rows, future

    @property
    def ready(self) -> bool:
        """Whether `take` would return, or raise, at once."""
        return self._future.done()

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until `ready`, or until the time is over."""
        with suppress(CancelledError, TimeoutError):
            self._future.exception(timeout_s)

    def take(self) -> WatchedKeysValues:
        """Wait for what comes out.

        Raises:
            Exception: what went wrong in the watcher, WatcherGone if it is there no more.
        """
        try:
            keys_values, patch, not_yet, seconds = self._future.result()
        except (CancelledError, BrokenExecutor) as error:
            raise self._watcher.gone() from error
        rows = self._rows if patch is None else self._rows.strike(patch)
        return WatchedKeysValues(rows, self._watcher.bring(keys_values), patch, not_yet, seconds)


class Watcher(ABC):
    """Computes the watched rows of any number of sessions, one piece of work after the other, in order of submission.

    Its methods may be called from any thread. An exception in a piece of work is raised where its ticket is taken, in
    the session that it belongs to, and ends the watching of that session alone.
    """

    def __init__(self, executor: Executor):
        """Args: an executor with one worker."""
        self._executor = executor
        self._keys = itertools.count()
        self._listener: Callable[[], None] | None = None

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called, in another thread, whenever a ticket has become ready: for one who drives many
        sessions and waits on no ticket of theirs."""
        self._listener = listener

    def open(self) -> int:
        """A key for a new session."""
        return next(self._keys)

    def submit(self, key: int, work: Work) -> Ticket:
        """Put work in line and return at once.

        Raises:
            WatcherGone: it is there no more.
        """
        future = self._send(*self._task(key, work))
        future.add_done_callback(lambda _: self._listener and self._listener())
        return Ticket(self, work.rows, future)

    def forget(self, key: int) -> None:
        """A session is over: its memory is returned when its turn comes. Nothing happens where all is gone already."""
        try:
            self._send(*self._forgetting(key))
        except WatcherGone:
            return

    def close(self) -> None:
        """Finish the piece of work under way, drop those in line, and end. Their tickets raise WatcherGone."""
        self._executor.shutdown(cancel_futures=True)

    def gone(self) -> WatcherGone:
        """Why no work can be done any more."""
        return WatcherGone("the watcher was closed: open a new one")

    def bring(self, keys_values: torch.Tensor) -> torch.Tensor:
        """What was handed over, for use by the session that takes it, in its thread and its current stream."""
        return keys_values

    @abstractmethod
    def _task(self, key: int, work: Work) -> tuple:
        """A function and its arguments, for the executor to run; it returns keys and values, the patch that a policy
        left or None, the chance of "not yet" or None, and WatchSeconds."""

    @abstractmethod
    def _forgetting(self, key: int) -> tuple:
        """A function and its arguments, for the executor to run."""

    def _send(self, *task) -> Future:
        try:
            return self._executor.submit(*task)
        except RuntimeError as error:  # it was shut down, or broke
            raise self.gone() from error

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class ThreadWatcher(Watcher):
    """A watcher in a thread of this process; on CUDA its kernels run in a stream of their own, beside the speaker's.

    Both use the same weights, which are only read. A model that keeps memory between calls (CudaGraphModel) is asked
    for `another()`, which has its own.
    """

    def __init__(self, model: StreamingModel, device: torch.device | str | None = None):
        """
        Args:
            model: the speaker's.
            device: of the caches that receive; by default the model's own.
        """
        super().__init__(ThreadPoolExecutor(1, thread_name_prefix="watcher"))
        self._worker = WatchWorker(model.another())
        self._device = torch.empty(0, device=device or model.device).device  # "cuda" becomes "cuda:0"
        # One stream on each device in play. The model's comes last, so that its device is the current one inside
        devices = dict.fromkeys(d for d in (self._device, model.device) if d.type == "cuda")
        self._streams = [torch.cuda.Stream(d) for d in devices]
        for stream in self._streams:
            # the weights may still be on their way, in the stream of the thread that loaded them
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def bring(self, keys_values: torch.Tensor) -> torch.Tensor:
        """As `Watcher.bring`. The host knows that they are complete, so no stream needs to wait."""
        if keys_values.is_cuda:
            # The memory belongs to the watcher's stream. Once dropped it would be given out there again at once, while
            # the speaker's stream may still be copying from it: this makes the allocator wait for that
            keys_values.record_stream(torch.cuda.current_stream(keys_values.device))
        return keys_values

    def _task(self, key: int, work: Work) -> tuple:
        # The pixels may still be in the making, in the current stream of the thread that submits them
        devices = {part.pixel_values.device for part in work.parts if isinstance(part, Look)}
        events = [torch.cuda.current_stream(d).record_event() for d in devices if d.type == "cuda"]
        return self._watch, key, work, events

    def _forgetting(self, key: int) -> tuple:
        return self._worker.forget, key

    def _watch(self, key: int, work: Work, events: list) -> tuple:
        """In the watcher's thread. `work` keeps the pixels until its stream is through with them."""
        if not self._streams:
            *found, stopwatch = self._worker.watch(key, work)
            return *found, stopwatch.seconds()
        with ExitStack() as streams:
            for stream in self._streams:
                streams.enter_context(torch.cuda.stream(stream))
                for event in events:
                    stream.wait_event(event)  # before the vision tower reads the pixels
            keys_values, patch, not_yet, stopwatch = self._worker.watch(key, work)
            # Between two GPUs torch orders the copy behind the current stream of the one and before the current stream
            # of the other. Both are the watcher's own here, so that the speaker's stream is not held up by it
            keys_values = keys_values.to(self._device, non_blocking=True)
            # The only wait of a host for a GPU, and it is this thread's: a ticket is ready when all is computed. So
            # the speaker never queues anything behind work that is not done, which would hold up other sessions too
            torch.cuda.current_stream(self._device).synchronize()
            return keys_values, patch, None if not_yet is None else not_yet.cpu(), stopwatch.seconds()
