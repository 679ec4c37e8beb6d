"""Rows of a plan compared: models are fine-tuned from one BASE, each row is tried on the same clips, a page tells it.

Each result is a cell in a file of its own, so that a comparison goes on where it was stopped.
"""

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from swwatch.config import read_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.paths import only_one
from swwatch.study.base import BaseSettings, make_base
from swwatch.study.flags import StudyFlags
from swwatch.study.jobs import Job, run_all
from swwatch.study.policy_plan import PolicyPlan, Row, cell_path


@dataclass(frozen=True)
class ComparisonSettings(StudyFlags):
    """Settings of `swwatch study policies` and of `swwatch study thinking`."""

    quick: bool = setting(False, "one seed, few and short clips")
    base: Path | None = setting(None, "checkpoint to fine-tune from (default: the BASE, made where it is not there)")
    clips: int | None = setting(None, "of each test, instead of the size's own", least=1)
    seconds: int | None = setting(None, "of each clip at most, instead of the size's own", least=10)

    def __post_init__(self):
        super().__post_init__()
        if self.base is not None and not self.base.is_dir():
            raise UserError(f"base {self.base} is no folder of a checkpoint")

    def plan_of(self, plans: dict[str, PolicyPlan]) -> PolicyPlan:
        return self.put_on(plans["quick" if self.quick else "full"], "clips", "seconds")


@dataclass(frozen=True)
class Comparison:
    """One of these.

    Attributes:
        name: `swwatch study NAME`; plans: by size.
        jobs_of: (plan, folder, base) -> what makes clips and models.
        model_of: row -> the model that it is tried on, a folder name without the seed.
        run: (loaded, row, record, video, seconds) -> what came of one clip.
        page: module whose write_page(plan, folder, out) tells the results.
    """

    name: str
    plans: dict[str, PolicyPlan]
    jobs_of: Callable[[PolicyPlan, Path, Path], list[Job]]
    model_of: Callable[[Row], str]
    run: Callable[..., dict]
    page: str


def compare(comparison: Comparison, argv: list[str], about: str) -> int:
    """The program of a comparison."""
    program = ["study", comparison.name]
    settings = read_settings(ComparisonSettings, argv, program=" ".join(["swwatch", *program]), about=about)
    plan, out = settings.plan_of(comparison.plans), settings.out.resolve()
    if settings.report_only:
        base = settings.base or BaseSettings(out).folder / "base"
    else:
        base = settings.base or make_base(BaseSettings(out))
    base = base.resolve()
    folder = out / f"{comparison.name}-{plan.steps}-{zlib.crc32(str(base).encode()):08x}"
    with only_one(folder, str(folder)):
        if not settings.report_only:
            from swwatch.model.repeat import repeat_of, write_note

            at_once = settings.jobs or len(os.sched_getaffinity(0))
            for number in range(len(plan.seeds)):  # one after the other: a whole comparison comes early
                some = replace(plan, seeds=plan.seeds[: number + 1])
                run_all(comparison.jobs_of(some, folder, base), folder / "jobs", at_once=at_once)
                measure(comparison, some, folder)
            note, results = folder / f"run-{plan.name}.json", [f"cells/{plan.clips}-{plan.seconds}/*.json"]
            write_note(note, repeat_of(program, settings, note, results=results, models={str(base): None}))
        write_page = import_module(comparison.page).write_page
        page = write_page(plan, folder, settings.report or folder / f"report-{plan.name}")
    print(f"report: {page}")
    return 0


def measure(comparison: Comparison, plan: PolicyPlan, folder: Path) -> None:
    """Every cell that is not there yet."""
    from swwatch.model.loading import load
    from swwatch.study.policy_runs import clips_of

    cells = [cell for cell in plan.cells() if not cell_path(folder, plan, *cell).exists()]
    loaded = {}
    for number, (seed, *row) in enumerate(cells, start=1):
        test, key = plan.tests[row[0]], f"{comparison.model_of(tuple(row))}-{seed}"
        if key not in loaded:
            loaded = {key: load(folder / key, device="cpu")}
        result: dict = {"clips": []}
        try:
            for clip in clips_of(folder / f"{test.world}-{plan.clips}", plan.clips):
                seconds = min(test.seconds, plan.seconds)
                result["clips"].append(comparison.run(loaded[key], tuple(row), *clip, seconds))
        except UserError as error:
            result["refused"] = str(error)
        write_atomic(cell_path(folder, plan, seed, *row), [json.dumps(result) + "\n"])
        print(f"  [{number}/{len(cells)}] seed {seed}, {', '.join(row)}", flush=True)
