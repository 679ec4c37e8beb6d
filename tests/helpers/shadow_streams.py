"""Streams and events of a CUDA device that is not there: who wrote what, and whether anything orders a read behind it.

Every stream counts its operators, and knows how far each other one had come when it last waited for it; an event is a
copy of that knowledge. The host knows what it has waited for, and whatever it starts comes after that. Memory that is
given back belongs to the stream that it was made in: what another one may still be reading has to be lent to it
(record_stream) or be over.
"""

import threading
import weakref
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import torch

GARBAGE = -77  # in host memory that a copy has not come to
Clock = Counter  # stream number -> operators of it that are known to be over


def join(clock: Clock, other: Clock) -> None:
    """Know what the other knows."""
    for number, count in other.items():
        clock[number] = max(clock[number], count)


class Stream:
    """Stands for torch.cuda.Stream."""

    def __init__(self, streams: "Streams", device: torch.device, number: int):
        self._streams, self.device, self.number = streams, device, number
        self.clock: Clock = Clock()
        self.pending: list = []  # copies to the host under way: (count, what it will do)

    def __enter__(self):
        raise TypeError("use torch.cuda.stream(...)")

    def wait_stream(self, stream: "Stream") -> None:
        join(self.clock, stream.clock)

    def wait_event(self, event: "Event") -> None:
        join(self.clock, event.clock)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        self._streams.host_knows(self.clock)

    def query(self) -> bool:
        self.synchronize()
        return True


class Event:
    """Stands for torch.cuda.Event. It has passed when it is asked for the second time."""

    streams: "Streams"

    def __init__(self, enable_timing: bool = False, **_):
        self.clock, self._asked = Clock(), 0

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.streams.current(None)
        self.clock, self._asked = Clock(stream.clock), 0

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self.streams.current(None)).wait_event(self)

    def query(self) -> bool:
        self._asked += 1
        if self._asked > 1:
            self.synchronize()
        return self._asked > 1

    def synchronize(self) -> None:
        self._asked += 1
        self.streams.host_knows(self.clock)

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Memory:
    """A piece of device memory: who wrote it last, who read it since, and to which streams it was lent."""

    def __init__(self, streams: "Streams", stream: Stream, storage):
        self.streams, self.home, self.lent, self.storage = streams, stream, set(), storage
        self.written: tuple[Stream, int, str] | None = None
        self.read: dict[Stream, tuple[int, str]] = {}

    def __del__(self):
        if self.streams.over:
            return
        uses = dict(self.read)
        if self.written is not None:  # what its stream has read since comes later
            uses.setdefault(self.written[0], self.written[1:])
        for stream, (count, by) in uses.items():
            if stream is not self.home and stream not in self.lent and self.home.clock[stream.number] < count:
                if self.streams.host[stream.number] < count:
                    self.streams.races.append(f"memory given back while another stream may be at it ({by})")


class Streams:
    """All streams of all devices.

    Attributes:
        races: what was found, in words.
        host: what the host has waited for.
        over: nothing is noted any more.
    """

    def __init__(self):
        self.races: list[str] = []
        self.host, self.over = Clock(), False
        self._all: list[Stream] = []
        self._default: dict[torch.device, Stream] = {}
        self._local = threading.local()
        self._memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()

    # ---- where a thread is ------------------------------------------------------------------------------------------

    @property
    def current_device(self) -> int:
        return getattr(self._local, "device", 0)

    def set_device(self, device) -> None:
        self._local.device = device if isinstance(device, int) else torch.device(device).index or 0

    def _device(self, device) -> torch.device:
        if device is None or isinstance(device, int):
            return torch.device("cuda", self.current_device if device is None else device)
        device = torch.device(device)
        return torch.device("cuda", self.current_device if device.index is None else device.index)

    def new(self, device=None, priority: int = 0, **_) -> Stream:
        with self._lock:
            self._all.append(Stream(self, self._device(device), len(self._all)))
            return self._all[-1]

    def default(self, device=None) -> Stream:
        device = self._device(device)
        with self._lock:
            if device not in self._default:
                self._default[device] = self.new(device)
        return self._default[device]

    def current(self, device=None) -> Stream:
        chosen = getattr(self._local, "current", {})
        return chosen.get(self._device(device)) or self.default(device)

    @contextmanager
    def at(self, stream: Stream | None):
        """Stands for torch.cuda.stream."""
        if stream is None:
            yield
            return
        before, device = dict(getattr(self._local, "current", {})), self.current_device
        self._local.current = before | {stream.device: stream}
        self.set_device(stream.device)
        try:
            yield
        finally:
            self._local.current = before
            self.set_device(device)

    @contextmanager
    def on_device(self, device):
        before = self.current_device
        self.set_device(self._device(device))
        try:
            yield
        finally:
            self.set_device(before)

    # ---- who does what ----------------------------------------------------------------------------------------------

    def memory_of(self, inner: torch.Tensor, device: torch.device) -> Memory:
        storage = inner.untyped_storage()
        with self._lock:
            memory = self._memories.get(storage._cdata)
            if memory is None:
                memory = self._memories[storage._cdata] = Memory(self, self.current(device), storage)
        return memory

    def _go(self, device: torch.device) -> Stream:
        """One more operator in the current stream, behind all that the host knows of."""
        stream = self.current(device)
        join(stream.clock, self.host)
        stream.clock[stream.number] += 1
        return stream

    def read(self, device: torch.device, memory: Memory, by: str) -> None:
        """An operator in the current stream reads; in a recording, whenever that is replayed."""
        if self._recording(self.read, device, memory, by):
            return
        with self._lock:
            stream = self._go(device)
            self._behind_writer(stream, memory, by)
            memory.read[stream] = stream.clock[stream.number], by

    def write(self, device: torch.device, memory: Memory, by: str) -> None:
        """An operator in the current stream writes; in a recording, whenever that is replayed."""
        if self._recording(self.write, device, memory, by):
            return
        with self._lock:
            stream = self._go(device)
            self._behind_writer(stream, memory, by)
            for other, (count, reader) in memory.read.items():
                if stream.clock[other.number] < count:
                    self.races.append(f"{by} writes what {reader} may still be reading")
            memory.read, memory.written = {}, (stream, stream.clock[stream.number], by)

    def _behind_writer(self, stream: Stream, memory: Memory, by: str) -> None:
        if memory.written is not None:
            other, count, writer = memory.written
            if stream.clock[other.number] < count:
                self.races.append(
                    f"{by} in stream {stream.number} comes behind no wait for {writer} in {other.number}"
                )

    def join(self, one: torch.device, other: torch.device) -> None:
        """The current stream of the one waits for that of the other."""
        self.current(one).wait_stream(self.current(other))

    # ---- the host ---------------------------------------------------------------------------------------------------

    def host_knows(self, clock: Clock) -> None:
        with self._lock:
            join(self.host, clock)
            for stream in self._all:
                done = [what for count, what in stream.pending if count <= self.host[stream.number]]
                stream.pending = [pair for pair in stream.pending if pair[0] > self.host[stream.number]]
                for what in done:
                    what()

    def host_waits(self, device: torch.device) -> None:
        self.host_knows(self.current(device).clock)

    def synchronize(self, device=None) -> None:
        device = self._device(device)
        for stream in self._all:
            if stream.device == device:
                self.host_knows(stream.clock)

    def later(self, device: torch.device, what) -> None:
        """A copy to the host is under way."""
        stream = self.current(device)
        stream.pending.append((stream.clock[stream.number], what))

    # ---- recordings -------------------------------------------------------------------------------------------------

    def refuse_in_recording(self, why: str) -> None:
        if getattr(self._local, "graph", None) is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {why}")

    def recorded(self, compute, out) -> None:
        graph = getattr(self._local, "graph", None)
        if graph is not None:
            graph.steps.append((compute, out))

    def _recording(self, *use) -> bool:
        graph = getattr(self._local, "graph", None)
        if graph is not None:
            graph.uses.append(use)
        return graph is not None

    @contextmanager
    def graph(self, graph: "Graph", pool=None, stream: Stream | None = None, capture_error_mode: str = "global"):
        """Stands for torch.cuda.graph. What is recorded runs once meanwhile."""
        with self.at(stream):
            self._local.graph = graph
            try:
                yield
            finally:
                self._local.graph = None


class Graph:
    """Stands for torch.cuda.CUDAGraph: computes again from the same memory into the same memory."""

    def __init__(self):
        self.steps: list = []
        self.uses: list = []

    def replay(self) -> None:
        for note, *use in self.uses:
            note(*use)
        for compute, out in self.steps:
            new = compute()
            pairs = zip(_tensors(out), _tensors(new), strict=False)
            for old, made in pairs:
                if old.data_ptr() != made.data_ptr():
                    old.copy_(made)


def _tensors(found) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    return [x for x in found if isinstance(x, torch.Tensor)] if isinstance(found, tuple | list) else []


def doubles(streams: Streams, num_devices: int) -> dict:
    """What stands for functions and classes of torch.cuda."""
    event = type("Event", (Event,), {"streams": streams})
    properties = SimpleNamespace(name="shadow", total_memory=1 << 34, major=9, minor=0, multi_processor_count=132)
    return {
        "is_available": lambda: True,
        "device_count": lambda: num_devices,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "current_device": lambda: streams.current_device,
        "set_device": streams.set_device,
        "device": streams.on_device,
        "Stream": streams.new,
        "Event": event,
        "stream": streams.at,
        "current_stream": streams.current,
        "default_stream": streams.default,
        "synchronize": streams.synchronize,
        "graph": streams.graph,
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: 0,
        "is_current_stream_capturing": lambda: False,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "shadow",
        "get_device_properties": lambda device=None: properties,
        "memory_allocated": lambda device=None: 0,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda *_, **__: True,
    }
