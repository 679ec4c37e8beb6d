"""Add an adapter into the weights of its base model: a checkpoint folder like any other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swwatch.config import REQUIRED, read_settings, setting
from swwatch.errors import UserError
from swwatch.model.checks import ADAPTER, check_checkpoint
from swwatch.model.settings import base_of
from swwatch.paths import need_room, whole_folder


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """Settings of `swwatch merge`."""

    adapter: Path = setting(REQUIRED, "folder of an adapter, such as a training run's output", positional=True)
    out: Path = setting(REQUIRED, "folder to write; must not exist")
    base: str | None = setting(None, "base model, where it is not where the adapter says")
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "of the weights: float32, bfloat16, float16")


def main(argv: list[str]) -> int:
    settings = read_settings(MergeSettings, argv, program="swwatch merge", about=__doc__)
    merge(settings.adapter, settings.out, base=settings.base, dtype=settings.dtype)
    print(f"{settings.out} holds the merged model")
    return 0


def merge(adapter: Path, out: Path, *, base: str | None = None, dtype: str = "float32") -> None:
    """Write the merged model; the folder appears when all of it is written.

    Raises:
        UserError: no adapter, its base model is missing or another one, or `out` is taken.
    """
    if not (adapter / ADAPTER).exists():
        raise UserError(f"{adapter} holds no {ADAPTER}: give the output folder of a run with an adapter")
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    check_checkpoint(base or base_of(adapter))
    import torch

    from swwatch.model.loading import load

    with whole_folder(out) as partial:
        loaded = load(adapter, base=base, dtype=torch.float32, device="cpu")  # rounded once, after the sum
        model = loaded.model.to(getattr(torch, dtype))
        need_room(out.parent, sum(p.nbytes for p in model.parameters()), str(out))
        model.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
