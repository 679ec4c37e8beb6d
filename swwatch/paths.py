"""Where things are by default, and how they are written: by one process at a time, whole, and with room for them.

By default they lie in the checkout that this package runs from, else (a wheel) in the current folder.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from swwatch.errors import UserError, disk_problem

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
def writing(folder: Path) -> Iterator[None]:
    """Around what writes into a folder: what its disk does not take is told as such, whoever found out.

    Raises:
        UserError: in place of an error about a full or read-only disk, a quota, or missing rights.
    """
    try:
        yield
    except Exception as error:
        problem = disk_problem(error, folder)
        if problem is None:
            raise
        raise UserError(problem) from error


def empty(file: IO[str]) -> None:
    """Cut off what an earlier run left in an open file; a pipe or a device (/dev/stdout) has nothing to cut off."""
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.truncate(0)


def need_room(folder: Path, num_bytes: int, what: str) -> None:
    """Raises UserError: the disk of a folder has less room than what is about to be written there."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise UserError(
            f"{what} needs {num_bytes:,} bytes, and the disk of {folder} has {free:,} free: make room or choose "
            "another folder"
        )


@contextlib.contextmanager
def only_one(folder: Path, what: str, lock: str = LOCK) -> Iterator[None]:
    """Hold a folder, made if need be, for this process; it is free when the process ends, however it ends.

    On NFS the server keeps the lock, so that it counts on all nodes. A file system without locks is told on stderr,
    and nobody is kept away. What the disk does not take meanwhile is told as by `writing`.

    Args:
        what: is written there, for the message.
        lock: name of a file in the folder; what is written under another lock may be written at the same time.
    Raises:
        UserError: another process holds the folder, or it cannot be made.
    """
    make_folder(folder)
    path = folder / lock
    with writing(folder), _locked(path, what):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _locked(path: Path, what: str) -> IO[str]:
    """The file, open and locked."""
    if (file := try_lock(path)) is None:
        raise UserError(f"another run is writing {what}; wait for it, or choose another output")
    return file


def is_locked(path: Path) -> bool:
    """Whether another process holds a file by `try_lock`; looking at it keeps nobody else from looking."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return False


def try_lock(path: Path) -> IO[str] | None:
    """A file, made if need be, open and locked; None: another holds it."""
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _tell_no_locks(path.parent, error.strerror)
            return file
        file.close()  # its last holder removed it between our two calls


@cache
def _tell_no_locks(folder: Path, problem: str) -> None:
    print(f"{folder} has no locks ({problem}): see that no second run writes it", file=sys.stderr)


def only_one_writes(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a file, or a folder that is not there yet, and what is written under its name, as `only_one` does."""
    return only_one(path.parent, str(path), f".{path.name}.lock")


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends well: whoever finds `out` finds it whole.

    Args:
        out: new or empty.
    Raises:
        UserError: another process makes it, or the disk does not take it.
    """
    with only_one_writes(out):
        partial = out.with_name(f"{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill
        try:
            partial.mkdir()
            yield partial
            os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, of the same ending, which becomes `path` when the block ends well."""
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def find_config(path: Path) -> Path:
    """A settings file as given or, where there is none, the one of this project: configs/train/toy.yaml."""
    return path if path.exists() or path.parts[:1] != ("configs",) else CONFIGS.parent / path
