"""The jobs of a plan: what `swwatch` is asked to do, and in which order."""

from pathlib import Path

from swwatch.paths import CONFIGS
from swwatch.study.jobs import Job
from swwatch.study.plan import Plan

TRAIN_CONFIG = CONFIGS / "train" / "toy.yaml"


def jobs_of(plan: Plan, folder: Path, base: Path | None = None) -> list[Job]:
    """All of them, those first that others need.

    Args:
        base: the model that all are fine-tuned from; None: random weights, others for every seed.
    """
    return [*prepare_jobs(plan, folder, base), *train_jobs(plan, folder, base), *test_jobs(plan, folder)]


def prepare_jobs(plan: Plan, folder: Path, base: Path | None = None) -> list[Job]:
    """Clips, a model for every seed, and the annotation files."""
    data, first = folder / "data", f"model-{plan.seeds[0]}"
    size = as_flags(clips=plan.clips, test_clips=plan.test_clips, level=plan.level, seed=0)
    jobs = [Job("clips", ("toy", "data", str(data), *size))]
    for seed in plan.seeds if base is None else ():
        jobs.append(Job(f"model-{seed}", ("toy", "model", str(folder / f"model-{seed}"), *as_flags(seed=seed))))
    where = as_flags(dataset_root=data, output_dir=data, tokenizer_model_id=base or folder / first)
    return [*jobs, Job("annotations", ("prepare", *where), ("clips",) if base else ("clips", first))]


def train_jobs(plan: Plan, folder: Path, base: Path | None = None) -> list[Job]:
    """One training for every variant and seed; seeds in turn, so that whole comparisons come early."""
    jobs = []
    for seed in plan.seeds:
        for variant in plan.variants:
            name, model = f"{variant}-{seed}", f"model-{seed}"
            flags = as_flags(
                config=TRAIN_CONFIG,
                variant=variant,
                seed=seed,
                model_path=base or folder / model,
                output_dir=folder / name,
                train_data=folder / "data" / "train_3_5.jsonl",
                max_steps=plan.steps,
                frames_cache_dir=folder / "frames",  # read once for all trainings
                frames_cache_gb=2,
            )
            jobs.append(Job(name, ("train", *flags), ("annotations",) if base else ("annotations", model)))
    return jobs


def test_jobs(plan: Plan, folder: Path) -> list[Job]:
    """One evaluation for every trained model and schedule."""
    jobs, sweep = [], plan.sweep()
    for variant, seed, name in plan.cells():
        file, model = f"{variant}-{seed}-{name}", f"{variant}-{seed}"
        flags = as_flags(
            model_path=folder / model,
            data_dir=folder / "data" / "test_3_5.jsonl",
            output_dir=folder / "eval",
            output_file=f"{file}_infer.json",
            **(sweep[variant, name] if (variant, name) in sweep else {"schedule": plan.schedules(variant)[name]}),
            max_count=plan.test_clips,
            clips_at_once=1,  # times of one stream
        )
        jobs.append(Job(f"eval-{file}", ("eval", *flags), (model,)))
    return jobs


def as_flags(**values) -> list[str]:
    """Settings as words of a command line."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    return [word for flag, value in flags.items() for word in ([flag] if value is True else [flag, str(value)])]
