"""What GPUs can do at most, from the vendors' data sheets."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """A row of a data sheet.

    Attributes:
        flops: dense bf16 operations a second.
        bandwidth: bytes a second of its memory.
        memory: bytes; what is sold as a GB of it is a GiB.
    """

    flops: float
    bandwidth: float
    memory: float


GIB = 2**30
# part of the GPU's name -> what it can do; the longest match counts
GPUS = {
    "H200": Gpu(989e12, 4.8e12, 141 * GIB),
    "H200 NVL": Gpu(835e12, 4.8e12, 141 * GIB),
    "GH200": Gpu(989e12, 4.8e12, 144 * GIB),
    "H100": Gpu(989e12, 3.35e12, 80 * GIB),
    "H100 PCIe": Gpu(756e12, 2.0e12, 80 * GIB),
    "H100 NVL": Gpu(835e12, 3.9e12, 94 * GIB),
    "A100-SXM4-80GB": Gpu(312e12, 2.039e12, 80 * GIB),
    "A100 80GB": Gpu(312e12, 1.935e12, 80 * GIB),
    "A100": Gpu(312e12, 1.555e12, 40 * GIB),
    "A40": Gpu(149.7e12, 696e9, 48 * GIB),
    "RTX A6000": Gpu(154.8e12, 768e9, 48 * GIB),
    "L40S": Gpu(362e12, 864e9, 48 * GIB),
    "L4": Gpu(121e12, 300e9, 24 * GIB),
    "RTX 4090": Gpu(165.2e12, 1.008e12, 24 * GIB),
}


def known_rates(gpu: str) -> tuple[float | None, float | None]:
    """Operations and bytes a second of a GPU: the row of the longest name that is part of its own; None: not known."""
    words = gpu.split()
    found = [name for name in GPUS if _names(words, name.split())]
    return GPUS[max(found, key=len)][:2] if found else (None, None)


def _names(words: list[str], part: list[str]) -> bool:
    """Whether all words of `part` are among a GPU's: "A100-SXM4-80GB" counts as A100, "L40S" not as L4."""
    return all(any(word == wanted or word.startswith(f"{wanted}-") for word in words) for wanted in part)
