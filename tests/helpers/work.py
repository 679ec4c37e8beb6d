"""What a step costs, counted and not timed, and what a session holds: for all that must not grow with a stream."""

import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import swwatch
from swwatch.engine.requests import Feed, Request, drive, relay

OURS = str(Path(swwatch.__file__).parent)
CONTAINERS = (list, tuple, dict, set, str, bytes)


@dataclass(frozen=True)
class Work:
    """Of some steps: tokens fed; keys that these may read, of each token; operators of torch; numbers that they read
    and wrote, copies between device and host among them; lines of our own Python."""

    fed: int
    keys: int
    operators: int
    numbers: int
    lines: int


class Counting(TorchDispatchMode):
    """Counts between `begin` and `end`; lines where they are asked for, which is slow."""

    def __init__(self, lines: bool = False):
        super().__init__()
        self._traces = lines

    def begin(self) -> None:
        self.fed = self.keys = self.operators = self.numbers = self.lines = 0
        self.__enter__()
        if self._traces:
            sys.settrace(self._line)

    def end(self) -> Work:
        sys.settrace(None)
        self.__exit__(None, None, None)
        return Work(self.fed, self.keys, self.operators, self.numbers, self.lines)

    def _line(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        self.lines += event == "line"
        return self._line

    def __torch_dispatch__(self, operator, types, given=(), named=None):
        named = named or {}
        made = operator(*given, **named)
        self.operators += 1
        for part in (*given, *named.values(), made):
            for tensor in part if isinstance(part, (list, tuple)) else (part,):
                self.numbers += tensor.numel() if torch.is_tensor(tensor) else 0
        return made


def counted(model, run, counting: Counting):
    """As engine.requests.drive; what is fed is counted, too."""
    counting.fed = counting.keys = 0

    def count(request: Request) -> None:
        if isinstance(request, Feed):
            num = len(request.rows)
            counting.fed += num
            counting.keys += num * (request.cache.get_seq_length() + num)

    return drive(model, relay(run, on_request=count))


def held(session) -> int:
    """Bytes of all that a session holds, on device and host: tensors and containers, but for its model and source."""
    passed = {id(session.model), id(session._source)}
    waiting, storages, total = [session], {}, 0
    while waiting:
        thing = waiting.pop()
        if id(thing) in passed or isinstance(thing, (type, ModuleType, FunctionType, torch.nn.Module)):
            continue
        passed.add(id(thing))
        if torch.is_tensor(thing):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, CONTAINERS):
            total += sys.getsizeof(thing)
        waiting += gc.get_referents(thing)
    return total + sum(storages.values())
