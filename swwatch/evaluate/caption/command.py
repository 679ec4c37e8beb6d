"""Caption a test set with a checkpoint and score the captions. Continues where an earlier run was killed.

Precedence: flags, then environment variables, then configs/eval.yaml, then the defaults.
"""

import os
import sys

from swwatch.config import read_settings
from swwatch.data.annotations import no_file, read_jsonl
from swwatch.evaluate.caption.settings import CONFIG, EvalSettings
from swwatch.evaluate.predictions import read_object, read_predictions
from swwatch.evaluate.results import beside, read_lines, read_traces, write_object
from swwatch.launch.place import place_of
from swwatch.launch.ranks import join
from swwatch.launch.signals import stops_at_once


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
    yaml_path = CONFIG if CONFIG.exists() else None
    settings = read_settings(EvalSettings, argv, program="swwatch eval", about=__doc__, yaml_path=yaml_path)
    if not settings.score_only:
        if not settings.data_path.is_file():
            raise no_file(settings.data_path)
        settings.check_model(settings.model)
    return settings


def score_predictions(settings: EvalSettings) -> None:
    """Score a predictions file without a model: one of ours, or the public release's, which has the same form."""
    path = settings.predictions_path(settings.variant)

    from swwatch.evaluate.caption.scoring import describe, learned_metrics, score

    learned, told = learned_metrics(settings), read_predictions(path)
    for line in told.describe():
        print(f"{path}: {line}", file=sys.stderr)
    facts = read_object(beside(path, "run.json"))
    made = facts.get("settings", {})
    report = score(
        list(told.rows.values()),
        read_jsonl(settings.data_path) if settings.data_path.is_file() else [],  # for the toy world's events
        traces=read_traces(path) if beside(path, "trace.jsonl").exists() else None,  # the public release writes none
        schedule=made.get("schedule"),
        clips_at_once=facts.get("about", {}).get("clips_at_once", 1),
        learned=learned,
    )
    if told.problems:
        report["problems"] = told.problems
    num_skipped, metrics = len(read_lines(beside(path, "skipped.jsonl"))), beside(path, "metrics.json")
    write_object(metrics, {**facts, "num_skipped": num_skipped, **report})
    print(describe(report, made.get("variant", settings.variant), num_skipped))
    print(f"metrics in {metrics}")
