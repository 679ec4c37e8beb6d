"""How policies are named in text: `dtd:0.5`, `random:3:seed=0`. One table for each question that a policy answers.

A policy is a frozen dataclass with a name, and its options as fields with defaults. The same text stands in flags,
configurations and checkpoints. The first option is written bare, the others with their names; what is left out takes
its default. No torch here, so that the names of a table cost nothing to list.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

from swwatch.errors import UserError


def option(default: Any, *, least: float | None = None, most: float | None = None) -> Any:
    """A field of a policy with the range of its numbers; both ends belong to it."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class Policy:
    """What all policies share. Options are int, float, bool or str, or one of these `| None`, which is written `none`.

    Attributes:
        table: what the policy is one of, for messages.
        name: in text.
    """

    table: ClassVar[str]
    name: ClassVar[str]

    @classmethod
    def options(cls) -> list[Field]:
        """The fields that its text names: all but those with repr=False."""
        return [option for option in fields(cls) if option.repr]

    def __post_init__(self):
        for option in self.options():
            value = getattr(self, option.name)
            if value is None or isinstance(value, str):
                continue
            least, most = (option.metadata.get(end) for end in ("least", "most"))
            above, below = least is None or value >= least, most is None or value <= most
            if not (math.isfinite(value) and above and below):
                ends = [
                    f"{end} {limit:g}" for end, limit in (("at least", least), ("at most", most)) if limit is not None
                ]
                raise UserError(f"{self.name}: {option.name} must be {' and '.join(ends) or 'finite'}, not {value}")

    def __str__(self) -> str:
        written = []
        for number, option in enumerate(self.options()):
            value = getattr(self, option.name)
            text = str(value).removesuffix(".0")
            if value is None or isinstance(value, bool):
                text = text.lower()
            written.append(text if number == 0 else f"{option.name}={text}")
        return ":".join([self.name, *written])


P = TypeVar("P", bound=Policy)


def table(*kinds: type[P]) -> dict[str, type[P]]:
    """A table of policies by name."""
    return {kind.name: kind for kind in kinds}


def forms(rows: Mapping[str, type[Policy]]) -> str:
    """How the policies of a table are written, with their defaults."""
    *most, last = [str(kind()) for kind in rows.values()]
    return f"{', '.join(most)} or {last}" if most else last


def parse(rows: Mapping[str, type[P]], text: str | P) -> P:
    """Inverse of `str(policy)`. A policy is returned as it is.

    Raises:
        UserError: no such name, option or value; it lists the forms.
    """
    if not isinstance(text, str):
        return text
    name, *written = text.strip().split(":")
    what = next(iter(rows.values())).table
    try:
        if name not in rows:
            raise UserError(f"there is no {name!r}")
        return rows[name](**_values(rows[name], written))
    except UserError as error:
        raise UserError(f"{what} {text!r} is not understood: {error}. Write {forms(rows)}") from error


def _values(kind: type[Policy], written: list[str]) -> dict[str, Any]:
    options, values = {option.name: option for option in kind.options()}, {}
    for number, part in enumerate(written):
        key, named, value = part.partition("=")
        if not named and number == 0 and options:
            key, value = next(iter(options)), part
        if key not in options:
            known = f"its options are {', '.join(options)}" if options else "it has no options"
            raise UserError(f"{kind.name} has no option {key!r}, {known}")
        if key in values:
            raise UserError(f"{key} is given twice")
        values[key] = _value(options[key], value)
    missing = [name for name, option in options.items() if option.default is MISSING and name not in values]
    if missing:
        raise UserError(f"{kind.name} needs {', '.join(missing)}")
    return values


def _value(option: Field, text: str) -> Any:
    kind = option.type
    if get_origin(kind) in (Union, types.UnionType):
        if text == "none":
            return None
        (kind,) = [inner for inner in get_args(kind) if inner is not type(None)]
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{option.name} must be true or false, not {text!r}")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"{option.name} must be {wanted}, not {text!r}") from error
