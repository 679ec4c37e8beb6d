"""Weights of the LLM laid out as oneDNN reads them fastest, on a CPU: where measuring shows that it gains.

Which layers gain depends on their shape, on the number of rows and on the machine. So every shape is timed once a
machine, packed and plain in turn, on the model's own weights, as many as no cache holds; the times are kept in the
user's cache folder. A layer that is never slower packed loses its plain weights; any other keeps both, and takes the
faster for the number of its rows. A tied head keeps its plain weights in any case, as the embeddings.
Legend: M rows, K inputs, N outputs.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import linear

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.model.quantised import linear_layers
from swwatch.model.upstream import check_packed_product, pack_weight, packed_product

ROWS = (1, 4, 16, 128)  # that are timed; a forward goes by the nearest that is not fewer
GAINS, LOSES = 0.92, 1.05  # packed by plain: what counts as faster, and as slower
MEASURED_BYTES = 48 * 2**20  # of weights of a shape that are read in a trial
TRIALS, ENOUGH_S = 5, 0.1  # of a shape and a number of rows: trials at most, and seconds after which two will do
BUSY = 1.5  # load by cores from which times are not kept
Times = list[tuple[float, float]]  # of ROWS: seconds plain, seconds packed


class PackedLinear(nn.Module):
    """A linear layer with packed weights.

    Attributes:
        packed: (N, K), opaque to all but oneDNN.
        plain: (N, K) weights; None where no number of rows takes them.
        takes: for each of ROWS whether packed weights are taken.
    """

    def __init__(self, plain: nn.Linear, takes: Sequence[bool]):
        super().__init__()
        self.out_features, self.in_features = plain.weight.shape
        self.takes = tuple(takes)
        self.packed = nn.Parameter(pack_weight(plain.weight.detach()), requires_grad=False)
        self.plain = None if all(takes) else plain.weight.detach()  # no parameter: it holds the same numbers
        self.bias = plain.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., N)."""
        if self.plain is None or self.takes[rows_class(x.numel() // self.in_features)]:
            return packed_product(x, self.packed, self.bias)
        return linear(x, self.plain, self.bias)


def rows_class(count: int) -> int:
    """Which of ROWS a forward of so many rows goes by."""
    return next((i for i, rows in enumerate(ROWS[:-1]) if count <= rows), len(ROWS) - 1)


def pack(model) -> None:
    """Pack those layers of a model that gain, in place; what was chosen, why, and its memory are told on stderr.

    Where torch has not the operator, that is told and nothing is packed.

    Args:
        model: a Watching on a CPU, in eval mode, without adapters.
    """
    try:
        check_packed_product()
    except UserError as error:
        print(f"pack auto: nothing is packed: {error}", file=sys.stderr)
        return
    shapes: dict[tuple[int, int], list[str]] = {}
    layers, start = linear_layers(model), time.perf_counter()
    for name, layer in layers.items():
        shapes.setdefault(tuple(layer.weight.shape), []).append(name)
    known, more = kept_times(), 0
    measured = {}
    for shape, names in shapes.items():
        key = _key(shape, model.dtype)
        if key not in known:
            measured[key] = known[key] = measure([layers[name] for name in names])
        takes = chosen(known[key])
        print(f"pack auto: {_told(shape, len(names), known[key], takes)}", file=sys.stderr)
        if not any(takes):
            continue
        tied = model.get_input_embeddings().weight
        for name in names:
            more += layers[name].weight.nbytes if layers[name].weight is tied or not all(takes) else 0
            model.set_submodule(name, PackedLinear(layers.pop(name), takes))
            model.packed = True
    source = f"measured in {time.perf_counter() - start:.1f} s" if measured else "as measured before"
    print(f"pack auto: {source}; packed weights take {more / 2**20:,.0f} MB more", file=sys.stderr)
    if measured and (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        print(f"pack auto: the machine is busy (load {load:.1f}): times are measured again next time", file=sys.stderr)
    elif measured:
        keep_times(measured)


def chosen(times: Times) -> tuple[bool, ...]:
    """For each of ROWS whether packed weights are taken: all or none of them where no choice costs anything."""
    gains = [packed < GAINS * plain for plain, packed in times]
    if any(gains) and all(packed <= LOSES * plain for plain, packed in times):
        return (True,) * len(ROWS)
    return tuple(gains)


@torch.no_grad()
def measure(layers: Sequence[nn.Linear]) -> Times:
    """Seconds of ROWS with these layers' weights, plain and packed in turn, the best of some trials.

    Args:
        layers: of one shape.
    """
    num_layers = max(1, min(len(layers), MEASURED_BYTES // layers[0].weight.nbytes))
    most_outputs = max(16, MEASURED_BYTES // layers[0].weight[0].nbytes // 16 * 16)
    plain = [layer.weight.detach()[:most_outputs] for layer in layers[:num_layers]]
    packed = [pack_weight(weight) for weight in plain]
    times: Times = []
    for rows in ROWS:
        x = plain[0].new_ones(rows, plain[0].shape[1])
        best, start = [float("inf")] * 2, time.perf_counter()
        for trial in range(TRIALS):
            if trial > 1 and time.perf_counter() - start > ENOUGH_S:
                break
            for i, (weights, product) in enumerate(((plain, linear), (packed, packed_product))):
                begin = time.perf_counter()
                for weight in weights:
                    product(x, weight)
                best[i] = min(best[i], time.perf_counter() - begin)
        times.append((best[0], best[1]))
    return times


# ---- what was measured before ---------------------------------------------------------------------------------------


def times_file() -> Path:
    """Where times of this user's machines are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "swwatch" / "packed_weights.json"


def kept_times() -> dict[str, Times]:
    """By `_key`; none where there is no such file, or it is damaged: then they are measured again."""
    try:
        entries = json.loads(times_file().read_text(encoding="utf-8")).items()
        return {key: [(float(a), float(b)) for a, b in times] for key, times in entries if len(times) == len(ROWS)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep_times(measured: dict[str, Times]) -> None:
    """Add to the file. That it cannot be written is told, and costs a second the next time."""
    try:
        write_atomic(times_file(), [json.dumps(kept_times() | measured, indent=1) + "\n"])
    except OSError as error:
        print(f"pack auto: the times are not kept: {error}", file=sys.stderr)


def _key(shape: tuple[int, int], dtype: torch.dtype) -> str:
    """Machine, threads, torch, dtype and shape."""
    cpu = torch.cpu.get_capabilities().get("cpu_name", "cpu")
    facts = (cpu, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads", f"torch {torch.__version__}")
    return ", ".join([*facts, str(dtype).removeprefix("torch."), f"{shape[0]} x {shape[1]}"])


def _told(shape: tuple[int, int], count: int, times: Times, takes: Sequence[bool]) -> str:
    ratios = " ".join(f"{packed / plain:.2f}" for plain, packed in times)
    used = "packed" if all(takes) else "plain" if not any(takes) else None
    if used is None:
        used = "packed for " + " and ".join(str(rows) for rows, yes in zip(ROWS, takes, strict=True) if yes) + " rows"
    counts = ", ".join(map(str, ROWS))
    return f"{count} layers of {shape[0]} x {shape[1]}: {used} (with {counts} rows {ratios} of the plain time)"
