"""Shared fixtures: one tiny random checkpoint a session, and models of it in every variant."""

import gc
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # many small steps: a second thread costs more than it gives
# a busy machine is no failure
patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# the same examples in every run, so that what was green stays green; "thorough" looks for new ones
settings.register_profile("patient", max_examples=40, derandomize=True, **patient)
settings.register_profile("thorough", max_examples=400, **patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Slow tests first, so that none is left for one process in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """What is imported and collected by now stays: the garbage collector need not look through it again and again."""
    gc.freeze()


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
    from tests.helpers.tiny import make_tiny

    return made_once("tiny", make_tiny)


@pytest.fixture(scope="session")
def load_tiny(tiny_checkpoint):
    """load_tiny(variant, **options) -> Loaded, its weights spread out so that a wrong position or mask shows."""
    from tests.helpers.tiny import tiny_loader

    return tiny_loader(tiny_checkpoint)


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


@pytest.fixture(scope="session")
def path_without_java(tmp_path_factory) -> str:
    """A PATH where `java` fails, for programs that score captions on the way: METEOR alone takes 9 s each time."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


@pytest.fixture
def picture():
    """picture(number, height, width, form) -> a picture as a file."""
    from tests.helpers.server_process import picture

    return picture


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes) -> a folder on a disk of its own that is no larger."""
    folder = tmp_path / "disk"

    def mount(num_bytes):
        folder.mkdir()
        asked = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(asked, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)
