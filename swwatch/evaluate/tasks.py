"""The folder of tasks: a YAML file each in configs/tasks, which names the program that it is for."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

from swwatch.config import read_yaml
from swwatch.errors import UserError
from swwatch.paths import CONFIGS

FOLDER = CONFIGS / "tasks"
Task = TypeVar("Task")


def names_of(program: str) -> tuple[str, ...]:
    """The tasks of the folder that a program has; a file that names none is the quiz's."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        named = re.search(r"^program: (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if program == (named[1] if named else "quiz"):
            found.append(path.stem)
    return tuple(found)


def read_task(name: str, cls: type[Task], program: str, make: Callable[[str, dict], Task]) -> Task:
    """The task of this name, or of a YAML file.

    Args:
        make: (name, what the file says) -> the task.
    Raises:
        UserError: no such task, another program's, or its file is no task.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no task {name!r}: choose one of {', '.join(names_of(program))}, or give its YAML file")
    told = read_yaml(path, "task")
    whose = told.pop("program", "quiz")
    if whose != program:
        raise UserError(f"{name} is a task of `swwatch {whose}`: here are {', '.join(names_of(program))}")
    try:
        return make(path.stem, told)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(cls) if field.name != "name")
        what = error if isinstance(error, ValueError) else repr(error)
        raise UserError(f"{path} is no task ({what}): its keys are {known}") from error


def version_of(form, plain) -> str:
    """The name of a form, and eight digits that differ wherever a word of it does.

    Args:
        plain: one of the same class and name that says nothing: a new rule changes no old version.
    """
    own, usual = asdict(form), asdict(plain)
    told = {name: value for name, value in own.items() if value != usual[name]}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return f"{form.name}-{digest[:8]}"
