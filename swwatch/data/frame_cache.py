"""Decoded and resized frames on disk: a clip is decoded once for all epochs, workers, processes and runs.

An entry is a file: a line of JSON that says what it holds, then the frames as bytes. It is written aside and renamed,
and served only if it says the very clip and way of making that are asked for and its checksum is right. A file of
anybody else, or one that lost data, counts as none and is replaced.

The folder is cut into parts with a lock and an equal share of the room each, and what lies in a part is counted
whenever something is added to it, so no count can go wrong. When a part is full, entries that nobody has used since
this run began make room, the longest unused first. An entry of this run stays: every clip is read once an epoch, and
then replacing one by another gains nothing.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from swwatch.data import budget, pixels, video
from swwatch.data.video import READERS, WHOLE, Span
from swwatch.errors import UserError
from swwatch.paths import make_folder
from swwatch.rules.schedule import FPS

PARTS = 16  # by the first hexadecimal digit of an entry's name
SUFFIX = ".frames"
HEADER_BYTES = 1 << 16  # at most
LIBRARIES = ("av", "decord", "torch", "torchvision", "qwen-vl-utils")


class FrameCache:
    """Frames by video file, within a bound that holds for all processes that use the folder.

    Args:
        folder: made where it is missing.
        gigabytes: of all entries together; one of more than a sixteenth of it is not kept.
        how: whatever else the frames depend on; see `how_made`.
    Raises:
        UserError: the folder cannot be made, written to or locked.
    """

    def __init__(self, folder: Path, gigabytes: float, how: dict):
        self.folder, self.part_bytes, self.how = Path(folder), int(gigabytes * 1e9) // PARTS, how
        self.since = time.time()  # a worker's copy keeps the time of the run
        self.too_large: dict[str, int] = {}  # part -> least size that had no room in it
        for part in range(PARTS):
            make_folder(self.folder / f"{part:x}")
        try:
            with _lock(self.folder / "0"):
                pass
        except OSError as error:
            raise UserError(f"cannot lock files in {self.folder}: {error}; choose a folder on a local disk") from error

    def check_room(self) -> None:
        """Refuse a bound that the disk cannot hold.

        Raises:
            UserError: says how much there is room for.
        """
        used = sum(size for part in range(PARTS) for _, size, _ in _entries(self.folder / f"{part:x}"))
        space, wanted = used + shutil.disk_usage(self.folder).free, self.part_bytes * PARTS
        if space < wanted:
            raise UserError(
                f"{self.folder} has room for {space / 1e9:.1f} GB of frames, and frames_cache_gb is {wanted / 1e9:g}: "
                "lower it or choose another frames_cache_dir"
            )

    def held(self) -> tuple[int, int]:
        """How many entries that were made or read since this cache was opened it still has, and their bytes."""
        entries = [entry for part in range(PARTS) for entry in _entries(self.folder / f"{part:x}")]
        sizes = [size for time_s, size, _ in entries if time_s >= self.since]
        return len(sizes), sum(sizes)

    def get(self, path: Path, make: Callable[[], torch.Tensor], span: Span = WHOLE) -> torch.Tensor:
        """The frames of a video file, or of a span of it, uint8, from the cache or else from `make`, which is kept.

        Raises:
            Whatever `make` raises.
        """
        try:
            stat = path.stat()
        except OSError:
            return make()  # which tells what is wrong
        what = {"path": str(path.absolute()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns} | self.how
        what |= {} if span == WHOLE else {"span": list(span)}
        file = self._file(what)
        frames = _read(file, what)
        if frames is not None:
            with contextlib.suppress(FileNotFoundError):  # put away in this moment
                os.utime(file, times=(time.time(),) * 2)
            return torch.from_numpy(frames)
        value = make()
        self._put(file, what, value.contiguous().numpy())
        return value

    def _file(self, what: dict) -> Path:
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:40]
        return self.folder / name[0] / f"{name}{SUFFIX}"

    def _put(self, file: Path, what: dict, frames: np.ndarray) -> None:
        header = json.dumps({"what": what, "shape": frames.shape, "blake2b": _digest(frames)}).encode() + b"\n"
        part, size = file.parent, len(header) + frames.nbytes
        if size >= self.too_large.get(part.name, self.part_bytes + 1):
            return
        try:
            with _lock(part):
                if not self._make_room(part, size, file):
                    self.too_large[part.name] = size
                    return
                aside = file.with_suffix(".tmp")
                with aside.open("wb") as out:
                    out.write(header)
                    out.write(frames.data)
                os.replace(aside, file)
        except OSError as error:  # a full disk must not end a training that goes on without it
            print(f"the frames cache keeps nothing more: {error}", file=sys.stderr, flush=True)
            self.part_bytes = 0
            self.too_large = {f"{number:x}": 0 for number in range(PARTS)}

    def _make_room(self, part: Path, size: int, file: Path) -> bool:
        """Remove entries until `size` bytes fit; whether they do. Called with the part's lock held."""
        for left in part.glob("*.tmp"):  # of a process that was killed: who writes holds the lock
            left.unlink()
        file.unlink(missing_ok=True)  # damaged, or written by another since we looked
        entries = sorted(_entries(part))
        missing = sum(entry_size for _, entry_size, _ in entries) + size - self.part_bytes
        old = [entry for entry in entries if entry[0] < self.since]
        if missing > sum(entry_size for _, entry_size, _ in old):
            return False
        for _, entry_size, path in old:
            if missing <= 0:
                break
            os.unlink(path)
            missing -= entry_size
        return True


def how_made(encoder: pixels.FrameEncoder, max_frames: int, reader: str = READERS[0], fps: float = FPS) -> dict:
    """What the resized frames of a video depend on, apart from the video: sampling, pixel budget, code, libraries."""
    files = [Path(budget.__file__), Path(pixels.__file__), *sorted(Path(video.__file__).parent.glob("*.py"))]
    code = b"".join(file.read_bytes() for file in files)
    return {
        "reader": reader,
        "max_frames": max_frames,
        "fps": float(fps),
        "budget": asdict(encoder.budget),
        "factor": encoder.factor,
        "code": hashlib.sha256(code).hexdigest(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "cpu": torch.backends.cpu.get_cpu_capability(),  # torch resizes with other kernels, and rounds otherwise
    }


def _read(file: Path, what: dict) -> np.ndarray | None:
    """The frames in a file, if it is an entry for `what`, and whole."""
    try:
        with file.open("rb") as entry:
            header = json.loads(entry.readline(HEADER_BYTES))
            shape = header["shape"]
            if header["what"] != what or entry.tell() + math.prod(shape) != os.fstat(entry.fileno()).st_size:
                return None
            frames = np.empty(shape, np.uint8)
            entry.readinto(frames.reshape(-1).data)
            return frames if _digest(frames) == header["blake2b"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(frames: np.ndarray) -> str:
    return hashlib.blake2b(frames.data, digest_size=16).hexdigest()


def _entries(part: Path) -> Iterator[tuple[float, int, str]]:
    """(last used, bytes, path) of the entries of a part."""
    with os.scandir(part) as found:
        for entry in found:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    yield stat.st_mtime, stat.st_size, entry.path


@contextlib.contextmanager
def _lock(part: Path) -> Iterator[None]:
    """Hold a part's lock; it ends with the process, however that ends."""
    with (part / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
