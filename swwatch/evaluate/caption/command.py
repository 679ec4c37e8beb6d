"""Caption a test set with a checkpoint and score the captions. Continues where an earlier run was killed.

Precedence: flags, then environment variables, then configs/eval.yaml, then the defaults.
"""

import os

from swwatch.config import read_settings
from swwatch.data.annotations import no_file, read_jsonl
from swwatch.evaluate.caption.settings import CONFIG, EvalSettings
from swwatch.evaluate.run_files import read_run, write_object
from swwatch.launch.place import place_of
from swwatch.launch.ranks import join
from swwatch.launch.signals import stops_at_once
from swwatch.paths import only_one_writes
from swwatch.rules.schedule import FPS


def main(argv: list[str]) -> int:
    settings = _read(argv)
    if settings.score_only:
        if place_of(os.environ).rank == 0:
            score_predictions(settings)
        return 0
    with stops_at_once(), join(os.environ) as ranks:
        records = read_jsonl(settings.data_path)[: settings.max_count]

        from swwatch.evaluate.caption.measure import evaluate  # torch is behind it

        evaluate(settings, records, ranks)
    return 0


def several(argv: list[str]) -> bool:
    """For `launch.torchrun`: tell what is wrong with the flags, and whether more than one process is of use."""
    return not _read(argv).score_only


def _read(argv: list[str]) -> EvalSettings:
    settings = read_settings(EvalSettings, argv, program="swwatch eval", about=__doc__, yaml_path=CONFIG)
    if not settings.score_only:
        if not settings.data_path.is_file():
            raise no_file(settings.data_path)
        settings.check_model(settings.model)
    return settings


def score_predictions(settings: EvalSettings) -> None:
    """Score a predictions file without a model: one of ours, or the public release's, which has the same form."""
    path = settings.predictions_path(settings.variant)

    from swwatch.evaluate.caption.scoring import describe, learned_metrics, score

    learned, run = learned_metrics(settings), read_run(path).tell()
    metrics = run.beside("metrics.json")
    with only_one_writes(metrics):
        made = run.facts.get("settings", {})
        report = score(
            list(run.rows.values()),
            read_jsonl(settings.data_path) if settings.data_path.is_file() else [],  # for the toy world's events
            traces=run.tokens if run.beside("trace.jsonl").exists() else None,  # the public release writes none
            schedule=made.get("schedule"),
            fps=made.get("fps", FPS),
            clips_at_once=run.facts.get("about", {}).get("clips_at_once", 1),
            learned=learned,
        )
        if run.problems:
            report["problems"] = run.problems
        write_object(metrics, {**run.facts, "num_skipped": len(run.skipped), **report})
    print(describe(report, made.get("variant", settings.variant), len(run.skipped)))
    print(f"metrics in {metrics}")
