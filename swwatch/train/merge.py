"""Add an adapter into the weights of its base model: a checkpoint folder like any other."""

import argparse
import os
import shutil
from pathlib import Path

import torch

from swwatch.errors import UserError
from swwatch.model.checks import ADAPTER
from swwatch.model.loading import load


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="swwatch merge", description=__doc__)
    parser.add_argument("adapter", type=Path, help="folder of an adapter, such as a training run's output")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--base", help="base model, where it is not where the adapter says")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the weights"
    )
    return parser


def main(argv: list[str]) -> int:
    args = build_parser().parse_args(argv)
    merge(args.adapter, args.out, base=args.base, dtype=getattr(torch, args.dtype))
    print(f"{args.out} holds the merged model")
    return 0


def merge(adapter: Path, out: Path, *, base: str | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write the merged model; the folder appears when all of it is written.

    Raises:
        UserError: no adapter, its base model is missing or another one, or `out` is taken.
    """
    if not (adapter / ADAPTER).exists():
        raise UserError(f"{adapter} holds no {ADAPTER}: give the output folder of a run with an adapter")
    if out.exists():
        raise UserError(f"{out} exists: choose another --out")
    loaded = load(adapter, base=base, dtype=torch.float32, device="cpu")  # rounded once, after the sum
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded.model.to(dtype).save_pretrained(partial)
    loaded.processor.save_pretrained(partial)
    os.replace(partial, out)
