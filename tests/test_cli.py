"""The command line: one table, clear errors, exit codes."""

import importlib.util
import subprocess
import sys

import pytest

import swwatch
from swwatch import cli
from swwatch.errors import UserError

# what these need is not installed with us
MORE = {"swwatch.evaluate.lmms": "lmms_eval", "swwatch.data.prepare.cluster": "ray"}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_usage_lists_every_command(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("argv", [[], ["--version"], *([name, "--help"] for name in cli.COMMANDS)], ids=str)
def test_help_into_a_full_disk_is_told(capsys, monkeypatch, argv):
    monkeypatch.setattr(sys, "stdout", open("/dev/full", "w", buffering=1))  # noqa: SIM115
    assert cli.main(argv) == 2
    assert "the disk is full" in capsys.readouterr().err


def test_user_error_is_one_line_and_exit_code_two(capsys):
    def program(argv):
        raise UserError("the file x is missing: make it with y")

    assert cli.run(program, []) == 2
    assert capsys.readouterr().err == "error: the file x is missing: make it with y\n"


def test_unknown_command_exits_with_two():
    done = subprocess.run([sys.executable, "-m", "swwatch", "fly"], capture_output=True, text=True)
    assert done.returncode == 2 and "no command 'fly'" in done.stderr


def test_a_mistyped_command_is_told_with_the_nearest(capsys):
    assert cli.main(["steam", "--help"]) == 2
    assert "no command 'steam'; did you mean 'stream'?" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"swwatch {swwatch.__version__}\n"


def test_every_module_imports():
    from pathlib import Path

    root = Path(cli.__file__).parent
    for path in root.rglob("*.py"):
        name = ".".join(("swwatch", *path.relative_to(root).with_suffix("").parts))
        if name not in MORE or importlib.util.find_spec(MORE[name]):
            importlib.import_module(name.removesuffix(".__init__"))
