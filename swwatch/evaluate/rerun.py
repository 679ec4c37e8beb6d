"""Repeat a run in a new folder, and tell whether the same came of it.

RUN is the `..._run.json` that `eval`, `quiz`, `commentary generate`, `disturb`, `study` and `bench` leave beside their
results. It exits with 0 where words and scores are the same, and with 1 where they are not. What differs in the
surroundings (machine, versions, commit) is told; data or a checkpoint of other content are refused, unless --anyway.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from swwatch.config import REQUIRED, near, read_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.run_files import read_object
from swwatch.evaluate.tasks import check, optional
from swwatch.paths import CODE, make_folder

MOVED = {  # what a setting says of where results go -> the same in another folder
    "folder": lambda value, new: str(new),
    "file": lambda value, new: value and str(new / Path(value).name),
    "name": lambda value, new: value and Path(value).name,
    "page": lambda value, new: None,
}
RECORD = {  # what a run.json tells of itself, see model.repeat.repeat_of
    **dict.fromkeys(("program", "results"), [str]),
    **dict.fromkeys(("folder", "note"), str),
    "settings": {"*": object},
    "outputs": {"*": str},
    "inputs": {"*": {"path": str, "sha256": str, "*": object}},
    "models": {"*": optional(str)},
    "surroundings": {"*": object},
    "timed": bool,
}
CLOCKED = ("_s", "_ms", "seconds", "_per_second", "timing", "real_time_factor")  # ends of what no run measures twice
PLACES = ("settings", "about", "made", "repeat", "begin", "end", "verdict")  # how and where, which is told by itself
SHOWN, WIDTH = 12, 60


@dataclass(frozen=True, kw_only=True)
class RerunSettings:
    """Which run, and where to."""

    run: Path = setting(REQUIRED, "the ..._run.json beside a run's results", positional=True)
    output: Path | None = setting(None, "new folder of the repetition (default: RUN without .json, _again)")
    change: list[str] = setting(
        [], "NAME=VALUE: a setting that must be another here, such as where the data lie; may be repeated", repeat=True
    )
    anyway: bool = setting(False, "go on where data or checkpoint are not those of the run")


def main(argv: list[str]) -> int:
    settings = read_settings(RerunSettings, argv, program="swwatch rerun", about=__doc__)
    then = read_repeat(settings.run)
    new = settings.output or settings.run.with_name(f"{settings.run.stem}_again")
    again = changed(then, settings.change) | moved(then, new.absolute())
    others = other_content(then, again)
    for line in others:
        print(line, file=sys.stderr)
    if others and not settings.anyway:
        raise UserError(
            "so the same cannot come of it: give back what was there, say --change, or go on with --anyway"
        )
    repeat(then, again, new.absolute())

    found = sorted(new.rglob(then["note"]))
    if not found:
        raise UserError(f"`swwatch {' '.join(then['program'])}` ended well and left no {then['note']} in {new}")
    return tell(then, settings.run, found[0])


def read_repeat(path: Path) -> dict:
    """What a run.json says of repeating its run.

    Raises:
        UserError: no such file, or one that says nothing of it.
    """
    if not path.is_file():
        raise UserError(f"there is no {path}: name the ..._run.json beside a run's results")
    found = read_object(path).get("repeat")
    try:
        check(found, RECORD | {"continued": [object], "*": object})
        check({name: found["settings"][name] for name in found["outputs"]}, {"*": optional(str)})
        is_known = set(RECORD) <= set(found) and set(found["outputs"].values()) <= set(MOVED)
        is_known = is_known and all("sha256" in one for one in found["inputs"].values())
    except (ValueError, KeyError):
        is_known = False
    if not is_known:
        raise UserError(
            f"{path} does not say how to repeat its run: it was made by an older version or changed, or is no run.json"
        )
    return found


def changed(then: dict, changes: list[str]) -> dict:
    """The settings of a run with those that were given anew.

    Raises:
        UserError: no such setting, one without a value, or one that says where results go.
    """
    values = dict(then["settings"])
    for text in changes:
        name, sign, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not sign or name not in values:
            raise UserError(f"--change {text}: NAME=VALUE of a setting is wanted{near(name, values)}")
        if name in then["outputs"]:
            raise UserError(f"--change {text}: where results go is said by --output alone")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[name] = value  # "{" or "a: b: c" is no YAML, but may be a path
    return values


def moved(then: dict, new: Path) -> dict:
    """The settings that say where results go, for a new folder."""
    return {name: MOVED[kind](then["settings"][name], new) for name, kind in then["outputs"].items()}


def other_content(then: dict, again: dict) -> list[str]:
    """Lines about inputs and checkpoints that are not those of the run, by content. A hub id is compared later."""
    from swwatch.model.fingerprint import folder_fingerprint
    from swwatch.model.repeat import digest

    folder, lines = Path(then["folder"]), []
    instead = {str(then["settings"][name]): str(value) for name, value in again.items() if value is not None}
    places = {folder / a: folder / b for a, b in instead.items()}
    places |= {a.parent: b.parent for a, b in places.items() if a != b and a.parent not in places}
    for name, known in then["inputs"].items():
        if "path" not in known:
            continue  # many files, found by reading the others
        given = again.get(name) if again.get(name) != then["settings"].get(name) else None
        path = folder / (given or places.get(Path(known["path"]), known["path"]))
        if not path.exists():
            lines.append(f"{name}: {path} is not there")
        elif digest(path)["sha256"] != known["sha256"]:
            lines.append(f"{name}: {path} is not what it was when the run was made")
    for model, known in then["models"].items():
        path = folder / instead.get(model, model)
        mark = folder_fingerprint(path)
        if mark is None and known is not None and "@" not in known:
            lines.append(f"checkpoint: {path} is not there")
        elif mark is not None and mark != known:
            lines.append(f"checkpoint: {path} is not the one of the run")
    return lines


def repeat(then: dict, again: dict, new: Path) -> None:
    """Run the program with these settings and nothing from the environment; a kill is gone on from.

    Raises:
        UserError: the folder holds something else, or the program fails.
    """
    if new.exists() and not new.is_dir():
        raise UserError(f"{new} is a file: give --output a folder")
    file, text = new / "rerun.yaml", yaml.safe_dump(again, sort_keys=False, allow_unicode=True)
    if new.exists() and any(new.iterdir()) and not (file.exists() and file.read_text(encoding="utf-8") == text):
        raise UserError(f"{new} is not empty: give --output another folder")
    make_folder(new)
    write_atomic(file, [text])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QWEN2_5_VL_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), environment.get("PYTHONPATH")]))
    folder = then["folder"] if Path(then["folder"]).is_dir() else None
    command = [sys.executable, "-m", "swwatch", *then["program"], "--config", str(file)]
    code = subprocess.run(command, env=environment, cwd=folder).returncode
    if code:
        raise UserError(
            f"`swwatch {' '.join(then['program'])} --config {file}` failed with exit code {code}, see above"
        )


def tell(then: dict, old_note: Path, new_note: Path) -> int:
    """Print what differs; the exit code."""
    from swwatch.model.repeat import changes

    now = read_repeat(new_note)
    moved = sorted(then["models"].values(), key=str) == sorted(now["models"].values(), key=str)
    for kind in ("surroundings", "inputs") if moved else ("surroundings", "models", "inputs"):
        for name, (a, b) in changes(then[kind], now[kind]).items():
            print(f"{kind}: {name} was {a}, is {b}")
    if len(then.get("continued", ())):
        print(f"surroundings: the run was continued {len(then['continued'])} times elsewhere")

    old, new = old_note.parent, new_note.parent
    names = sorted({str(path.relative_to(old)) for pattern in then["results"] for path in old.glob(pattern)})
    if not names:
        raise UserError(f"none of the results {', '.join(then['results'])} lie beside {old_note}: nothing to compare")
    equal = True
    for name in names:
        if not (new / name).is_file():
            print(f"{name}: was not written again")
            equal = False
            continue
        a, b = (read_result(folder / name, record) for folder, record in ((old, then), (new, now)))
        if then["timed"]:
            print("\n".join(figures(name, a, b)))
            continue
        found = list(differences(a, b))
        equal &= not found
        print(f"{name}: {'the same' if not found else f'{len(found)} values differ, first {found[0]}'}")
    return 0 if equal else 1


def read_result(path: Path, record: dict):
    """A JSON file, or one of an object a line by the id of each; paths in it are taken from the output folder on."""
    text = path.read_text(encoding="utf-8")
    for name, kind in record["outputs"].items():
        if kind == "folder" and record["settings"][name] is not None:
            text = text.replace(f'"{record["settings"][name]}{os.sep}', '"')
    try:
        return json.loads(text)
    except ValueError:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    return {str(row.get("video_id", number)): row for number, row in enumerate(rows)}


def differences(a, b, where: str = "") -> Iterator[str]:
    """Lines about the values that differ, in the order of the first."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in [*a, *(name for name in b if name not in a)]:
            if name in PLACES or str(name).endswith(CLOCKED):
                continue
            if name in a and name in b:
                yield from differences(a[name], b[name], f"{where} {name}".strip())
            else:
                yield f"{where} {name}: only {'before' if name in a else 'now'}".strip()
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, f"{where} {number}".strip())
    elif isinstance(a, float) and isinstance(b, float) and (math.isclose(a, b) or (math.isnan(a) and math.isnan(b))):
        return
    elif isinstance(a, str) and isinstance(b, str) and a != b:
        at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        begin = max(0, at - WIDTH // 2)
        yield f"{where}: at character {at}: {a[begin : begin + WIDTH]!r} is now {b[begin : begin + WIDTH]!r}"
    elif a != b:
        yield f"{where}: {str(a)[:WIDTH]} is now {str(b)[:WIDTH]}"


def figures(name: str, a, b) -> list[str]:
    """Measures of time, which are never the same: how many there are, and those that changed the most."""
    then, now = dict(_numbers(a)), dict(_numbers(b))
    both = [(key, then[key], now[key]) for key in then if key in now and then[key] > 0 and now[key] > 0]
    most = sorted(both, key=lambda row: -abs(math.log(row[2] / row[1])))[:SHOWN]
    lines = [f"{name}: {len(both)} figures in both, {len(then.keys() ^ now.keys())} in one; the largest changes:"]
    return lines + [f"  {key}: {x:.4g} -> {y:.4g} (x {y / x:.2f})" for key, x, y in most]


def _numbers(value, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            if name not in PLACES:
                yield from _numbers(one, f"{where} {name}".strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield where, value
