"""A CUDA device without one: tensors that say they are on cuda:0, and whose numbers are on the CPU.

Everything that asks for CUDA runs as it would there, and says the same words; meanwhile it is noted

    waits      every time that the host waits for the device, with its place: item, a copy to the host, a copy from
               pageable memory without non_blocking, a shape that depends on data
    launches   operators that start a kernel (views start none)
    races      what no order of streams and events allows, see tests/helpers/shadow_streams.py

and operands on different devices are an error. torch's own fake tensors inspired this (FakeTensorMode); here values
are real, so that code which looks at them runs on, and what comes out can be compared with a CPU's. Backward passes
go node by node (`backward`): torch's engine wants a driver.

`cuda_shadow(values=False)` is for shapes of real models: what has fractions has a shape alone, takes no memory and no
time, and whoever reads it reads zeros. Integers and flags keep their values as long as none came from such a tensor.
"""

import copy
import sys
import warnings
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path
from unittest import mock

import torch
from torch.utils._mode_utils import no_dispatch

from tests.helpers import shadow_streams
from tests.helpers.shadow_streams import Memory, Streams

aten = torch.ops.aten
HOUSE = str(Path(__file__).parents[2] / "swwatch")
attention_of_torch = torch.nn.functional.scaled_dot_product_attention
SHAPE_FROM_DATA = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
WITH_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
READS_A_VALUE = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}


class MixedDevices(RuntimeError):
    """Operands on different devices."""


@dataclass(frozen=True)
class WaitedAt:
    """The host waited for the device: why, and which line of the package it was."""

    why: str
    place: str


@dataclass
class Shadow:
    """What is noted while the devices are in place.

    Attributes:
        num_devices: cuda:0, cuda:1, ...
        values: whether tensors with fractions have any.
        streams: who wrote and read what, in which order.
        hooks: of gradients, by what computes the tensor and the place among its results.
    """

    num_devices: int = 1
    values: bool = True
    waits: list[WaitedAt] = field(default_factory=list)
    launches: Counter = field(default_factory=Counter)
    moved_bytes: int = 0
    streams: Streams = field(default_factory=Streams)
    hooks: dict[tuple, list] = field(default_factory=lambda: defaultdict(list))

    @property
    def races(self) -> list[str]:
        return self.streams.races

    def wait(self, why: str) -> None:
        self.streams.refuse_in_recording(why)
        self.waits.append(WaitedAt(why, _place()))

    @contextmanager
    def counting(self):
        """with shadow.counting() as seen: -> what came inside, in `seen.waits` and `seen.launches`."""
        seen, waits, launches = Shadow(), len(self.waits), Counter(self.launches)
        try:
            yield seen
        finally:
            seen.waits, seen.launches = self.waits[waits:], self.launches - launches


_here: Shadow | None = None


class OnShadow(torch.Tensor):
    """A tensor on a device that is not there."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device, memory: Memory):
        where = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=device, **where)

    def __init__(self, inner: torch.Tensor, device: torch.device, memory: Memory):
        self.inner, self.memory = inner, memory

    def __repr__(self) -> str:
        return f"OnShadow({self.device}, {self.inner!r})"

    def __setattr__(self, name: str, value) -> None:
        if name == "data":
            raise NotImplementedError("on the shadow nothing may assign to .data, as DeepSpeed's ZeRO does")
        super().__setattr__(name, value)

    def tolist(self) -> list:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def register_hook(self, hook) -> None:
        _here.hooks[self.grad_fn, self.output_nr].append(hook)

    def record_stream(self, stream) -> None:
        self.memory.lent.add(stream)

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            made = _wrap(self.inner.clone(), self.device)
            memo[id(self)] = (
                made if not isinstance(self, torch.nn.Parameter) else torch.nn.Parameter(made, self.requires_grad)
            )
        return memo[id(self)]

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is attention_of_torch and not torch.is_grad_enabled():  # one kernel, as on a device
            return _attend(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args: tuple, kwargs: dict):
    if func in COPIES:
        return COPIES[func](*args, **kwargs)
    found: list[torch.Tensor] = []
    inner_args = [_inside(x, found) for x in args]
    inner_kwargs = {name: _inside(x, found) for name, x in kwargs.items()}
    shadows = [x for x in found if isinstance(x, OnShadow)]
    device = shadows[0].device
    _check_devices(func, args, found, device)
    about, streams = _about(func), _here.streams
    if about.waits:
        _here.wait(about.waits)
    if func in WITH_INDEX:
        _wait_for_index(args)
    if any(x.inner.is_meta for x in shadows):
        if about.waits:
            return _nothing_read(func, args)
        inner_args = [_without_values(x, func in WITH_INDEX) for x in inner_args]
        inner_kwargs = {name: _without_values(x) for name, x in inner_kwargs.items()}
    if (wanted := kwargs.get("device")) is not None:
        if torch.device(wanted).type == "cpu":
            raise MixedDevices(f"{func} of {device} makes something on the CPU at {_place()}")
        device, inner_kwargs["device"] = _settled(wanted), torch.device("cpu")
    if about.is_view:
        made = _wrapped(func(*inner_args, **inner_kwargs), device)
        return made
    if about.moves_in_place:
        func(*inner_args, **inner_kwargs)
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    named = {name: value for name, value in zip(about.names, args, strict=False)} | kwargs
    written = [x for name in about.written for x in _each(named.get(name)) if isinstance(x, OnShadow)]
    for x in shadows:
        if not any(x is w for w in written):
            streams.read(device, x.memory, about.name)
    for x in written:
        streams.write(device, x.memory, about.name)
    _here.launches[about.name] += 1
    out = func(*inner_args, **inner_kwargs)
    streams.recorded(lambda: func(*inner_args, **inner_kwargs), out)
    if written:  # operators in place return what they were given
        if any(x.shape != x.inner.shape for x in written):
            raise NotImplementedError(f"{func} makes a tensor larger: it needs a maker of its own here")
        given = [named[name] for name in about.returned]
        return given[0] if len(given) == 1 else tuple(given) or None
    made = _wrapped(out, device)
    for x in _each(made):
        if isinstance(x, OnShadow):
            streams.write(device, x.memory, about.name)
    if about.waits:
        streams.host_waits(device)
    return made


# ---- one operator ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class About:
    """An operator, by its schema: what it writes to and returns, whether it computes nothing, why it waits."""

    name: str
    names: tuple[str, ...]
    written: tuple[str, ...]
    returned: tuple[str, ...]
    is_view: bool
    moves_in_place: bool
    waits: str


@cache
def _about(func) -> About:
    schema = func._schema
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    alias = {name: a.name for a in schema.arguments if a.name in written for name in a.alias_info.before_set}
    returned = [r.alias_info for r in schema.returns]
    waits = (
        "a shape depends on data" if func in SHAPE_FROM_DATA else "a value is read" if func in READS_A_VALUE else ""
    )
    return About(
        name=str(func),
        names=tuple(a.name for a in schema.arguments),
        written=written,
        returned=tuple(alias[min(r.before_set)] for r in returned if written and r is not None),
        is_view=not written and any(r is not None for r in returned) or func is aten._unsafe_view.default,
        moves_in_place=torch.Tag.inplace_view in func.tags,
        waits=waits,
    )


def _each(x) -> list:
    return list(x) if isinstance(x, list | tuple) else [x]


def _inside(x, found: list):
    """What stands for an argument on the CPU; tensors are noted in `found`."""
    if isinstance(x, torch.Tensor):
        found.append(x)
        return x.inner if isinstance(x, OnShadow) else x
    return [_inside(y, found) for y in x] if isinstance(x, list | tuple) else x


def _without_values(x, index: bool = False):
    """What stands for an argument beside others that have no values; index: tensors in a list are indices."""
    if isinstance(x, torch.Tensor):
        return x.to("meta") if x.ndim else x
    if not isinstance(x, list | tuple):
        return x
    found = []
    for y in x:
        flags = index and isinstance(y, torch.Tensor) and y.dtype == torch.bool and not y.is_meta
        found += y.nonzero().unbind(1) if flags else [y]
    return [_without_values(y) for y in found]


def _nothing_read(func, args: tuple):
    """Zero, or false: what is read where there are no values."""
    if func not in READS_A_VALUE:
        raise NotImplementedError(f"{func} at {_place()}: its shape depends on values that are not there")
    return args[0].dtype.is_floating_point * 0.0 if func is aten._local_scalar_dense.default else False


def _wrapped(out, device: torch.device):
    if isinstance(out, torch.Tensor):
        return _wrap(out, device)
    return type(out)(_wrapped(x, device) for x in out) if isinstance(out, list | tuple) else out


def _check_devices(func, args: tuple, tensors: list, device: torch.device) -> None:
    for x in tensors:
        if isinstance(x, OnShadow) and x.device != device:
            raise MixedDevices(f"{func} takes tensors of {device} and {x.device} at {_place()}")
        if not isinstance(x, OnShadow) and x.ndim > 0:
            if func not in WITH_INDEX or not any(x is index for index in args[1]):
                raise MixedDevices(f"{func} takes tensors of {device} and of the CPU at {_place()}")


def _wait_for_index(args: tuple) -> None:
    for x in args[1]:
        if x is None:
            continue
        if not isinstance(x, OnShadow):
            _here.wait("an index on the host")
        elif x.dtype in (torch.bool, torch.uint8):
            _here.wait("a shape depends on data")


def _attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    parts = [x for x in (query, key, value, attn_mask) if x is not None]
    _check_devices("attention", (), parts, query.device)
    how = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}

    inner = [x.inner for x in parts]
    inner = _without_values(inner) if inner[0].is_meta else inner

    def compute():
        return attention_of_torch(*inner[:3], attn_mask=None if attn_mask is None else inner[3], **how)

    for x in parts:
        _here.streams.read(query.device, x.memory, "attention")
    out = compute()
    _here.launches["attention"] += 1
    _here.streams.recorded(compute, out)
    made = _wrap(out, query.device)
    _here.streams.write(query.device, made.memory, "attention")
    return made


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _here.moved_bytes += source.nbytes
    streams = _here.streams
    if isinstance(target, OnShadow) and isinstance(source, OnShadow):
        if target.device != source.device:
            streams.join(target.device, source.device)
        streams.read(source.device, source.memory, "copy_")
        streams.write(target.device, target.memory, "copy_")
        _here.launches["aten.copy_.default"] += 1
        into, of = target.inner, source.inner
        _put(into, of)
        streams.recorded(lambda: _put(into, of), None)
        if target.device != source.device:
            streams.join(source.device, target.device)
    elif isinstance(target, OnShadow):
        if not non_blocking and source.ndim > 0:
            _here.wait("a copy to the device that is not non_blocking")
        streams.refuse_in_recording("a copy from the host") if source.ndim > 0 else None
        streams.write(target.device, target.memory, "copy_")
        target.inner.copy_(source)
    else:
        streams.read(source.device, source.memory, "copy_")
        if non_blocking:
            target.fill_(shadow_streams.GARBAGE if target.dtype != torch.bool else True)
            value = source.inner.clone()
            streams.later(source.device, lambda: _put(target, value))
        else:
            _here.wait("a copy to the host")
            streams.host_waits(source.device)
            _put(target, source.inner)
    return target


def _put(into: torch.Tensor, of: torch.Tensor) -> None:
    into.zero_() if of.is_meta and not into.is_meta else into.copy_(of)


def _to_copy(source, *, dtype=None, layout=None, device=None, pin_memory=None, non_blocking=False, memory_format=None):
    device = source.device if device is None else torch.device(device)
    like = source.inner.to(dtype or source.dtype, copy=True) if device == source.device else None
    if like is not None:  # another dtype
        func = aten._to_copy.default
        _here.streams.read(device, source.memory, "_to_copy")
        _here.launches[str(func)] += 1
        made = _wrap(like, device)
        of, to = source.inner, like.dtype
        _here.streams.recorded(lambda: of.to(to, copy=True), like)
        _here.streams.write(device, made.memory, "_to_copy")
        return made
    if dtype is not None and dtype != source.dtype:
        source = _to_copy(source, dtype=dtype)
    target = torch.empty_like(source.inner, device="cpu")
    return _copy(target if device.type == "cpu" else _wrap(target, device), source, non_blocking)


def _wrap(inner: torch.Tensor, device: torch.device) -> "OnShadow":
    inner = inner if _here.values or not inner.is_floating_point() else inner.to("meta")
    return OnShadow(inner, device, _here.streams.memory_of(inner, device))


COPIES = {aten.copy_.default: _copy, aten._to_copy.default: _to_copy}


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(HOUSE):
            return f"{name[len(HOUSE) + 1 :]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "outside the package"


# ---- the devices ----------------------------------------------------------------------------------------------------


def _settled(device) -> torch.device:
    device = torch.device(device)
    index = _here.streams.current_device if device.index is None else device.index
    if index >= _here.num_devices:
        raise RuntimeError(f"CUDA error: invalid device ordinal: {device} of {_here.num_devices}")
    return torch.device("cuda", index)


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return _wrap(torch.empty(size, **_held(dtype)), _settled(device))


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return _wrap(torch.empty_strided(size, stride, **_held(dtype)), _settled(device))


def _held(dtype: torch.dtype | None) -> dict:
    dtype = dtype or torch.get_default_dtype()
    return {"dtype": dtype, "device": "cpu" if _here.values or not dtype.is_floating_point else "meta"}


def _arange(*bounds, dtype=None, layout=None, device=None, pin_memory=None):
    return _wrap(torch.arange(*bounds, dtype=dtype), _settled(device))


MAKERS = {"empty.memory_format": _empty, "empty_strided": _empty_strided}
MAKERS |= dict.fromkeys(("arange", "arange.start", "arange.start_step"), _arange)


@contextmanager
def cuda_shadow(num_devices: int = 1, values: bool = True):
    """with cuda_shadow() as shadow: torch has CUDA devices. One at a time; all threads see them."""
    global _here
    if torch.cuda.is_available():
        raise RuntimeError("this machine has CUDA devices: nothing needs to stand for them")
    torch._C._ensureCUDADeviceGuardSet()
    lifts = torch._C._only_lift_cpu_tensors()
    _here = Shadow(num_devices, values)
    library = torch.library.Library("aten", "IMPL")
    with ExitStack() as stack:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, make in MAKERS.items():
                library.impl(name, make, "CUDA")
        stack.callback(library._destroy)
        doubles = shadow_streams.doubles(_here.streams, num_devices)
        for name, double in doubles.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, double))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self, device=None: self.clone()))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy, then
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        yield _here
    # what is left of its tensors says nothing more
    _here.streams.over = True


def backward(loss: torch.Tensor) -> None:
    """As `loss.backward()`, a node at a time: torch's engine asks the driver for its streams before it begins."""
    at_the_end: list = []
    engine = mock.Mock(spec=["queue_callback"], queue_callback=at_the_end.append)
    with mock.patch.object(torch.autograd.Variable, "_execution_engine", engine):
        _backward(loss)
        for call in at_the_end:
            call()


def _backward(loss: torch.Tensor) -> None:
    root, seen, open_edges = loss.grad_fn, set(), Counter()
    todo = [root]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            after = [other for other, _ in node.next_functions if other is not None]
            open_edges.update(after)
            todo += after
    found, ready = defaultdict(dict), [root]
    found[root][0] = torch.ones_like(loss)
    while ready:
        node = ready.pop(
            max(range(len(ready)), key=lambda i: ready[i]._sequence_nr() % (1 << 64))
        )  # as torch's engine
        given = found.pop(node, {})
        for number, gradient in given.items():
            for hook in _here.hooks.pop((node, number), ()):
                made = hook(gradient)
                given[number] = gradient if made is None else made
        compute = node if callable(node) else node.apply  # of C++ or of Python
        made = compute(*(given.get(i) for i in range(len(node._input_metadata)))) if given else ()
        made = made if isinstance(made, tuple) else (made,)
        more = len(made) - len(node.next_functions)  # for what was no tensor, where a function is Python's
        if more > 0:
            assert made[:more] == (None,) * more, node
            made = made[more:]
        for (other, number), gradient in zip_longest(node.next_functions, made):
            if other is None:
                continue
            if gradient is not None:  # as it is wanted there, which the engine sees to
                wanted = other._input_metadata[number]
                if gradient.shape != torch.Size(wanted.shape):
                    gradient = gradient.sum_to_size(wanted.shape)
                gradient = gradient.to(wanted.dtype)
                before = found[other].get(number)
                found[other][number] = gradient if before is None else before + gradient
            open_edges[other] -= 1
            if not open_edges[other]:
                ready.append(other)


def to_shadow(model: torch.nn.Module, device: str = "cuda:0"):
    """A copy of a model on a device."""
    return copy.deepcopy(model).to(device)
