"""Which checkpoint a run continues from, and the small files around it.

A checkpoint counts once its marker, written last, names every file with its size: a checkpoint that a kill cut short
has no marker, and one that lost data (a full disk, a power cut) disagrees with it.
"""

import json
import re
import shutil
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError

COMPLETE, FINISHED, RUN, LOG, SKIPPED = "complete.json", "finished.json", "run.json", "log.jsonl", "skipped.jsonl"
TIMING = "timing.jsonl"  # of each step, as log.jsonl; but no two runs agree in it


def write_json(path: Path, content: dict) -> None:
    write_atomic(path, [json.dumps(content, indent=1) + "\n"])


def read_json(path: Path) -> dict | None:
    """The object in a file; None where there is no file or it is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def step_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def checkpoints(output_dir: Path) -> list[Path]:
    """All `checkpoint-<step>` folders, complete or not, oldest step first."""
    found = output_dir.glob("checkpoint-*") if output_dir.is_dir() else []
    return sorted((p for p in found if re.fullmatch(r"checkpoint-\d+", p.name) and p.is_dir()), key=step_of)


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != COMPLETE)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}


def mark_complete(folder: Path) -> None:
    """Call when everything in the folder is written."""
    write_json(folder / COMPLETE, {"step": step_of(folder), "files": _sizes(folder)})


def is_complete(folder: Path) -> bool:
    marker = read_json(folder / COMPLETE)
    return marker is not None and marker.get("files") == _sizes(folder)


def newest_complete(output_dir: Path) -> Path | None:
    return next((folder for folder in reversed(checkpoints(output_dir)) if is_complete(folder)), None)


def remove(folder: Path) -> None:
    """Delete a checkpoint; the marker goes first, so that a half-deleted one never counts."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def keep_newest(output_dir: Path, count: int) -> None:
    """Delete all but the newest `count` complete checkpoints, and those that are not complete."""
    complete = [folder for folder in checkpoints(output_dir) if is_complete(folder)]
    for folder in checkpoints(output_dir):
        if folder not in complete[-count:]:
            remove(folder)


def check_same_run(output_dir: Path, run: dict) -> None:
    """Compare the settings of a run with those that its folder was begun with.

    Raises:
        UserError: the folder holds something to continue, and they differ.
    """
    if newest_complete(output_dir) is None and not (output_dir / FINISHED).exists():
        return  # nothing to continue: whatever was begun here begins anew
    before = read_json(output_dir / RUN)
    if before is None:
        raise UserError(f"{output_dir} holds checkpoints without their {RUN}: choose another --output-dir")
    other = {key for key in before.keys() | run.keys() if before.get(key) != run.get(key)}
    if other:
        pairs = [f"{key} was {before.get(key)!r}, now {run.get(key)!r}" for key in sorted(other)]
        raise UserError(
            f"{output_dir} belongs to a run with other settings: {'; '.join(pairs)}. "
            "Use the old ones to continue it, choose another --output-dir, or delete the folder"
        )


def truncate_log(path: Path, last_step: int) -> None:
    """Drop the lines of steps after `last_step`, and a line that a kill cut short: these steps are run again."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            if json.loads(line)["step"] <= last_step:
                lines.append(line + "\n")
        except (ValueError, KeyError):
            continue  # not a whole line
    write_atomic(path, lines)


def append_line(path: Path, content: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=True) + "\n")
        file.flush()
