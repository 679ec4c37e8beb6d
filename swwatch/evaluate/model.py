"""A model that is evaluated: on a GPU of its own in each process, and known by its content."""

import torch
import transformers

from swwatch.launch.ranks import SingleProcess
from swwatch.metrics.machine import commit
from swwatch.model.fingerprint import fingerprint
from swwatch.model.flags import DeviceFlags
from swwatch.model.loading import Loaded
from swwatch.model.settings import Settings
from swwatch.rules.schedule import FPS


def load_model(flags: DeviceFlags, path: str, ranks: SingleProcess, **more) -> Loaded:
    """The model as the flags want it, for one of several processes; `more` as for DeviceFlags.load."""
    if ranks.rank:
        transformers.utils.logging.disable_progress_bar()
    return flags.load(path, device=device_of(flags.device, ranks), **more)


def device_of(choice: str | None, ranks: SingleProcess) -> str | None:
    """Each process of a node takes a GPU of its own, where it is not told which."""
    if ranks.size == 1 or choice not in (None, "cuda") or not torch.cuda.is_available():
        return choice
    device = f"cuda:{ranks.local_rank % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device


def identity(path: str, loaded: Loaded) -> dict[str, str | float]:
    """What results depend on of a model."""
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    known = {"model_fingerprint": fingerprint(path, loaded), "dtype": dtype}
    if loaded.model.quantised:
        known["quantize"] = loaded.model.quantised
    fps = loaded.settings.fps
    return known if fps == FPS else known | {"fps": fps}  # a run of before knows nothing of it


def policies_of(settings: Settings) -> dict[str, str]:
    """What results depend on of KEEP, CHOOSE and THINK; a run of before knows nothing of what is the form's own."""
    policies = {"keep": settings.keep, "choose": settings.choose, "think": settings.think}
    return {name: str(policy) for name, policy in policies.items() if policy is not None}


def circumstances(loaded: Loaded) -> dict[str, str | None]:
    """What a reader may want to know of how a model was run."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "commit": commit()}
    return {"device": str(loaded.model.device), **versions}
