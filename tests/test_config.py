"""Settings: one order of precedence, strict types, unknown keys refused."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swwatch.config import REQUIRED, add_flags, load_settings, read_settings, setting
from swwatch.errors import UserError


@dataclass(frozen=True)
class Demo:
    name: str | None = setting(None, "a name", env="DEMO_NAME")
    count: int = setting(3, "how many, 100 % of them", env="DEMO_COUNT")
    rate: float = setting(0.5, "a rate")
    verbose: bool = setting(False, "talk", env="DEMO_VERBOSE")
    out: Path = setting(Path("out"), "a folder")
    mode: Literal["fast", "slow"] = setting("fast", "how")
    sizes: tuple[int, ...] = setting((), "sizes")


def write(tmp_path, text):
    path = tmp_path / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_combination_of_sources_obeys_flags_then_environment_then_yaml_then_default(tmp_path):
    yaml_path = write(tmp_path, "count: 10\n")
    for flag in (None, 30):
        for env in ({}, {"DEMO_COUNT": "20"}, {"DEMO_COUNT": ""}):
            for path in (None, yaml_path):
                want = flag or (20 if env.get("DEMO_COUNT") else None) or (10 if path else 3)
                got = load_settings(Demo, yaml_path=path, env=env, flags={"count": flag})
                assert got.count == want, (flag, env, path)


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_text_and_typed_values_convert_alike(count, rate, verbose):
    typed = load_settings(Demo, flags={"count": count, "rate": rate, "verbose": verbose})
    text = load_settings(Demo, flags={"count": str(count), "rate": str(rate), "verbose": str(verbose)})
    assert typed == text
    assert (typed.count, typed.rate, typed.verbose) == (count, rate, verbose)
    assert type(typed.rate) is float


def test_types_follow_the_annotations(tmp_path):
    path = write(tmp_path, "rate: 2e-5\nout: a/b\nmode: slow\nsizes: [1, 2]\nname: null\n")
    got = load_settings(Demo, yaml_path=path)
    assert got == Demo(rate=2e-5, out=Path("a/b"), mode="slow", sizes=(1, 2), name=None)
    assert load_settings(Demo, flags={"sizes": "4, 5"}).sizes == (4, 5)
    assert load_settings(Demo, env={"DEMO_VERBOSE": "0"}).verbose is False


@pytest.mark.parametrize(
    "text, culprit",
    [
        ("count: 2.5", "2.5"),
        ("count: true", "True"),
        ("count: many", "many"),
        ("rate: .nan", "nan"),
        ("rate: fast", "fast"),
        ("verbose: 2", "2"),
        ("name: 3", "3"),
        ("mode: medium", "fast, slow"),
        ("sizes: 3", "a list"),
        ("out: [a]", "a path"),
        ("- count", "mapping"),
        ("count: [", "demo.yaml"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_file_and_value(tmp_path, text, culprit):
    with pytest.raises(UserError) as error:
        load_settings(Demo, yaml_path=write(tmp_path, text))
    assert culprit in str(error.value) and "demo.yaml" in str(error.value)


def test_unknown_key_is_refused_with_the_nearest_and_all_valid_keys(tmp_path):
    with pytest.raises(UserError) as error:
        load_settings(Demo, yaml_path=write(tmp_path, "cuont: 3"))
    assert "'cuont'" in str(error.value) and "did you mean 'count'" in str(error.value)
    assert "name, count, rate, verbose, out, mode, sizes" in str(error.value)
    with pytest.raises(UserError, match="unknown setting 'zzz'"):
        load_settings(Demo, flags={"zzz": None})


def test_missing_file_and_missing_required_value_are_errors(tmp_path):
    @dataclass(frozen=True)
    class Needy:
        model_path: str

    with pytest.raises(UserError, match="no.yaml"):
        load_settings(Demo, yaml_path=tmp_path / "no.yaml")
    with pytest.raises(UserError, match="--model-path"):
        load_settings(Needy)


def test_comment_only_file_is_all_defaults(tmp_path):
    assert load_settings(Demo, yaml_path=write(tmp_path, "# nothing\n")) == Demo()


def test_flags_come_from_the_fields_and_absent_ones_stay_unset():
    parser = argparse.ArgumentParser()
    add_flags(parser, Demo)
    parser.format_help()  # a bare percent sign in a help line would raise here
    assert set(vars(parser.parse_args([])).values()) == {None}
    flags = vars(parser.parse_args(["--count", "7", "--no-verbose", "--rate", "1"]))
    got = load_settings(Demo, env={"DEMO_VERBOSE": "true"}, flags=flags)
    assert (got.count, got.verbose, got.rate) == (7, False, 1.0)


def test_infinite_text_is_refused():
    with pytest.raises(UserError, match="finite"):
        load_settings(Demo, flags={"rate": str(math.inf)})


@dataclass(frozen=True, kw_only=True)
class Models:
    heading: ClassVar[str] = "which models"

    model: list[str] = setting([], "models", repeat=True)


@dataclass(frozen=True, kw_only=True)
class Program(Models):
    source: str = setting(REQUIRED, "a source", positional=True)
    no_token: bool = setting(False, "let everybody in")


def read(*argv):
    return read_settings(Program, list(argv), program="demo", about="One line.\n\nMore.")


def test_a_program_reads_places_repeated_flags_switches_and_a_file(tmp_path):
    got = read("a.mp4", "--model", "a,b", "--model", "c", "--no-token")
    assert got == Program(source="a.mp4", model=["a,b", "c"], no_token=True)
    assert read("--config", str(write(tmp_path, "source: b.mp4\nmodel: [d]\n"))) == Program(
        source="b.mp4", model=["d"]
    )
    with pytest.raises(UserError, match="missing: SOURCE"):
        read()


def test_the_help_has_headings_and_a_wrong_flag_is_told_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "which models:" in out and "--no-no-token" not in out and "More." in out
    with pytest.raises(SystemExit) as stop:
        read("a", "--modle=x")
    assert stop.value.code == 2 and "no option --modle; did you mean '--model'?" in capsys.readouterr().err


def test_the_home_of_nobody_is_a_mistake():
    with pytest.raises(UserError, match="--out"):
        load_settings(Demo, flags={"out": "~nobody-of-this-name/x"})


@dataclass(frozen=True)
class TwoNames:
    rate: int = setting(1, "a rate", also="speed")


@pytest.mark.parametrize("name", ["rate", "speed"])
def test_a_wrong_value_is_told_by_the_name_that_was_said(tmp_path, name):
    with pytest.raises(UserError, match=f"^--{name}: 'x' is not a whole number"):
        load_settings(TwoNames, flags={"rate": None, "speed": None, name: "x"})
    path = tmp_path / "two.yaml"
    path.write_text(f"{name}: x\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"two.yaml: {name}: 'x' is not a whole number"):
        load_settings(TwoNames, yaml_path=path)
