"""How long video files are, measured once and remembered: a restart goes on where it was."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from swwatch.data.annotations import write_atomic
from swwatch.data.video import VideoError, measure_duration_s


class Durations:
    """Seconds of video files, kept in a file line by line so that no video is opened twice.

    A line counts as long as the file's size and time are what they were. Failures are not kept: they may be mended.
    """

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[tuple, float] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                *key, seconds = json.loads(line)
                self.known[tuple(key)] = float(seconds)
            except (ValueError, TypeError):
                continue  # cut by a kill
        write_atomic(path, (json.dumps([*key, seconds]) + "\n" for key, seconds in self.known.items()))

    def measure(self, videos: Iterable[Path], workers: int) -> dict[Path, float | VideoError]:
        """Seconds of each video file, which has to be there, or why it has none."""
        found: dict[Path, float | VideoError] = {}
        keys = {path: _file_key(path) for path in sorted(set(videos))}
        todo = [path for path, key in keys.items() if key not in self.known]
        with self.path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
            results = tqdm(pool.map(_seconds, todo), total=len(todo), desc="videos", unit="video")
            try:
                for path, result in zip(todo, results, strict=True):
                    found[path] = result
                    if not isinstance(result, VideoError):
                        self.known[keys[path]] = result
                        file.write(json.dumps([*keys[path], result]) + "\n")
                        file.flush()
            except BaseException:  # Ctrl-C: do not measure all the rest first
                pool.shutdown(cancel_futures=True)
                raise
        return {path: found[path] if path in found else self.known[key] for path, key in keys.items()}


def _file_key(path: Path) -> tuple:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _seconds(path: Path) -> float | VideoError:
    try:
        return round(measure_duration_s(path), 3)  # frame times are float32: 30 s may come as 30.000002
    except VideoError as error:
        return error
