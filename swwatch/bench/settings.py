"""What every benchmark is told, and how settings are checked."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from swwatch.bench.shapes import SHAPES
from swwatch.config import setting
from swwatch.errors import UserError
from swwatch.model.checks import check_checkpoint

HOW, TRUST = "how and where to", "too busy to be trusted"  # headings of the help


@dataclass(frozen=True)
class BenchSettings:
    """Settings of every kind of `swwatch bench`; a kind adds its own. Its docstring is what `--help` says."""

    device: Literal["auto", "cpu", "cuda"] = setting("auto", "cpu or cuda (auto: cuda where there is one)", group=HOW)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "of the weights (auto: bfloat16 on cuda)", group=HOW
    )
    threads: int | None = setting(None, "CPU threads of the model (default: torch's own choice)", group=HOW)
    seed: int = setting(0, "of random weights, pixels and words", group=HOW)
    output: Path | None = setting(None, "folder for the figures as JSON, the page and its pictures", group=HOW)
    report: Path | None = setting(None, "measure nothing: write page and pictures of this JSON file again", group=HOW)
    max_load: float = setting(0.5, "load average before the start above this share of the cores", group=TRUST)
    max_others: float = setting(0.25, "other programs used more than this share of the cores meanwhile", group=TRUST)

    @property
    def steadiness(self) -> str:
        """What a kind asks of its own figures before they are trusted, in words."""
        raise NotImplementedError

    def settled(self, cuda: bool) -> Self:
        """Decide what depends on the machine.

        Raises:
            UserError: what was asked for cannot be had here.
        """
        device = self.device if self.device != "auto" else "cuda" if cuda else "cpu"
        if device == "cuda" and not cuda:
            raise UserError("device cuda was asked for, but this machine has no CUDA device: use --device cpu")
        precision = "bfloat16" if device == "cuda" else "float32"
        return replace(self, device=device, precision=precision if self.precision == "auto" else self.precision)

    def check_least(self, least: int, *names: str) -> None:
        """Refuse settings, or items of a setting, below `least`. Those that are not given pass."""
        for name in names:
            if wrong := [value for value in _given(getattr(self, name)) if value < least]:
                raise UserError(f"{name} must be at least {least}, not {wrong[0]:g}")

    def check_above_zero(self, *names: str) -> None:
        for name in names:
            if wrong := [value for value in _given(getattr(self, name)) if value <= 0]:
                raise UserError(f"{name} must be above 0, not {wrong[0]:g}")


def check_model(model: str | None, shape: Any) -> None:
    """Refuse a checkpoint beside shapes, one that is not there, and unknown shapes."""
    if model is not None and shape:
        raise UserError("--model and --shape both say which model: give one of them")
    if model is not None:
        check_checkpoint(model)
    check_known("shape", shape, SHAPES)


def check_known(kind: str, asked: Any, known: Iterable[str]) -> None:
    """Refuse names that a table does not have.

    Args:
        kind: what they name, such as "shape".
        asked: a name, several, or None.
    """
    for name in _given(asked):
        if name not in known:
            raise UserError(f"no {kind} {name!r}: choose from {', '.join(known)}")


def _given(value: Any) -> tuple:
    """The items of a setting that takes several, the one of another, nothing of None."""
    if isinstance(value, tuple):
        return value
    return () if value is None else (value,)
