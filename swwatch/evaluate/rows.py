"""Rows of the public files: read from whatever kind of file they are, and checked field by field."""

import ast
import csv
import math
import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from swwatch.data.annotations import decode_line
from swwatch.errors import UserError


class _Piece(str):
    """A value in a template: {field}, and of a path {field:name}, {field:stem} or {field:below} (without ./)."""

    def __format__(self, part: str) -> str:
        path = PurePosixPath(self)
        parts = {"": str(self), "name": path.name, "stem": path.stem, "below": str(path)}
        if part not in parts:
            raise UserError(f"a template of a task has {{...:{part}}}: of a path there are name, stem and below")
        return parts[part]


def places_in(template: str) -> list[str]:
    """The names that stand between braces."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


class FileRow:
    """A row of a file whose fields are checked as they are read; errors name the file and the row."""

    def __init__(self, values: Mapping, where: str):
        self.values, self.where = values, where

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def with_values(self, **more) -> "FileRow":
        return FileRow({**self.values, **more}, self.where)

    def fill(self, template: str) -> str | None:
        """A template with the row's values in its places; None where it lacks one."""
        names = places_in(template)
        if not all(name in self for name in names):
            return None
        return template.format(**{name: _Piece(self.values[name]) for name in names})

    def text(self, *names: str) -> str:
        """The first of these fields, or templates of fields, that is there, as text."""
        for name in names:
            text = self.fill(name) if "{" in name else str(self.values[name]) if name in self else None
            if text is not None:
                return text
        raise self.wrong(f"no {' or '.join(names)}; it has {', '.join(map(str, self.values)) or 'no field'}")

    def number(self, *names: str) -> float:
        text = self.text(*names)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.wrong(f"{names[0]} is no number: {text!r}")
        return value

    def seconds(self, *names: str) -> float:
        """A time as seconds, or written h:mm:ss or mm:ss."""
        text = self.text(*names)
        if ":" not in text:
            return self.number(*names)
        try:
            return clock(text)
        except ValueError:
            raise self.wrong(f"{names[0]} {text!r} is no time") from None

    def index(self, name: str, end: int | None = None) -> int:
        """A whole number from 0 on, below `end`."""
        value = self.number(name)
        if value != int(value) or value < 0 or (end is not None and value >= end):
            raise self.wrong(
                f"{name} {self.values[name]!r} is no whole number from 0 to {'...' if end is None else end - 1}"
            )
        return int(value)

    def texts(self, *names: str) -> list[str]:
        """A list of texts, or what csv files have instead: a list written as Python writes it."""
        name = next((name for name in names if name in self), names[0])
        found = self.values.get(name)
        if isinstance(found, str) and found.lstrip().startswith("["):
            try:
                found = ast.literal_eval(found)
            except (ValueError, SyntaxError) as error:
                raise self.wrong(f"{name} is no list: {found!r}") from error
        if not isinstance(found, list | tuple) or not found:
            raise self.wrong(f"no list in {' or '.join(names)}")
        return [str(text).strip() for text in found]

    def rows(self, name: str) -> list["FileRow"]:
        found = self.values.get(name)
        if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
            raise self.wrong(f"no list of objects in {name}")
        return [FileRow(row, f"{self.where}, {name} {i}") for i, row in enumerate(found)]

    def wrong(self, problem: str) -> UserError:
        return UserError(f"{self.where}: {problem}")


def read_rows(path: Path) -> list[FileRow]:
    """The rows of a json (a list, or a list of lists, one after the other), jsonl, csv, tsv or parquet file.

    Raises:
        UserError: no such file, another kind of file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}: give the benchmark's own annotation file by --data")
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            from pyarrow.parquet import read_table

            found = read_table(path).to_pylist()
        elif kind in (".csv", ".tsv"):
            csv.field_size_limit(1 << 26)  # a question may hold subtitles of an hour
            with path.open(newline="", encoding="utf-8-sig") as file:
                found = list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
        elif kind == ".jsonl":
            found = [decode_line(line) for line in path.read_bytes().split(b"\n") if line.strip()]
        elif kind == ".json":
            found = decode_line(path.read_bytes())
        else:
            raise ValueError("a json, jsonl, csv, tsv or parquet file is wanted")
    except (ValueError, OSError, csv.Error, UserError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if isinstance(found, list) and found and all(isinstance(part, list) for part in found):
        found = [row for part in found for row in part]
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise UserError(f"{path}: a list of objects is wanted")
    if not found:
        raise UserError(f"{path} holds no question")
    return [FileRow(row, f"{path}, row {number}") for number, row in enumerate(found, start=1)]


def clock(text: str) -> float:
    """Seconds of a time written so. Raises: ValueError: it is none."""
    parts = text.split(":")
    value = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    if not math.isfinite(value) or value < 0 or len(parts) > 3:
        raise ValueError(f"{text!r} is no time")
    return value
