"""The jobs of a plan: what `swwatch` is asked to do, and in which order."""

from pathlib import Path

from swwatch.paths import CONFIGS
from swwatch.study.jobs import Job
from swwatch.study.plan import Plan

TRAIN_CONFIG = CONFIGS / "train" / "toy.yaml"


def jobs_of(plan: Plan, folder: Path) -> list[Job]:
    """All of them, those first that others need."""
    return [*prepare_jobs(plan, folder), *train_jobs(plan, folder), *test_jobs(plan, folder)]


def prepare_jobs(plan: Plan, folder: Path) -> list[Job]:
    """Clips, a model for every seed, and the annotation files."""
    data, first = folder / "data", f"model-{plan.seeds[0]}"
    size = as_flags(clips=plan.clips, test_clips=plan.test_clips, level=plan.level, seed=0)
    jobs = [Job("clips", ("toy", "data", str(data), *size))]
    for seed in plan.seeds:
        jobs.append(Job(f"model-{seed}", ("toy", "model", str(folder / f"model-{seed}"), *as_flags(seed=seed))))
    where = as_flags(dataset_root=data, output_dir=data, tokenizer_model_id=folder / first)
    return [*jobs, Job("annotations", ("prepare", *where), ("clips", first))]


def train_jobs(plan: Plan, folder: Path) -> list[Job]:
    """One training for every variant and seed; seeds in turn, so that whole comparisons come early."""
    jobs = []
    for seed in plan.seeds:
        for variant in plan.variants:
            name, model = f"{variant}-{seed}", f"model-{seed}"
            flags = as_flags(
                config=TRAIN_CONFIG,
                variant=variant,
                seed=seed,
                model_path=folder / model,
                output_dir=folder / name,
                train_data=folder / "data" / "train_3_5.jsonl",
                max_steps=plan.steps,
            )
            jobs.append(Job(name, ("train", *flags), ("annotations", model)))
    return jobs


def test_jobs(plan: Plan, folder: Path) -> list[Job]:
    """One evaluation for every trained model and schedule."""
    jobs = []
    for variant, seed, name in plan.cells():
        file, model = f"{variant}-{seed}-{name}", f"{variant}-{seed}"
        flags = as_flags(
            model_path=folder / model,
            data_dir=folder / "data" / "test_3_5.jsonl",
            output_dir=folder / "eval",
            output_file=f"{file}_infer.json",
            schedule=plan.schedules(variant)[name],
            max_count=plan.test_clips,
            clips_at_once=1,  # times of one stream
        )
        jobs.append(Job(f"eval-{file}", ("eval", *flags), (model,)))
    return jobs


def as_flags(**values) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]
