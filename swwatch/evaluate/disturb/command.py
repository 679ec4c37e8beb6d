"""Evaluate checkpoints under their own schedule and under disturbed ones, and tabulate what the disturbance costs.

One process runs everything, one model at a time. Give the same command again after a kill: finished clips are kept.
"""

import argparse
import dataclasses
import gc
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import get_type_hints

import torch
from transformers import AutoConfig

from swwatch.config import add_flags, load_settings
from swwatch.data.annotations import read_jsonl, write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.caption import command
from swwatch.evaluate.caption.settings import CONFIG, EvalSettings
from swwatch.evaluate.disturb.table import Row, build_table
from swwatch.evaluate.disturb.text import disturbance_markdown, disturbance_text
from swwatch.launch.ranks import Alone
from swwatch.model.settings import Settings
from swwatch.policies.speak import FORMS, parse_schedule
from swwatch.rules import variants
from swwatch.rules.variants import Speaks

SCHEDULES = ("wait-k:3", "random:3:seed=0", "burst:3:every=2", "stall:3:every=5:pause=2")
OURS = ("variant", "model_path", "schedule", "output_file")  # differ from run to run


@dataclass(frozen=True)
class Checkpoint:
    """A model to disturb. `name` is unique among those of one command and begins the names of its result files."""

    path: str
    name: str
    variant: str
    trained: str  # its own schedule

    @property
    def offline(self) -> bool:
        """It speaks after the whole video, so that no schedule can reach it."""
        return variants.get(self.variant).speaks is Speaks.OFFLINE

    def predictions(self, folder: Path, schedule: str) -> Path:
        return folder / f"{self.name}_{re.sub(r'[^a-z0-9-]+', '-', schedule)}_infer.json"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swwatch disturb",
        description=__doc__,
        epilog="Precedence: flags, then environment variables, then configs/eval.yaml, then the defaults.",
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint folders or hub ids that know a variant")
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES, metavar="SCHEDULE", help=f"any of {FORMS}")
    parser.add_argument("--metrics", nargs="+", metavar="METRIC", help="instead of the usual ones, such as CIDEr told")
    add_flags(parser, _shared(EvalSettings))
    parser.add_argument("--config", type=Path, help="settings file instead of configs/eval.yaml")
    parser.add_argument("--restart", action="store_true", help="delete earlier results of the same names first")
    return parser


def _shared(cls: type) -> type:
    """A settings class without what this program sets from run to run."""
    kinds = get_type_hints(cls)
    fields = [field for field in dataclasses.fields(cls) if field.name not in OURS]
    copies = [(f.name, kinds[f.name], dataclasses.field(default=f.default, metadata=f.metadata)) for f in fields]
    return dataclasses.make_dataclass("Shared", copies)


def main(argv: list[str]) -> int:
    flags = vars(build_parser().parse_args(argv))
    models, schedules, metrics, config, restart = (
        flags.pop(name) for name in ("models", "schedules", "metrics", "config", "restart")
    )
    yaml_path = config or (CONFIG if CONFIG.exists() else None)
    settings = load_settings(EvalSettings, yaml_path=yaml_path, env=os.environ, flags=flags)
    asked = list(dict.fromkeys(str(parse_schedule(text)) for text in schedules))
    checkpoints = find_checkpoints(models)
    records = {str(record["video_id"]): record for record in read_jsonl(settings.data_path)[: settings.max_count]}
    rows = [
        Row(checkpoint.name, checkpoint.variant, checkpoint.path, checkpoint.trained, checkpoint.offline, runs)
        for checkpoint, runs in run_all(checkpoints, asked, settings, restart=restart)
    ]
    table = build_table(rows, asked, records, metrics)
    text, folder = disturbance_text(table), settings.output_dir
    files = {"json": json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False), "txt": text}
    for ending, content in {**files, "md": disturbance_markdown(table)}.items():
        write_atomic(folder / f"disturbance.{ending}", [content + "\n"])
    print(f"\n{text}\ntable in {folder / 'disturbance.json'}, .md and .txt")
    return 0


def run_all(
    checkpoints: list[Checkpoint], schedules: list[str], settings: EvalSettings, *, restart: bool = False
) -> list[tuple[Checkpoint, dict[str, Path]]]:
    """Evaluate every checkpoint under its own schedule and, unless it is offline, under each of `schedules`.

    Returns:
        checkpoints, each with schedule -> predictions file.
    """
    done = []
    for number, checkpoint in enumerate(checkpoints, start=1):
        wanted = [checkpoint.trained] if checkpoint.offline else dict.fromkeys([checkpoint.trained, *schedules])
        runs = {schedule: checkpoint.predictions(settings.output_dir, schedule) for schedule in wanted}
        for schedule, path in runs.items():
            print(f"[model {number} of {len(checkpoints)}] {checkpoint.name} under {schedule}", flush=True)
            changes = {"variant": None, "model_path": checkpoint.path, "schedule": schedule, "output_file": path.name}
            command.evaluate(dataclasses.replace(settings, **changes), Alone(), restart=restart)
            gc.collect()  # a model sits in reference cycles: without this the next one is loaded beside it
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        done.append((checkpoint, runs))
    return done


def find_checkpoints(models: list[str]) -> list[Checkpoint]:
    """What the models know of themselves, before any of them is loaded.

    Raises:
        UserError: one is no checkpoint, does not know its variant, or is given twice.
    """
    found = []
    for path, name in zip(models, _names(models), strict=True):
        if Path(path).is_dir() and not (Path(path) / "config.json").exists():
            raise UserError(f"{path} holds no config.json: give a checkpoint folder (has the training finished?)")
        try:
            saved = getattr(AutoConfig.from_pretrained(path), "swwatch", None)
        except (OSError, ValueError) as error:
            raise UserError(f"no checkpoint at {path}: {error}") from error
        if not saved or "variant" not in saved:
            raise UserError(f"{path} does not know its variant, so it was not trained here: disturb trained models")
        known = Settings.resolve(saved, where=path)
        prefix = "" if known.variant in name else f"{known.variant}-"
        found.append(Checkpoint(path, prefix + name, known.variant, str(known.schedule)))
    return found


def _names(models: list[str]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart, such as seed0-group."""
    parts = [PurePath(os.path.abspath(model) if Path(model).exists() else model).parts for model in models]
    if len(set(parts)) < len(parts):
        raise UserError("a model is given twice: name each once")
    for length in range(1, max(map(len, parts)) + 1):
        names = [re.sub(r"[^\w.-]+", "-", "-".join(part[-length:])).strip("-") for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("the models' paths cannot be told apart in the names of result files: rename a folder")
