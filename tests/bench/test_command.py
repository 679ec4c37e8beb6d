"""One form of program: every kind has its parts, and a new kind needs no more than these."""

import json
import sys
import types
from dataclasses import dataclass

import pytest

from swwatch.bench import command
from swwatch.bench.command import KINDS, Benchmark, part
from swwatch.bench.record import Record
from swwatch.bench.settings import BenchSettings
from swwatch.config import setting
from swwatch.errors import UserError


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_parts(name):
    settings = getattr(part(name, "settings"), KINDS[name].settings)().settled(cuda=False)
    assert settings.device == "cpu" and settings.precision == "float32"
    assert settings.steadiness and settings.__doc__.startswith("Measure ")
    assert callable(part(name, "measure").measure) and callable(part(name, "page").report)
    assert not KINDS[name].pictures or callable(part(name, "plots").draw)


@dataclass(frozen=True)
class CountSettings(BenchSettings):
    """Measure how far one can count."""

    numbers: int = setting(3, "so many", least=1)

    @property
    def steadiness(self) -> str:
        return "one and one are two"


def report(result: dict) -> str:
    return f"counted to {result['counted']}"


def measure(settings: CountSettings, command: str) -> dict:
    record = Record("count", settings, command, report)
    record.result["counted"] = 0
    with record.until_stopped():
        for number in range(settings.numbers):
            record.result["counted"] = number + 1
            if number == 4:
                raise KeyboardInterrupt
            record.save()
    return record.save(doubts=["nobody counted again"])


@pytest.fixture
def count(monkeypatch):
    """A kind of benchmark, added as CONTRIBUTING.md tells."""
    parts = {"settings": {"CountSettings": CountSettings}, "measure": {"measure": measure}, "page": {"report": report}}
    for name, content in parts.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"swwatch.bench.count.{name}", module)
    monkeypatch.setitem(sys.modules, "swwatch.bench.count", types.ModuleType("count"))
    monkeypatch.setitem(KINDS, "count", Benchmark("CountSettings", "counting"))


def test_a_new_kind_gets_flags_files_verdict_and_report(count, tmp_path, capsys):
    assert command.main(["count", "--numbers", "2", "--device", "cpu", "--output", str(tmp_path / "a")]) == 0
    result = json.loads((tmp_path / "a" / "bench_count.json").read_text())
    assert result["counted"] == 2 and result["command"].startswith("swwatch bench count --numbers 2")
    assert "output" not in result["settings"] and result["settings"]["numbers"] == 2
    assert result["verdict"]["reasons"][-1] == "nobody counted again" and not result["verdict"]["trusted"]
    assert result["verdict"]["rule"].endswith("one and one are two")
    capsys.readouterr()

    file = str(tmp_path / "a" / "bench_count.json")
    assert command.main(["count", "--report", file, "--output", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "bench_count.md").read_text() == "counted to 2\n"
    assert capsys.readouterr().out.startswith("counted to 2\n")
    with pytest.raises(UserError, match="numbers must be at least 1"):
        command.main(["count", "--numbers", "0"])


def test_a_run_that_is_stopped_keeps_what_it_has(count, tmp_path):
    assert command.main(["count", "--numbers", "9", "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bench_count.json").read_text())
    assert result["counted"] == 5
    assert result["left_out"] == [{"part": "what was still to come", "reason": "stopped from outside"}]
