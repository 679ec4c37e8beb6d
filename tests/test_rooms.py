"""The order of the rooms: each module imports only rooms above its own, and no two rooms import each other."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from swwatch.paths import ROOT

PACKAGE = ROOT / "swwatch"
SHELL = {"__init__", "__main__", "cli", "config", "errors", "paths"}
OPEN_TO_ALL = {"config", "errors", "paths"}  # the part of the shell that every room may use

# each floor may import the floors above it, and rooms of one floor may not import each other, but as `BESIDE` says
FLOORS = [
    {"rules"},
    {"policies"},
    {"data", "metrics", "judge", "toy", "compat", "launch"},
    {"model"},
    {"engine"},
    {"narrate", "live", "pictures", "client"},
    {"train", "evaluate", "bench", "serve", "watch"},
    {"study", "plan"},
]
BESIDE = {
    ("judge", "data"),  # its answers are kept in files of data's form
    ("judge", "metrics"),
    ("compat", "data"),  # there is one video reader
    ("toy", "data"),
    ("toy", "launch"),  # its workers end with it
    ("toy", "metrics"),
    ("live", "narrate"),
    ("live", "client"),  # the messages of its protocol
    ("watch", "client"),
}
MESSAGES_OF_EVENTS = {"Ask", "Asked", "Decided", "Dropped", "Stats", "Thought", "Token", "Turn", "Watched"}
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without "swwatch."."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere in it, without "swwatch."."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("swwatch.") in known else node.module for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.removeprefix("swwatch.") for name in names if name.startswith("swwatch.")}
    return found


def test_nothing_lies_beside_the_rooms():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - SHELL
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}

    assert not loose, f"move into a room: {loose}"
    assert rooms == set(FLOOR_OF), "a new room needs its floor in FLOORS"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_newcomer_is_told_of_every_room(page):
    text = re.findall(r"\b(\w+)/", (ROOT / page).read_text(encoding="utf-8"))
    assert {*FLOOR_OF} <= {*text}


@pytest.mark.parametrize("module, path", sorted(modules().items()))
def test_imports_go_up_the_floors(module, path):
    room = module.partition(".")[0]
    for imported in imports_of(path):
        other = imported.partition(".")[0]
        if room in SHELL or other in OPEN_TO_ALL or other == room:
            continue
        assert other in FLOOR_OF, f"{module} imports {imported}, which belongs to the shell"
        allowed = FLOOR_OF[other] < FLOOR_OF[room] or (room, other) in BESIDE
        assert allowed, f"{module} imports {imported}: {room} stands on a floor above {other}, or beside it"


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports_of(path) for module, path in modules().items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for imported in graph.get(module, ()):
            visit(imported, (*path, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_a_class_name_means_one_thing():
    """But for messages of the protocol, called as the event that they carry, and the same classes of every family."""
    homes = {}
    for module, path in modules().items():
        if module.startswith("model.families."):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)

    twice = {name: found for name, found in homes.items() if len(found) > 1}
    for name in MESSAGES_OF_EVENTS:
        found = twice.pop(name, [])
        assert len(found) == 2 and "client.protocol" in found, f"{name}: an event and its message, not {found}"
    assert not twice, f"give each the plain noun for what it is: {twice}"
