"""What another needs to repeat a run: kept in its `run.json` under "repeat", and read by `swwatch rerun`."""

import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.metrics.machine import machine
from swwatch.model.fingerprint import file_sha256, folder_fingerprint

PACKAGES = ("torchvision", "tokenizers", "safetensors", "peft", "numpy", "av")  # beside torch and transformers
PASSING = {"time", "clocks", "load"}  # of the surroundings: never the same twice


def repeat_of(
    program: Sequence[str],
    settings,
    note: Path,
    *,
    results: Iterable[str],
    inputs: Mapping[str, Path | Iterable[Path] | None] | None = None,
    models: Mapping[str, str | None] | None = None,
    read: Mapping[Path, str] | None = None,
    cls: type | None = None,
    timed: bool = False,
) -> dict:
    """JSON values that say what was run, on what, and where.

    Args:
        program: the words behind `swwatch`. With --config and these settings it does the same again.
        settings: its dataclass, filled. Fields that say where results go have `output` in their metadata: "folder",
            "file" (a path), "name" (in the folder) or "page" (of what is drawn beside).
        note: the run.json, of a name that no other file below the output folder has.
        results: glob patterns, from the note's folder on, of the files that a repetition is compared by.
        inputs: what was read, by name; None: nothing.
        models: path or hub id -> its fingerprint, or None: that of the folder.
        read: files among the inputs that were read before -> their sha256.
        cls: the program's own dataclass, where settings are of one that inherits from it.
        timed: results are measures of time, which never come twice.
    """
    fields = dataclasses.fields(cls or settings)
    return {
        "program": list(program),
        "typed": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "note": note.name,
        "results": list(results),
        "timed": timed,
        "settings": {field.name: _plain(getattr(settings, field.name)) for field in fields},
        "outputs": {field.name: field.metadata["output"] for field in fields if "output" in field.metadata},
        "inputs": {name: digest(paths, read) for name, paths in (inputs or {}).items() if paths is not None},
        "models": {path: mark or folder_fingerprint(path) for path, mark in (models or {}).items()},
        "surroundings": surroundings(),
    }


def write_note(note: Path, repeat: dict) -> None:
    """A run.json of nothing else."""
    write_atomic(note, [json.dumps({"repeat": repeat}, indent=2, ensure_ascii=False) + "\n"])


def continued(then: dict | None, now: dict) -> dict:
    """The record of a run that goes on: where it began stays, and where else it ran is added."""
    if then is None:
        return now
    places = [then["surroundings"], *then.get("continued", ()), now["surroundings"]]
    others = [place for number, place in enumerate(places) if all(changes(place, one) for one in places[:number])]
    return {**now, "surroundings": others[0]} | ({"continued": others[1:]} if others[1:] else {})


def changes(then: Mapping, now: Mapping) -> dict[str, tuple]:
    """Name -> what it was and is, of the lasting values that two mappings differ in."""
    names = [name for name in {**then, **now} if name not in PASSING]
    return {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}


def digest(paths: Path | Iterable[Path], read: Mapping[Path, str] | None = None) -> dict:
    """Tells inputs apart: a file by its content; a folder, or many files, by the names and sizes of all.

    Args:
        read: see repeat_of.
    """
    if isinstance(paths, Path) and not paths.is_dir():
        return {"path": str(paths.absolute()), "sha256": (read or {}).get(paths) or file_sha256(paths)}
    found = {"path": str(paths.absolute())} if isinstance(paths, Path) else {}
    files = sorted(path for path in paths.rglob("*") if path.is_file()) if isinstance(paths, Path) else sorted(paths)
    sizes = [path.stat().st_size for path in files]
    names = [str(path.relative_to(paths)) if isinstance(paths, Path) else path.name for path in files]
    text = "".join(f"{name}:{size};" for name, size in zip(names, sizes, strict=True))
    return found | {"files": len(files), "bytes": sum(sizes), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def surroundings() -> dict:
    """The machine and the versions of what results may depend on."""
    import torch

    return {**machine(), "threads": torch.get_num_threads(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plain(value):
    """A value of a setting as JSON has it, and as a settings file may say it."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
