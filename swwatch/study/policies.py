"""Compare every policy of SEE, KEEP and SPEAK on models that were fine-tuned from one BASE, on the same clips.

Continues where it was stopped. Meant for 90 minutes on 2 cores, --quick (one seed, few and short clips) for 15;
neither has been timed yet. A row that is added to a table comes in by itself.
"""

from pathlib import Path

from swwatch.paths import CONFIGS
from swwatch.policies.speak import parse_schedule
from swwatch.study.commands import as_flags
from swwatch.study.compare import Comparison, compare
from swwatch.study.jobs import Job
from swwatch.study.policy_plan import PLANS, TESTS, PolicyPlan, Row

TOLD, ASKED = CONFIGS / "train" / "toy.yaml", CONFIGS / "train" / "toy_turns.yaml"
CLIPS = 600  # to fine-tune on, of each world


def main(argv: list[str]) -> int:
    return compare(POLICIES, argv, __doc__)


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


def run(loaded, row: Row, record: dict, video: Path, seconds: int) -> dict:
    """One clip under a policy."""
    from swwatch.study.policy_runs import asked, narrated

    test, table, policy = row
    if table == "schedule":
        parse_schedule(policy).check_trained(loaded.settings.schedule, "the narrator")
    return (asked if TESTS[test].asks else narrated)(loaded, record, video, seconds, **{table: policy})


POLICIES = Comparison(
    "policies", PLANS, jobs_of, lambda row: TESTS[row[0]].variant, run, page="swwatch.study.policy_page"
)
