"""Where things are by default: folders of the repository that this package runs from."""

import os
from pathlib import Path

from swwatch.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def make_folder(folder: Path) -> None:
    """Make an output folder.

    Raises:
        UserError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no right to write in {folder}")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}; choose another output folder") from error
