"""Where things are by default: in the checkout that this package runs from, else (a wheel) in the current folder."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from swwatch.errors import UserError

PACKAGE = Path(__file__).resolve().parent
IS_INSTALLED = (PACKAGE / "configs").is_dir()  # setup.py puts it there; a checkout has it beside the package
CODE = PACKAGE.parent  # what must be on the path of a new process
ROOT = Path.cwd() if IS_INSTALLED else CODE  # of output/ and dataset/
CONFIGS = (PACKAGE if IS_INSTALLED else CODE) / "configs"
LOCK = ".lock"  # in a folder that one process at a time may write
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


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


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, made if need be, for this process; it is free when the process ends, however it ends.

    On NFS the server keeps the lock, so that it counts on all nodes. A file system without locks is told on stderr,
    and nobody is kept away.

    Args:
        what: is written there, for the message.
    Raises:
        UserError: another process holds the folder, or it cannot be made.
    """
    make_folder(folder)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is writing {what}; wait for it, or choose another output") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"{folder} has no locks ({error.strerror}): see that no second run writes it", file=sys.stderr)
        yield


def find_config(path: Path) -> Path:
    """A settings file as given or, where there is none, the one of this project: configs/train/toy.yaml."""
    return path if path.exists() or path.parts[:1] != ("configs",) else CONFIGS.parent / path
