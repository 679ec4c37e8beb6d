"""The folder of tasks: a YAML file each in configs/tasks, which names the program that it is for."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

from swwatch.config import read_yaml
from swwatch.data.prepare.pe_video_rules import is_unicode
from swwatch.errors import UserError
from swwatch.paths import CONFIGS

FOLDER = CONFIGS / "tasks"
Task, Form = TypeVar("Task"), TypeVar("Form")
LARGEST = 1e15  # of a number; nan and infinity are none
NOUNS = {str: "a text (in quotes)", int: "a whole number", float: "a number", bool: "true or false"}


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
    content = read_yaml(path, "task")
    whose = content.pop("program", "quiz")
    if whose != program:
        raise UserError(f"{name} is a task of `swwatch {whose}`: here are {', '.join(names_of(program))}")
    try:
        return make(path.stem, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(cls) if field.name != "name")
        what = error if isinstance(error, ValueError) else repr(error)
        raise UserError(f"{path} is no task ({what}): its keys are {known}") from error


def form_of(task: str, forms: Mapping[str, Form], wording: str | None, read: Callable[[Path, Form], Form]) -> Form:
    """How a task is asked.

    Args:
        wording: a name of `forms`, or a YAML file with prompts in place of those of the first; None: the first.
        read: (that file, the first) -> the form.
    Raises:
        UserError: no such form.
    """
    first = next(iter(forms.values()))
    if wording is None or wording in forms:
        return forms.get(wording, first)
    path = Path(wording)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{task} has no wording {wording!r}: give {' or '.join(forms)}, or a YAML file")
    return read(path, first)


def own_files(task: str, wording: str | None) -> dict[str, Path]:
    """A task and a wording that are files of the user's."""
    names = {"task": task, "wording": wording or ""}
    return {name: Path(text) for name, text in names.items() if text.endswith((".yaml", ".yml"))}


def version_of(form, plain) -> str:
    """The name of a form, and eight digits that differ wherever a word of it does.

    Args:
        plain: one of the same class and name that says nothing: a new rule changes no old version.
    """
    own, usual = asdict(form), asdict(plain)
    changes = {name: value for name, value in own.items() if value != usual[name]}
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()
    return f"{form.name}-{digest[:8]}"


def optional(shape) -> Callable:
    """None, or of this shape."""
    return lambda value, where: None if value is None else check(value, shape, where)


def check(content, shape, where: str = "") -> None:
    """Compare a value with a type, a list [of], a mapping {name: of, "*": of all others}, or a function of these.

    Raises:
        ValueError: it is none; says where and what is wanted.
    """
    if isinstance(shape, dict):
        if not isinstance(content, Mapping):
            raise ValueError(f"{where}: NAME: VALUE is wanted, not {content!r}")
        for name, value in content.items():
            if not isinstance(name, str):
                raise ValueError(f"{where}: the name {name!r} is no text: put it in quotes")
            if name not in shape and "*" not in shape:
                raise ValueError(f"{where} has no {name!r}: its keys are {', '.join(shape)}")
            check(value, shape.get(name, shape.get("*")), f"{where} {name}".strip())
    elif isinstance(shape, list):
        if not isinstance(content, list) or not content:
            raise ValueError(f"{where}: a list is wanted, not {content!r}")
        for value in content:
            check(value, shape[0], where)
    elif not isinstance(shape, type):
        shape(content, where)
    elif not isinstance(content, (int, float) if shape is float else shape) or (
        shape in (int, float) and (isinstance(content, bool) or not abs(content) < LARGEST)
    ):
        raise ValueError(f"{where}: {NOUNS[shape]} is wanted, not {content!r}")
    elif shape is str and not is_unicode(content):
        raise ValueError(f"{where}: {content!r} holds half a character")
