"""Ask a model the questions of a video benchmark and count right answers: by option logits, or by what it replies.

Continues where an earlier run was killed; under torchrun or Slurm several processes share the questions.
"""

import os

from swwatch.config import read_settings
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.evaluate.results import shared
from swwatch.evaluate.run_files import beside
from swwatch.evaluate.tasks import own_files
from swwatch.launch.place import place_of
from swwatch.launch.ranks import SingleProcess, join
from swwatch.launch.signals import stops_at_once


def main(argv: list[str]) -> int:
    settings = read_settings(QuizSettings, argv, program="swwatch quiz", about=__doc__)
    if settings.report:
        if place_of(os.environ).rank == 0:
            from swwatch.evaluate.quiz.counting import redraw  # numpy is behind it

            redraw(settings)
        return 0
    with stops_at_once(), join(os.environ) as ranks:
        return quiz(settings, ranks)


def quiz(settings: QuizSettings, ranks: SingleProcess) -> int:
    """Ask the questions, alone or with other ranks, and count at rank 0."""
    items = settings.questions()
    folder = settings.videos_dir
    settings.check_model(settings.model)
    if settings.streaming:
        settings.check_turns(settings.model, settings.variant)

    from swwatch.evaluate.quiz.counting import count, show
    from swwatch.evaluate.quiz.measure import answer_all, describe_run, open_asker  # torch is behind it
    from swwatch.model.repeat import repeat_of

    asker = open_asker(settings, ranks)
    facts = describe_run(settings, asker)
    facts["about"] |= {"num_processes": ranks.size, "num_items": len(items)}
    path, keys = settings.predictions, [item.key for item in items]
    if not ranks.rank:
        own = own_files(settings.task, settings.wording)
        facts["repeat"] = repeat_of(
            ["quiz"],
            settings,
            beside(path, "run.json"),
            results=[path.name, beside(path, "metrics.json").name],
            inputs={"data": settings.data, "videos": folder, "subtitles": settings.subtitles, **own},
            models={settings.model: facts["settings"]["model_fingerprint"]},
            read={settings.data: facts["settings"]["data_sha256"]},
        )
    label = f"{settings.benchmark.name}{', streaming' * settings.streaming}"

    def work(results) -> None:
        where = {"asker": asker, "locate": lambda item: item.locate(folder)}
        answer_all(items, results, **where, ranks=ranks, max_bad_fraction=settings.max_bad_fraction)

    with shared(path, facts, keys, work, ranks, restart=settings.restart, label=label, noun="questions") as results:
        if results is not None:
            show(path, count(settings, path, len(items), results.num_skipped, results.facts))
    return 0
