"""What `swwatch disturb` is asked: which models, under which schedules, and how they are evaluated."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from swwatch.config import REQUIRED, setting
from swwatch.errors import UserError
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.run_files import told_apart
from swwatch.model.checks import saved_settings
from swwatch.model.settings import Settings
from swwatch.policies.speak import FORMS
from swwatch.rules import variants
from swwatch.rules.variants import Speaks, is_chat

SCHEDULES = ("wait-k:3", "random:3:seed=0", "burst:3:every=2", "stall:3:every=5:pause=2")


@dataclass(frozen=True, kw_only=True)
class DisturbSettings(EvalSettings):
    """As for `swwatch eval`, but what differs from run to run."""

    models: list[str] = setting(
        REQUIRED, "checkpoint folders or hub ids that know a variant", positional=True, several=True, metavar="MODEL"
    )
    schedules: list[str] = setting(list(SCHEDULES), f"any of {FORMS}", several=True, metavar="SCHEDULE")
    metrics: list[str] | None = setting(
        None, "instead of the usual ones, such as CIDEr told", several=True, metavar="METRIC"
    )
    variant: str | None = setting(None, "", hidden=True)
    model_path: str | None = setting(None, "", hidden=True)
    schedule: str | None = setting(None, "", hidden=True)
    output_file: str | None = setting(None, "", hidden=True, output="name")
    score_only: bool = setting(False, "", hidden=True)


@dataclass(frozen=True)
class ModelRuns:
    """A model and its runs.

    Attributes:
        name: unique among the models of one command; begins the names of its result files.
        trained: its own schedule.
        offline: no schedule can reach it, for it speaks after the whole video, or as a chat system once in every turn:
            it has the one run under its own.
        runs: schedule -> predictions file.
    """

    name: str
    variant: str
    model: str
    trained: str
    offline: bool
    runs: Mapping[str, Path] = field(default_factory=dict)

    def predictions(self, folder: Path, schedule: str) -> Path:
        return folder / f"{self.name}_{re.sub(r'[^a-z0-9-]+', '-', schedule)}_infer.json"


def find_checkpoints(models: list[str]) -> list[ModelRuns]:
    """What the models know of themselves, before any of them is loaded.

    Raises:
        UserError: one is no checkpoint, does not know its variant, or is given twice.
    """
    found = []
    for path, name in zip(models, _names(models), strict=True):
        saved = saved_settings(path)
        if "variant" not in saved:
            raise UserError(f"{path} does not know its variant, so it was not trained here: disturb trained models")
        known = Settings.resolve(saved, where=path)
        chat, name = is_chat(known.variant), name if known.variant in name else f"{known.variant}-{name}"
        trained = "turns" if chat else str(known.schedule)
        offline = chat or variants.get(known.variant).speaks is Speaks.OFFLINE
        found.append(ModelRuns(name, known.variant, path, trained, offline))
    return found


def _names(models: list[str]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart, such as seed0-group."""
    paths = [PurePath(os.path.abspath(model) if Path(model).exists() else model).parts for model in models]
    if len(set(paths)) < len(paths):
        raise UserError("a model is given twice: name each once")
    cleaned = [[re.sub(r"[^\w.-]+", "-", part) for part in parts] for parts in paths]
    return [name.strip("-") for name in told_apart(cleaned)]
