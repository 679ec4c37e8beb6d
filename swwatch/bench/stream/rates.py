"""How fast this device reads and multiplies: measured, beside what a data sheet says."""

import time

import torch

from swwatch.bench.gpus import known_rates

REPEATS = 5


def device_rates(device: str, dtype: torch.dtype, given_gb_per_s: float | None = None) -> dict:
    """Bandwidth and operations a second, for the bounds.

    Returns:
        bandwidth (bytes/s) and flops (operations/s) that the bounds use, `bandwidth_from` saying whose figure it is,
        measured_bandwidth and measured_flops.
    """
    cuda = device.startswith("cuda")
    measured = copy_bandwidth(device) if cuda else read_bandwidth()
    flops = product_flops(device, dtype)
    known = known_rates(torch.cuda.get_device_name(torch.device(device)))[1] if cuda else None
    if given_gb_per_s is not None:
        bandwidth, source = given_gb_per_s * 1e9, "as given"
    elif known is not None:
        bandwidth, source = known, "data sheet"
    else:
        bandwidth, source = measured, "measured copy" if cuda else "measured reading"
    rates = {"bandwidth": bandwidth, "bandwidth_from": source, "measured_bandwidth": measured}
    return rates | {"flops": flops, "flops_from": f"measured product in {str(dtype).removeprefix('torch.')}"}


def read_bandwidth(megabytes: int = 256) -> float:
    """Bytes a second that the CPU reads from memory: the best of some sums over more than its caches hold."""
    data = torch.ones(megabytes * 2**20 // 4)
    return data.nbytes / _best(lambda: float(data.sum()))


def copy_bandwidth(device: str, megabytes: int = 2048) -> float:
    """Bytes a second that a GPU reads and writes, the best of some copies."""
    data = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(data)
    return 2 * data.nbytes / _best(lambda: target.copy_(data), cuda=True)


def product_flops(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product, the best of some."""
    cuda = device.startswith("cuda")
    size = 8192 if cuda else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: left @ right, cuda)


def _best(work, cuda: bool = False) -> float:
    """Seconds of the fastest of some runs, the first not counted."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
