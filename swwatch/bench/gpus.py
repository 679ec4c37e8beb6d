"""What GPUs can do at most, from the vendors' data sheets."""

# part of the GPU's name -> dense bf16 operations a second, bytes a second of its memory; the longest match counts
GPUS = {
    "H200": (989e12, 4.8e12),
    "H200 NVL": (835e12, 4.8e12),
    "GH200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "A100-SXM4-80GB": (312e12, 2.039e12),
    "A100 80GB": (312e12, 1.935e12),
    "A100": (312e12, 1.555e12),
    "A40": (149.7e12, 696e9),
    "RTX A6000": (154.8e12, 768e9),
    "L40S": (362e12, 864e9),
    "L4": (121e12, 300e9),
}


def known_rates(gpu: str) -> tuple[float | None, float | None]:
    """Operations and bytes a second of a GPU: the row of the longest name that is part of its own; None: not known."""
    words = gpu.split()
    found = [name for name in GPUS if _names(words, name.split())]
    return GPUS[max(found, key=len)] if found else (None, None)


def _names(words: list[str], part: list[str]) -> bool:
    """Whether all words of `part` are among a GPU's: "A100-SXM4-80GB" counts as A100, "L40S" not as L4."""
    return all(any(word == wanted or word.startswith(f"{wanted}-") for word in words) for wanted in part)
