"""Settings of a program as one frozen dataclass, filled from flags, environment, a YAML file and defaults.

The order of precedence is always: flags > environment > YAML file > defaults of the dataclass.
A field made by `setting` carries its help line and the name of its environment variable; `read_settings` is all that a
program needs:

    @dataclass(frozen=True, kw_only=True)
    class EvalSettings(ModelFlags):  # model/flags.py: what every program with a model has
        max_count: int = setting(400, "evaluate at most this many clips", env="QWEN2_5_VL_EVAL_MAX_COUNT")

    def main(argv: list[str]) -> int:
        settings = read_settings(EvalSettings, argv, program="swwatch eval", about=__doc__)
"""

import argparse
import dataclasses
import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from swwatch.errors import UserError
from swwatch.paths import find_config

T = TypeVar("T")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


REQUIRED = dataclasses.MISSING  # the default of a setting that has none


def setting(default: Any, help: str, *, env: str | None = None, **facts: Any) -> Any:
    """A dataclass field with its one-line help and, where it has one, its environment variable.

    Args:
        default: REQUIRED for none.
        facts: more that is known of the field, kept in its metadata. `check_least` reads `least`, `most` and `above`;
            `add_flags` reads `metavar`, `positional` (True: no dashes before its name), `repeat` (True: a list whose
            flag is given once for each item, which may then hold a comma), `several` (True: a list of words), `hidden`
            (True: no flag, where a program sets what it inherits) and `also` (another name of the same setting).
            `output` says where results go, for `swwatch rerun`: "folder", "file" (a path), "name" (in the folder) or
            "page" (of what is drawn anew).
    """
    metadata = {"help": help, "env": env, **facts}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_least(settings: Any) -> None:
    """For a dataclass's __post_init__.

    Raises:
        UserError: a field, or an item of one, is below the least value that its setting names, or above the most, or
            not above another.
    """
    for field in dataclasses.fields(settings):
        least, most, above = (field.metadata.get(name) for name in ("least", "most", "above"))
        given = getattr(settings, field.name)
        for value in given if isinstance(given, list | tuple) else (given,):
            if least is not None and value is not None and value < least:
                raise UserError(f"{field.name} must be at least {least}, not {value}")
            if most is not None and value is not None and value > most:
                raise UserError(f"{field.name} must be at most {most}, not {value}")
            if above is not None and value is not None and value <= above:
                raise UserError(f"{field.name} must be above {above}, not {value:g}")


class Parser(argparse.ArgumentParser):
    """As argparse has it; an option that does not exist is told with the nearest one that does."""

    def __init__(self, program: str, about: str):
        """Args: about: a docstring, whose first paragraph stands before the options and the rest behind them."""
        summary, _, details = about.partition("\n\n")
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=program, description=summary, epilog=details, formatter_class=form)

    def print_help(self, file=None):
        print(self.format_help(), end="", file=file, flush=True)  # argparse passes over a disk that is full

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            wrong = unknown[0].partition("=")[0]
            self.error(f"no option {wrong}{near(wrong, self._option_string_actions)}")
        return parsed


def choose_kind(argv: list[str], *, program: str, about: str, kinds: Mapping[str, str]) -> str:
    """The first word of the command line of a program that is several, which --help tells in a line each.

    Args:
        kinds: name -> its line.
    """
    parser = Parser(program, "\n".join([about, "", *(f"  {name:13}{text}" for name, text in kinds.items())]))
    more = f"`{program} KIND --help` tells more"
    parser.add_argument("kind", metavar="KIND", help=f"one of {', '.join(kinds)}; {more}")
    name = parser.parse_args(argv[:1]).kind
    if name not in kinds:
        parser.error(f"no kind {name!r}{near(name, kinds)}")
    return name


def near(name: str, names: Iterable[str]) -> str:
    """The end of a message about a mistyped name: which one may be meant."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """The row of this name. Raises UserError: there is none; which may be meant, and which there are."""
    if name not in table:
        raise UserError(f"no {what} {name!r}: choose one of {', '.join(table)}{near(name, table)}")
    return table[name]


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add `--field-name` for every field of `cls`; a flag that is not given parses as None.

    The fields of a class (or of one it inherits from) that has a `heading` stand under that in the help. Values stay
    text here: `load_settings` converts them, so that every source obeys the same rules.
    """
    groups, hints = {None: parser}, get_type_hints(cls)
    for field in dataclasses.fields(cls):
        facts, how = field.metadata, {}
        default = "" if field.default in (None, dataclasses.MISSING) else f" (default: {field.default})"
        env = f" [{facts['env']}]" if facts.get("env") else ""
        flag = "--" + field.name.replace("_", "-")
        if hints[field.name] is bool and not field.name.startswith("no_"):
            how["action"] = argparse.BooleanOptionalAction
        elif hints[field.name] is bool:
            how["action"], how["const"] = "store_const", True
        else:
            how["metavar"] = facts.get("metavar")
        if facts.get("positional"):
            flag, how["nargs"] = field.name, "?"
        if facts.get("repeat"):
            how["action"] = "append"
        if facts.get("several"):
            how["nargs"] = "*" if facts.get("positional") else "+"  # a settings file may give it
        if facts.get("hidden"):
            continue
        owner = next(kind for kind in cls.__mro__ if field.name in vars(kind).get("__annotations__", {}))
        group = vars(owner).get("heading")
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        text = (facts.get("help", "") + default + env).replace("%", "%%")
        groups[group].add_argument(flag, default=None, help=text, **how)
        if also := facts.get("also"):
            name = f"--{also.replace('_', '-')}"
            groups[group].add_argument(name, default=None, help=f"another name of {flag}", **how)


def read_settings(cls: type[T], argv: list[str], *, program: str, about: str, yaml_path: Path | None = None) -> T:
    """The settings of a program from its command line, the environment and a YAML file.

    Args:
        program, about: as for Parser.
        yaml_path: read where no --config is given, if it is there; None for no file.
    Raises:
        UserError: as `load_settings`. What argparse finds wrong, it tells itself and leaves with exit code 2.
    """
    parser = Parser(program, about)
    add_flags(parser, cls)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; flags go before it")
    flags = {name: None if value == [] else value for name, value in vars(parser.parse_args(argv)).items()}
    if yaml_path is not None and not yaml_path.exists():
        yaml_path = None
    return load_settings(cls, yaml_path=flags.pop("config") or yaml_path, env=os.environ, flags=flags)


def load_settings(
    cls: type[T],
    *,
    yaml_path: str | Path | None = None,
    env: Mapping[str, str] = types.MappingProxyType({}),
    flags: Mapping[str, Any] = types.MappingProxyType({}),
) -> T:
    """Fill a settings dataclass; flags win over the environment, that over the YAML file, that over defaults.

    Args:
        cls: dataclass whose annotations are str, int, float, bool, Path, Literal, a list or tuple of one of these, or
            one of them `| None`. `setting` gives a field its environment variable.
        yaml_path: a YAML mapping from field name to value; None for no file.
        env: usually os.environ; an empty value counts as not given.
        flags: field name -> value; None counts as not given.
    Raises:
        UserError: unknown key, value of the wrong type, required field without a value, unreadable file. The message
            names the source, the nearest valid key and all valid keys.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    given: dict[str, tuple[Any, str]] = {}
    # 1) lowest first, so that later sources overwrite
    if yaml_path is not None:
        for name, (key, value) in _by_own_names(read_yaml(yaml_path), fields).items():
            _check_key(name, fields, f"{yaml_path}: unknown key {key!r}")
            given[name] = (value, f"{yaml_path}: {key}")
    for name, field in fields.items():
        variable = field.metadata.get("env")
        if variable and env.get(variable):
            given[name] = (env[variable], f"environment variable {variable}")
    for key in _by_own_names(dict.fromkeys(flags), fields):
        _check_key(key, fields, f"unknown setting {key!r}")
    said = {key: value for key, value in flags.items() if value is not None}
    for name, (key, value) in _by_own_names(said, fields).items():
        given[name] = (value, _flag(fields[name], key))
    # 2) convert, by the same rules whatever the source
    values = {
        name: _convert(value, hints[name], source)
        for name, (value, source) in given.items()
        if value is not None or fields[name].default is not None  # a default of none is none whatever the type
    }
    needed = [n for n, f in fields.items() if n not in values and _is_required(f)]
    if needed:
        ways = [_ways(fields[name]) for name in needed]
        raise UserError("missing: " + "; ".join(ways))
    return cls(**values)


def read_yaml(path: str | Path, what: str = "settings file", of: str = "a mapping from setting to value") -> dict:
    """The mapping in a YAML file; {} where there are only comments.

    Args:
        what, of: the file and its content in words, for messages.
    Raises:
        UserError: it cannot be read, or holds no mapping.
    """
    try:
        content = yaml.safe_load(find_config(Path(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: {of} is wanted, this is {type(content).__name__}")
    return content


def _by_own_names(values: Mapping[Any, Any], fields: Mapping[str, Any]) -> dict[Any, tuple[Any, Any]]:
    """What one source says, by the own names of settings that have another one, too: (name as it says, value)."""
    own, named = {field.metadata.get("also"): name for name, field in fields.items()}, {}
    for key, value in values.items():
        name = own.get(key, key)
        if name in named and named[name][1] != value:
            also, said = fields[name].metadata["also"], f"{named[name][1]} and {value}"
            raise UserError(f"{name} and {also} are two names of one setting and say {said}: give one of them")
        named[name] = key, value
    return named


def _check_key(key: Any, fields: Mapping[str, Any], problem: str) -> None:
    if key in fields:
        return
    raise UserError(f"{problem}{near(str(key), fields) or '.'} Valid keys: {', '.join(fields)}")


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _ways(field: dataclasses.Field) -> str:
    variable = field.metadata.get("env")
    return _flag(field) + (f" (or {variable})" if variable else "")


def _flag(field: dataclasses.Field, name: str | None = None) -> str:
    return field.name.upper() if field.metadata.get("positional") else "--" + (name or field.name).replace("_", "-")


def _convert(value: Any, kind: Any, source: str) -> Any:
    """`value` as `kind`; text is parsed, and only conversions that lose nothing are made (4 to 4.0, not 4.5 to 4)."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        if value is None or (
            isinstance(value, str) and value.strip().lower() in ("none", "null") and str not in inner
        ):
            return None
        (only,) = inner  # "X | None" is the one union that settings use
        return _convert(value, only, source)
    if origin is Literal:
        chosen = [arg for arg in args if str(arg) == str(value)]
        if not chosen:
            raise UserError(f"{source}: {value!r} is not one of {', '.join(map(str, args))}")
        return chosen[0]
    if origin in (list, tuple):
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise UserError(f"{source}: a list is wanted, not {value!r}")
        return origin(_convert(item, args[0], source) for item in value)
    converted = _SCALARS[kind](value)
    if converted is None:
        raise UserError(f"{source}: {value!r} is not {_WANTED[kind]}")
    return converted


def _to_bool(value: Any) -> bool | None:
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in TRUE else False if word in FALSE else None
    return value if isinstance(value, bool) else None


def _to_int(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)  # YAML 1.1 reads 2e-5 (no dot) as text, so text is welcome from a file too
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _to_str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _to_path(value: Any) -> Path | None:
    try:
        return Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None
    except RuntimeError:  # ~ of a user that there is not
        return None


_SCALARS = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str, Path: _to_path}
_WANTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path"}
