"""Flags that all studies share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from swwatch.config import check_least, setting
from swwatch.paths import ROOT

AnyPlan = TypeVar("AnyPlan")


@dataclass(frozen=True)
class StudyFlags:
    """Where a study is kept, and what is asked for in place of its size's own numbers."""

    out: Path = setting(ROOT / "output" / "study", "where it is kept", output="folder")
    jobs: int | None = setting(None, "trainings side by side (default: one a core, of variants a GPU)", least=1)
    steps: int | None = setting(None, "optimizer steps of each training instead of the size's own (a trial)", least=1)
    seeds: int | None = setting(None, "how many, instead of the size's own", least=1)
    report_only: bool = setting(False, "write the report of what is there")
    report: Path | None = setting(None, "folder of the report (default: into the study)", output="page")

    def __post_init__(self):
        check_least(self)

    def put_on(self, plan: AnyPlan, *more: str) -> AnyPlan:
        """A plan with the numbers that were asked for. Args: more: names of further fields of both."""
        numbers = {name: getattr(self, name) for name in ("steps", *more)}
        numbers["seeds"] = None if self.seeds is None else tuple(range(self.seeds))
        return replace(plan, **{name: number for name, number in numbers.items() if number is not None})
