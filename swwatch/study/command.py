"""Train the variants alike on the toy world, test them under several schedules, and say what came of it.

Continues where it was stopped. The small size takes about 90 minutes on 2 cores, the quick one (group and interleave,
one seed) under 20; --size large is meant for GPUs.

`swwatch study base` makes the pretrained toy model that all else can be fine-tuned from. On models fine-tuned from it
`swwatch study policies` compares every policy of SEE, KEEP and SPEAK, and `swwatch study thinking` those that think
with those that do not.
"""

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from swwatch.config import read_settings, setting
from swwatch.paths import only_one
from swwatch.study.base import BaseSettings, make_base
from swwatch.study.flags import StudyFlags
from swwatch.study.plan import PLANS, Plan


@dataclass(frozen=True)
class StudySettings(StudyFlags):
    """Settings of `swwatch study`."""

    size: Literal["quick", "small", "large"] = setting("small", f"how much: {', '.join(PLANS)}")
    quick: bool = setting(False, "the same as --size quick")
    base: bool = setting(False, "fine-tune all from the BASE, in fewer steps; also test other K and frame rates")

    @property
    def plan(self) -> Plan:
        plan = PLANS["quick" if self.quick else self.size]
        return self.put_on(plan.from_base() if self.base else plan)


OTHERS = {
    "base": "swwatch.study.base",
    "policies": "swwatch.study.policies",
    "thinking": "swwatch.study.thinking",
}  # what else `swwatch study` makes -> its module


def main(argv: list[str]) -> int:
    if argv and argv[0] in OTHERS:
        return import_module(OTHERS[argv[0]]).main(argv[1:])
    settings = read_settings(StudySettings, argv, program="swwatch study", about=__doc__)
    plan = settings.plan
    folder = settings.out.resolve() / plan.folder
    with only_one(folder, str(folder)):
        return study(settings, plan, folder)


def study(settings: StudySettings, plan: Plan, folder: Path) -> int:
    """Run what is missing, unless the report alone is asked for, and write the report."""
    if not settings.report_only:
        base = make_base(BaseSettings(settings.out)) if settings.base else None
        run(plan, folder, settings.jobs, base)

        from swwatch.model.repeat import repeat_of, write_note

        note, results = (
            folder / f"run-{plan.name}.json",
            [f"eval/{'-'.join(map(str, c))}_infer.json" for c in plan.cells()],
        )
        write_note(note, repeat_of(["study"], settings, note, results=results))
    from swwatch.study.outcome import read_outcome
    from swwatch.study.page import summary, write_page

    outcome = read_outcome(plan, folder)
    page = write_page(outcome, settings.report or folder / f"report-{plan.name}")
    print(f"\n{summary(outcome)}\n\nreport: {page}")
    return 0


def run(plan: Plan, folder: Path, at_once: int | None, base: Path | None = None) -> None:
    """Make data, models, trainings and tests that are not there yet."""
    import torch

    from swwatch.study.commands import jobs_of
    from swwatch.study.jobs import run_all

    devices = torch.cuda.device_count()
    at_once = at_once or devices or len(os.sched_getaffinity(0))
    print(
        f"{plan.name} study: {len(plan.variants)} variants x {len(plan.seeds)} seeds, {at_once} at once, in {folder}"
    )
    run_all(jobs_of(plan, folder, base), folder / "jobs", at_once=at_once, devices=devices)
