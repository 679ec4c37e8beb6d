"""A model that is evaluated: on a GPU of its own in each process, and known by its content."""

import hashlib
from pathlib import Path

import torch
import transformers

from swwatch.launch.ranks import Alone
from swwatch.model.flags import DeviceFlags
from swwatch.model.loading import Loaded

SAMPLES, SAMPLE_BYTES = 32, 1 << 16  # of a weight file: all 15 GB of a 7B model would take a minute to read


def load_model(flags: DeviceFlags, path: str, ranks: Alone, **more) -> Loaded:
    """The model as the flags want it, for one of several processes; `more` as for DeviceFlags.load."""
    if ranks.rank:
        transformers.utils.logging.disable_progress_bar()
    return flags.load(path, device=device_of(flags.device, ranks), **more)


def device_of(asked: str | None, ranks: Alone) -> str | None:
    """Each process of a node takes a GPU of its own, where it is not told which."""
    if ranks.size == 1 or asked not in (None, "cuda") or not torch.cuda.is_available():
        return asked
    device = f"cuda:{ranks.local_rank % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device


def identity(path: str, loaded: Loaded) -> dict[str, str]:
    """What results depend on of a model."""
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return {"model_fingerprint": fingerprint(path, loaded), "dtype": dtype}


def circumstances(loaded: Loaded) -> dict[str, str]:
    """What a reader may want to know of how a model was run."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": str(loaded.model.device), **versions}


def fingerprint(path: str, loaded: Loaded) -> str:
    """Tells checkpoints apart by content: training on in the same folder changes it, moving the folder does not.

    A folder's JSON files count in full, weight files by size and some pieces spread evenly. A hub id counts with its
    commit.
    """
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{getattr(loaded.model.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as content:
            if file.suffix == ".json" or size <= SAMPLES * SAMPLE_BYTES:
                digest.update(content.read())
                continue
            for i in range(SAMPLES):
                content.seek((size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()
