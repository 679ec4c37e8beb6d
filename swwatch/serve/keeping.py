"""Sessions on disk from one server to the next: a file each, in a folder that one server at a time uses.

A file goes when its session is taken up. It holds what was seen and said, and the secret by which a client goes on, so
nobody but its owner may read it.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from swwatch.errors import UserError
from swwatch.paths import only_one, writing

FORM, ENDING = "swwatch session, form 1", ".session"


class Keeping:
    """The folder of one server.

    Raises:
        UserError: another server uses it, or it cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder, self._held = folder, contextlib.ExitStack()
        self._held.enter_context(only_one(folder, f"sessions to {folder}"))

    def write(self, secret: str, state: dict) -> None:
        """Keep a session: dicts, lists, numbers, texts and tensors. Raises UserError: the disk does not take it."""
        import torch  # a door to several servers does without

        path = self.folder / f"{hashlib.sha256(secret.encode()).hexdigest()[:24]}{ENDING}"
        unfinished = path.with_suffix(".tmp")
        try:
            with writing(self.folder), open(unfinished, "wb", opener=_for_its_owner) as file:
                torch.save(_compact({"form": FORM, **state}), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def paths(self) -> list[Path]:
        """Of all sessions that are kept."""
        return sorted(self.folder.glob(f"*{ENDING}"))

    def read(self, path: Path) -> dict:
        """What was written. Raises UserError: it is damaged, or something else."""
        import torch

        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(f"it is damaged, or no session ({type(error).__name__})") from error
        if not isinstance(state, dict) or state.get("form") != FORM:
            raise UserError("it is no session of this version's")
        return state

    def close(self) -> None:
        self._held.close()


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _compact(value: Any) -> Any:
    """The same without the room that tensors have for what comes: a file would hold it, too."""
    import torch

    if isinstance(value, torch.Tensor):
        return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
    if isinstance(value, dict):
        return {key: _compact(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_compact, value))
    return value
