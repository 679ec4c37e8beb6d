"""What every benchmark is told, and how settings are checked."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from swwatch.bench.shapes import SHAPES
from swwatch.config import check_least, setting
from swwatch.errors import UserError
from swwatch.model.checks import check_checkpoint, full_name, saved_settings
from swwatch.model.settings import check_fps, fps_of
from swwatch.rules.schedule import FPS, seconds_of_step


@dataclass(frozen=True)
class BenchSettings(ABC):
    """Settings of every kind of `swwatch bench`; a kind adds its own. Its docstring is what `--help` says."""

    heading = "how, where to, and when the machine is too busy"

    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu or cuda (auto: cuda where there is one)")
    precision: Literal["auto", "float32", "bfloat16", "fp32", "bf16"] | None = setting(
        None, "of the weights; auto: the fastest of the device (default: bfloat16 on cuda, else float32)", also="dtype"
    )
    fps: float | None = setting(
        None, "frames a second that are watched, two make a step (default: the checkpoint's own, else 2)"
    )
    other_fps: bool = setting(False, "--fps may be another than the checkpoint was trained at")
    threads: int | None = setting(None, "CPU threads of the model (default: torch's own choice)", least=1)
    seed: int = setting(0, "of random weights, pixels and words")
    output: Path | None = setting(None, "folder for the figures as JSON, the page and its pictures", output="folder")
    report: Path | None = setting(None, "measure nothing: write page and pictures of this JSON file again")
    max_load: float = setting(0.5, "too busy: load average before the start above this share of the cores")
    max_others: float = setting(0.25, "too busy: other programs used more than this share of the cores meanwhile")

    def __post_init__(self):
        object.__setattr__(self, "precision", full_name(self.precision))
        check_least(self)
        if self.fps is not None:
            check_fps(self.fps)
        elif self.other_fps:
            raise UserError("--other-fps goes with --fps: give both")

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return seconds_of_step(self.fps or FPS)

    @property
    @abstractmethod
    def steadiness(self) -> str:
        """What a kind asks of its own figures before they are trusted, in words."""

    def settled(self, cuda: bool, model: str | None = None) -> Self:
        """Decide what depends on the machine, and on the checkpoint that is measured.

        Raises:
            UserError: what was asked for cannot be had here, or contradicts the checkpoint.
        """
        device = self.device if self.device != "auto" else "cuda" if cuda else "cpu"
        if device == "cuda" and not cuda:
            raise UserError("device cuda was asked for, but this machine has no CUDA device: use --device cpu")
        precision = self.precision or ("bfloat16" if device == "cuda" else "float32")
        if precision == "auto":
            from swwatch.model.dtype import dtype_of

            precision = str(dtype_of("auto", device)).removeprefix("torch.")
        fps = fps_of({} if model is None else saved_settings(model), self.fps, self.other_fps, str(model))
        return replace(self, device=device, precision=precision, fps=fps)


def check_model(model: str | None, shape: str | tuple[str, ...] | None) -> None:
    """Refuse a checkpoint beside shapes, one that is not there, and unknown shapes."""
    if model is not None and shape:
        raise UserError("--model and --shape both say which model: give one of them")
    if model is not None:
        check_checkpoint(model)
    check_known("shape", shape, SHAPES)


def check_known(kind: str, names: str | tuple[str, ...] | None, known: Iterable[str]) -> None:
    """Refuse names that a table does not have.

    Args:
        kind: what they name, such as "shape".
    """
    for name in (names,) if isinstance(names, str) else names or ():
        if name not in known:
            raise UserError(f"no {kind} {name!r}: choose from {', '.join(known)}")
