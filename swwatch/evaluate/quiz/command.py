"""Ask a model the questions of a video benchmark and count right answers: by option logits, or by what it replies.

Continues where an earlier run was killed; under torchrun or Slurm several processes share the questions.
"""

import os
from pathlib import Path

from swwatch.config import read_settings
from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.made import side_by_side
from swwatch.evaluate.quiz import page
from swwatch.evaluate.quiz.answers import read_answers, read_facts, read_judged, read_took_s
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.evaluate.results import shared
from swwatch.evaluate.run_files import beside, read_lines, write_object
from swwatch.evaluate.tasks import own_files
from swwatch.launch.place import place_of
from swwatch.launch.ranks import SingleProcess, join
from swwatch.launch.signals import stops_at_once


def main(argv: list[str]) -> int:
    settings = read_settings(QuizSettings, argv, program="swwatch quiz", about=__doc__)
    if settings.report:
        if place_of(os.environ).rank == 0:
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


def redraw(settings: QuizSettings) -> None:
    """Count the answers of a file that is there, complete or not, and show it in one table with others."""
    path, others = settings.predictions, settings.beside or []
    reports = [counted(settings, file) for file in (path, *others)]
    show(path, reports[0])
    if others:
        table = "\n\n".join([side_by_side(reports), *differences([path, *others], reports)]) + "\n"
        write_atomic(beside(path, "beside.md"), [table])
        print(f"{table}in {beside(path, 'beside.md')}")


def differences(paths: list[Path], reports: list[dict]) -> list[str]:
    """Sentences about what makes averages of these runs no answers to the same."""
    told, asked = [], [set(read_lines(path)) for path in paths]
    if len({report.get("settings", {}).get("data_sha256") for report in reports}) > 1:
        told.append("These runs are of different annotation files.")
    common = set.intersection(*asked)
    if any(keys != common for keys in asked):
        told.append(f"These runs did not answer the same questions: {len(common)} were answered in all of them.")
    return told


def counted(settings: QuizSettings, path: Path) -> dict:
    """The summary of an answer file, with what its run says of itself."""
    if not path.is_file():
        named = path == settings.predictions
        remedy = "leave --report out, or name them by --output-dir, --output-file"
        raise UserError(
            f"there are no answers {path}: "
            + (remedy if named else f"--beside wants a .jsonl file that `swwatch quiz {settings.task}` wrote")
        )
    name, facts = settings.benchmark.name, read_facts(path)
    if facts.get("settings", {}).get("task", name) != name:
        raise UserError(f"{path} holds answers of {facts['settings']['task']}, not of {name}")
    num_skipped, num_done = len(read_lines(beside(path, "skipped.jsonl"))), len(read_lines(path))
    if not num_done:
        raise UserError(f"{path} holds no answer yet: give the command that began it again")
    num_items = facts.get("about", {}).get("num_items", num_done + num_skipped)
    return count(settings, path, num_items, num_skipped, facts)


def count(settings: QuizSettings, path: Path, num_items: int, num_skipped: int, facts: dict) -> dict:
    task = settings.benchmark
    rows = read_answers(path, task)
    report = page.summarize(rows, task, num_items, num_skipped, read_took_s(path), read_judged(path))
    made = page.described(facts)
    facts = {name: value for name, value in facts.items() if name != "repeat"}
    return {**facts, **report, "how": made["how"], "made": made}


def show(path: Path, report: dict) -> None:
    """Write the summary and the table beside the answers, and show the table."""
    metrics, drawn = beside(path, "metrics.json"), path.with_suffix(".md")
    write_object(metrics, report)
    table = page.describe(report)
    write_atomic(drawn, [table])
    print(table)
    print(f"summary in {metrics}, table in {drawn}")
