"""Runs `swwatch train` in two gloo processes under torchrun, and notes in each what the engine and the data were.

python -m torch.distributed.run ... two_processes.py NOTES ACT... -- flags of swwatch train
ACT is empty, or: term RANK STEP (the process signals itself), crash RANK STEP.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)


def main(notes: Path, act: list[str], arguments: list[str]) -> int:
    from swwatch import cli
    from swwatch.data.dataset import ClipDataset
    from swwatch.train.command import main as train
    from swwatch.train.trainer import WatchTrainer

    rank = int(os.environ["RANK"])
    seen, what = {"keys": []}, (act[0], int(act[1]), int(act[2])) if act else None
    read, step = ClipDataset.__getitem__, WatchTrainer.training_step

    def noted_read(self, key):
        seen["keys"].append(key)
        return read(self, key)

    def noted_step(self, model, *args, **kwargs):
        seen["wrapper"] = [cls.__name__ for cls in type(model).__mro__]
        seen["stage"] = model.zero_optimization_stage() if hasattr(model, "zero_optimization_stage") else None
        seen["local_parameters"] = sum(_local(p).numel() for p in model.parameters())
        if what == ("term", rank, self.state.global_step + 1):
            os.kill(os.getpid(), signal.SIGTERM)
        if what == ("crash", rank, self.state.global_step + 1):
            raise RuntimeError("this process crashes")
        return step(self, model, *args, **kwargs)

    ClipDataset.__getitem__, WatchTrainer.training_step = noted_read, noted_step
    code = cli.run(train, arguments)
    notes.mkdir(exist_ok=True, parents=True)
    (notes / f"{rank}.json").write_text(json.dumps(seen))
    return code


def _local(parameter):
    """What this process holds of a parameter: FSDP2 keeps a DTensor, ZeRO-3 an empty tensor and its share."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


if __name__ == "__main__":
    split = sys.argv.index("--")
    from swwatch.launch.worker import leave

    leave(main(Path(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]))
