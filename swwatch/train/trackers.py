"""Where curves go besides log.jsonl: TensorBoard, Weights & Biases, trackio.

A continued run repeats the steps after its checkpoint. TensorBoard is told to forget them; the other two cannot, so
they get each step once, the first time: exact continuation gives the same numbers anyway.
"""

import importlib
import importlib.util
import shutil
import uuid
from pathlib import Path

from swwatch.errors import UserError
from swwatch.train.checkpoints import read_json, write_json

NAMES = ("tensorboard", "wandb", "trackio")
NONE = "jsonl"  # asks for no other than log.jsonl, which every run has
PROJECT = "swwatch"
SENT = "trackers.json"  # in the output folder: the runs' ids, and the last step each was told


def choose_trackers(names: list[str] | None) -> list[str]:
    """Names of the trackers to use; by default TensorBoard where it is installed.

    Raises:
        UserError: there is no such tracker, or it is not installed.
    """
    if names is None:
        return ["tensorboard"] if importlib.util.find_spec("tensorboard") else []
    for name in names:
        if name not in (*NAMES, NONE):
            raise UserError(f"log_to: no tracker {name!r}: choose among {', '.join(NAMES)}, or {NONE} for none")
        if name != NONE and importlib.util.find_spec(name) is None:
            raise UserError(f"log_to {name}: it is not installed: pip install {name}")
    return [name for name in NAMES if name in names]


class TensorBoard:
    """Event files in the folder `tensorboard` of the output folder.

    Args:
        first_step: what was written from this step on is void.
    """

    def __init__(self, out: Path, first_step: int):
        from torch.utils.tensorboard import SummaryWriter

        if first_step == 1:
            shutil.rmtree(out / "tensorboard", ignore_errors=True)
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Online:
    """wandb or trackio, whose interfaces are alike; `WANDB_MODE=offline` and the like are theirs to heed.

    Args:
        name: of the module.
        run: the run's settings.
    Raises:
        UserError: it does not start.
    """

    def __init__(self, name: str, out: Path, first_step: int, run: dict):
        self.module, self.name, self.file = importlib.import_module(name), name, out / SENT
        known = (read_json(self.file) or {}).get(name) if first_step > 1 else None
        self.sent = known or {"id": uuid.uuid4().hex[:8], "step": 0}
        title = f"{out.name}-{self.sent['id']}"
        own = {"id": self.sent["id"], "dir": str(out)} if name == "wandb" else {}
        try:
            self.module.init(project=PROJECT, name=title, config=run, resume="allow", **own)
        except Exception as error:  # theirs differ, and come from the network
            raise UserError(f"{name} does not start: {error}") from error

    def write(self, step: int, values: dict[str, float]) -> None:
        if step <= self.sent["step"]:
            return
        self.sent["step"] = step  # noted before it is sent: a kill in between leaves out a point, and doubles none
        write_json(self.file, (read_json(self.file) or {}) | {self.name: self.sent})
        self.module.log(values, step=step)

    def close(self) -> None:
        self.module.finish()


def start_trackers(names: list[str], out: Path, run: dict, first_step: int) -> list[TensorBoard | Online]:
    """Open them; only the main process does.

    Args:
        first_step: that this run will take, from 1.
    """
    return [
        TensorBoard(out, first_step) if name == "tensorboard" else Online(name, out, first_step, run) for name in names
    ]
