"""Compare every policy of SEE, KEEP and SPEAK on models that were fine-tuned from one BASE, on the same clips.

Continues where it was stopped. A seed took about 22 minutes on 2 cores at a load of 5: three by default, one with
--quick, of fewer clips. A row that is added to a table comes in by itself.
"""

from pathlib import Path

from swwatch.paths import CONFIGS
from swwatch.policies.speak import SPEAK
from swwatch.study.commands import as_flags
from swwatch.study.compare import Comparison, compare
from swwatch.study.jobs import Job
from swwatch.study.policy_plan import PLANS, TESTS, PolicyPlan, Row

TOLD, ASKED = CONFIGS / "train" / "toy.yaml", CONFIGS / "train" / "toy_turns.yaml"
CLIPS = 600  # of up to half a minute to fine-tune on; of each world a quarter
ROUNDS = 3  # how often each kind of question is asked of a clip


def main(argv: list[str]) -> int:
    return compare(POLICIES, argv, __doc__)


def jobs_of(plan: PolicyPlan, folder: Path, base: Path) -> list[Job]:
    """Clips of the worlds, and the models that narrate and that answer, fine-tuned from the BASE."""
    return [*_clips(plan, folder, base), *(job for seed in plan.seeds for job in _models(plan, folder, base, seed))]


def _clips(plan: PolicyPlan, folder: Path, base: Path) -> list[Job]:
    long = folder / "long"
    where = as_flags(dataset_root=long, output_dir=long, tokenizer_model_id=base)
    found = [
        Job("long", ("toy", "data", str(long), *as_flags(clips=CLIPS, test_clips=1, level="long", workers=1))),
        Job("annotations", ("prepare", *where), ("long",)),
    ]
    for world in ("count", "still", "ten_minutes"):
        data, train = folder / f"{world}-{plan.clips}", 0 if world == "ten_minutes" else CLIPS // 4
        size = as_flags(clips=train, test_clips=plan.clips, level=world, workers=1)
        found.append(Job(data.name, ("toy", "data", str(data), *size)))
        if train:
            found.append(Job(f"questions-{data.name}", ("toy", "questions", str(data)), (data.name,)))
    return found


def _models(plan: PolicyPlan, folder: Path, base: Path, seed: int) -> list[Job]:
    """Of one seed: what narrates by a plan, what answers, and one for each policy that says when to speak itself."""
    still, count = (folder / f"{world}-{plan.clips}" for world in ("still", "count"))
    steps = as_flags(model_path=base, seed=seed, max_steps=plan.steps, warmup=plan.steps // 10)
    narrating, answering, timing = (
        as_flags(config=TOLD, variant="group", train_data=folder / "long" / "train_3_5.jsonl", batch_size=8),
        as_flags(config=ASKED, variant="streamingvlm", train_data=count / "asked_train.jsonl", batch_size=4)
        + as_flags(more_data=still / "asked_train.jsonl"),
        as_flags(config=TOLD, variant="group", train_data=still / "timed_train.jsonl", batch_size=4, max_frames=180),
    )
    questions = tuple(f"questions-{data.name}" for data in (still, count))
    models = {"group": (narrating, ("annotations",)), "streamingvlm": (answering, questions)}
    models |= {name: ([*timing, *as_flags(schedule=name)], questions[:1]) for name in SPEAK if SPEAK[name].learned}
    return [
        Job(f"{name}-{seed}", ("train", *flags, *steps, *as_flags(output_dir=folder / f"{name}-{seed}")), after)
        for name, (flags, after) in models.items()
    ]


def model_of(row: Row) -> str:
    """The one that a row is tried on: its own, where a policy must be trained for; else that of its test."""
    test, table, policy = row
    name = policy.split(":")[0]
    if table == "schedule":
        return name if SPEAK[name].learned else TESTS[test].variant
    return TESTS[test].model or TESTS[test].variant


def run(loaded, row: Row, record: dict, video: Path, seconds: int) -> dict:
    """One clip under a policy."""
    from swwatch.study.policy_runs import ask_questions, narrated

    test, table, policy = row
    if TESTS[test].asks:
        return ask_questions(loaded, record, video, seconds, policy, rounds=ROUNDS)
    return narrated(loaded, record, video, seconds, **{table: policy})


POLICIES = Comparison("policies", PLANS, jobs_of, model_of, run, page="swwatch.study.policy_page")
