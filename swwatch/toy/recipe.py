"""What a toy folder is asked to hold: checked in one way, and kept in it, so that it is continued or refused."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from swwatch.errors import UserError
from swwatch.paths import LOCK

FORMS = ("json", "tar")  # on disk


@dataclass(frozen=True)
class DataRecipe:
    """What the recipes of all toy data sets have. Each ends with its own share of `noise`.

    Attributes:
        least: clips that either split must have.
    """

    least: ClassVar[int] = 0
    noise = 0.0

    clips: int
    test_clips: int = 60
    seed: int = 0

    def __post_init__(self):
        if min(self.clips, self.test_clips) < self.least or self.clips + self.test_clips < 1:
            wanted = "at least one each is needed" if self.least else "there must be some"
            raise UserError(f"{self.clips} training and {self.test_clips} test clips: {wanted}")
        if self.seed < 0:
            raise UserError(f"seed {self.seed} must not be negative")
        if not 0 <= self.noise <= 1:
            raise UserError(f"noise {self.noise} must be a share between 0 and 1")

    def num_clips(self, split: str) -> int:
        return self.clips if split == "train" else self.test_clips


def was_made(folder: Path, file: str, recipe: dict) -> bool:
    """True when a folder was made by this very recipe, False when there is room for it.

    Args:
        file: that holds the recipe of what is there.
    Raises:
        UserError: something else is there, or made by another recipe.
    """
    if has_room(folder):
        return False
    if not (folder / file).is_file():
        raise UserError(f"{folder} is not empty, and nothing that is made here: choose another folder")
    found = json.loads((folder / file).read_text())
    if found != recipe:
        differing = [f"--{key.replace('_', '-')} {found.get(key)}" for key in recipe if found.get(key) != recipe[key]]
        raise UserError(f"{folder} was made with {', '.join(differing)}: remove it or choose another folder")
    return True


def check_empty(folder: Path) -> None:
    """Raises UserError: there is something in it."""
    if not has_room(folder):
        raise UserError(f"{folder} is not an empty folder: choose another")


def has_room(folder: Path) -> bool:
    """Whether it is new or empty. Raises UserError: it is a file."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file and not an empty folder: choose another")
    return not folder.exists() or {path.name for path in folder.iterdir()} <= {LOCK}
