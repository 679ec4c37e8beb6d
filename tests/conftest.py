"""Shared fixtures: one tiny random checkpoint a session, and models of it in every variant."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # many small steps: a second thread costs more than it gives
# a busy machine is no failure
patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("patient", max_examples=40, **patient)
settings.register_profile("thorough", max_examples=400, **patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Slow tests first, so that none is left for one process in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """made_once(name, make) -> what `make(path)` made at a path of that name, once for all processes of these tests.

    It is everybody's: a test that changes it takes a copy.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(name: str, make):
        path, made = shared / name, shared / f"{name}.made"
        with FileLock(shared / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(path, ignore_errors=True)  # of an attempt that failed
                make(path)
                made.touch()
        return path

    return build


@pytest.fixture(scope="session")
def tiny_checkpoint(made_once):
    """A checkpoint folder in the real form: 2 layers, width 32, random weights."""
    from swwatch.toy.checkpoint import make_checkpoint

    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "vision_depth": 2, "vision_hidden": 32}
    return made_once("tiny", lambda path: make_checkpoint(path, seed=1, **sizes))


@pytest.fixture(scope="session")
def load_tiny(tiny_checkpoint):
    """load_tiny(variant, **options) -> Loaded, its weights spread out so that a wrong position or mask shows."""
    from swwatch.model.loading import load

    made = {}

    def build(variant: str, **options):
        key = (variant, *sorted(options.items()))
        if key not in made:
            loaded = load(tiny_checkpoint, variant=variant, device="cpu", **options)
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for name, parameter in loaded.model.named_parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5, generator=generator)
                    elif name.endswith("bias"):
                        parameter.normal_(0, 0.1, generator=generator)
            made[key] = loaded
        return made[key]

    return build


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """A real mp4 of two seconds."""
    from swwatch.toy.clips import encode
    from swwatch.toy.world import Scene, make_scene

    scene = make_scene(0, 0)
    short = Scene(scene.level, scene.tracks[:1])
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    path.write_bytes(encode(short, 8))
    return path


@pytest.fixture
def picture():
    """picture(number, height, width, form) -> a picture as a file."""
    from tests.helpers.server_process import picture

    return picture
