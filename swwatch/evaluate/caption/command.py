"""Caption a test set with a checkpoint and score the captions. Continues where an earlier run was killed.

Precedence: flags, then environment variables, then configs/eval.yaml, then the defaults.
"""

import os

from swwatch.config import read_settings
from swwatch.data.annotations import no_file, read_jsonl
from swwatch.evaluate.caption.settings import CONFIG, EvalSettings
from swwatch.evaluate.run_files import read_run
from swwatch.launch.place import place_of
from swwatch.launch.ranks import join
from swwatch.launch.signals import stops_at_once
from swwatch.paths import only_one_writes


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

    from swwatch.evaluate.caption.scoring import learned_metrics, score_run

    learned, run = learned_metrics(settings), read_run(path).tell()
    with only_one_writes(run.beside("metrics.json")):
        records = read_jsonl(settings.data_path) if settings.data_path.is_file() else []  # for the toy world's events
        score_run(run, records, learned, settings.variant)
