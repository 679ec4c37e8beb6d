"""Compare every policy of SEE, KEEP and SPEAK on models that were fine-tuned from one BASE, on the same clips.

Continues where it was stopped. Meant for 90 minutes on 2 cores, --quick (one seed, few and short clips) for 15;
neither has been timed yet. A row that is added to a table comes in by itself.
"""

import json
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from swwatch.config import check_least, read_settings, setting
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.paths import CONFIGS, ROOT, only_one
from swwatch.policies.speak import parse_schedule
from swwatch.study.base import BaseSettings, make_base
from swwatch.study.commands import as_flags
from swwatch.study.jobs import Job, run_all
from swwatch.study.policy_plan import PLANS, TESTS, PolicyPlan, cell_path

TOLD, ASKED = CONFIGS / "train" / "toy.yaml", CONFIGS / "train" / "toy_turns.yaml"
CLIPS = 600  # to fine-tune on, of each world


@dataclass(frozen=True)
class PoliciesSettings:
    """Settings of `swwatch study policies`."""

    quick: bool = setting(False, "one seed, few and short clips")
    out: Path = setting(ROOT / "output" / "study", "where it is kept", output="folder")
    base: Path | None = setting(None, "checkpoint to fine-tune from (default: the BASE, made where it is not there)")
    steps: int | None = setting(None, "optimizer steps of each fine-tuning instead of the size's own", least=1)
    clips: int | None = setting(None, "of each test, instead of the size's own", least=1)
    seconds: int | None = setting(None, "of each clip at most, instead of the size's own", least=10)
    jobs: int | None = setting(None, "trainings side by side (default: one a core)", least=1)
    report_only: bool = setting(False, "write the report of what is there")
    report: Path | None = setting(None, "folder of the report (default: into the study)", output="page")

    def __post_init__(self):
        check_least(self)

    @property
    def plan(self) -> PolicyPlan:
        own = {name: getattr(self, name) for name in ("steps", "clips", "seconds")}
        return replace(PLANS["quick" if self.quick else "full"], **{k: n for k, n in own.items() if n is not None})


def main(argv: list[str]) -> int:
    settings = read_settings(PoliciesSettings, argv, program="swwatch study policies", about=__doc__)
    plan, out = settings.plan, settings.out.resolve()
    if settings.report_only:
        base = settings.base or BaseSettings(out).folder / "base"
    else:
        base = settings.base or make_base(BaseSettings(out))
    base = base.resolve()
    folder = out / f"policies-{plan.steps}-{zlib.crc32(str(base).encode()):08x}"
    with only_one(folder, str(folder)):
        if not settings.report_only:
            from swwatch.model.repeat import repeat_of, write_note

            at_once = settings.jobs or len(os.sched_getaffinity(0))
            run_all(jobs_of(plan, folder, base), folder / "jobs", at_once=at_once)
            measure(plan, folder)
            note, results = folder / f"run-{plan.name}.json", [f"cells/{plan.clips}-{plan.seconds}/*.json"]
            models = {str(base): None}
            write_note(note, repeat_of(["study", "policies"], settings, note, results=results, models=models))

        from swwatch.study.policy_page import write_page

        page = write_page(plan, folder, settings.report or folder / f"report-{plan.name}")
    print(f"report: {page}")
    return 0


def jobs_of(plan: PolicyPlan, folder: Path, base: Path) -> list[Job]:
    """Clips of the worlds, and the models that narrate and that answer, fine-tuned from the BASE."""
    single, asked = folder / "single", [folder / f"{world}-{plan.clips}" for world in ("count", "still")]
    where = as_flags(dataset_root=single, output_dir=single, tokenizer_model_id=base)
    found = [
        Job("single", ("toy", "data", str(single), *as_flags(clips=CLIPS, test_clips=1, level="single", workers=1))),
        Job("annotations", ("prepare", *where), ("single",)),
    ]
    for world in ("count", "still", "ten_minutes"):
        data, train = folder / f"{world}-{plan.clips}", 0 if world == "ten_minutes" else CLIPS // 4
        size = as_flags(clips=train, test_clips=plan.clips, level=world, workers=1)
        found.append(Job(data.name, ("toy", "data", str(data), *size)))
        if train:
            found.append(Job(f"questions-{data.name}", ("toy", "questions", str(data)), (data.name,)))
    for seed in plan.seeds:
        same = {"model_path": base, "seed": seed, "max_steps": plan.steps, "warmup": plan.steps // 10}
        told = as_flags(config=TOLD, variant="group", train_data=single / "train_3_5.jsonl", **same)
        name = f"group-{seed}"
        found.append(Job(name, ("train", *told, *as_flags(output_dir=folder / name)), ("annotations",)))
        answer = as_flags(config=ASKED, variant="streamingvlm", batch_size=4, **same)
        first, second = (path / "asked_train.jsonl" for path in asked)
        data = as_flags(train_data=first, more_data=second)
        name, after = f"streamingvlm-{seed}", tuple(f"questions-{path.name}" for path in asked)
        found.append(Job(name, ("train", *answer, *data, *as_flags(output_dir=folder / name)), after))
    return found


def measure(plan: PolicyPlan, folder: Path) -> None:
    """Every cell that is not there yet, in a file of its own."""
    from swwatch.model.loading import load
    from swwatch.study.policy_runs import asked, clips_of, narrated

    cells = [cell for cell in plan.cells() if not cell_path(folder, plan, *cell).exists()]
    loaded = {}
    for number, (seed, name, table, policy) in enumerate(cells, start=1):
        test = TESTS[name]
        key = test.variant, seed
        if key not in loaded:
            loaded = {key: load(folder / f"{test.variant}-{seed}", device="cpu")}
        seconds = min(test.seconds, plan.seconds)
        run = asked if test.asks else narrated
        result: dict = {"clips": []}
        try:
            if table == "schedule":
                parse_schedule(policy).check_trained(loaded[key].settings.schedule, "the narrator")
            for clip in clips_of(folder / f"{test.world}-{plan.clips}", plan.clips):
                result["clips"].append(run(loaded[key], *clip, seconds, **{table: policy}))
        except UserError as error:
            result["refused"] = str(error)
        write_atomic(cell_path(folder, plan, seed, name, table, policy), [json.dumps(result) + "\n"])
        print(f"  [{number}/{len(cells)}] seed {seed}, {name}, {table} {policy}", flush=True)
