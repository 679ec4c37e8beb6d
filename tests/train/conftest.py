"""Shared fixtures of the training tests."""

import pytest


@pytest.fixture(scope="session")
def clips(made_once):
    """An annotation file of eight readable clips of 2 to 4 s."""
    from tests.helpers.small_clips import make_clips

    return made_once("training-clips", lambda folder: make_clips(folder, 8)) / "train.jsonl"


@pytest.fixture
def flags(tiny_checkpoint, clips, tmp_path):
    """flags(key=value, ...) -> arguments of `swwatch train` for a short run on the tiny model into tmp_path/out."""

    def build(**changes) -> list[str]:
        values = {
            "variant": "group",
            "model_path": tiny_checkpoint,
            "train_data": clips,
            "output_dir": tmp_path / "out",
        }
        values |= {"batch_size": 2, "accumulation": 2, "max_steps": 3, "learning_rate": 0.01, "warmup": 0}
        values |= {"gradient_checkpointing": False, "precision": "float32", "train_vision": True}
        values |= {"num_workers": 0} | changes  # small clips are read faster than a process starts
        arguments = []
        for key, value in values.items():
            flag = key.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            elif value is not None:
                arguments += [f"--{flag}", str(value)]
        return arguments

    return build
