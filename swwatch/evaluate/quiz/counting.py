"""Counts the answers of a quiz, and shows and writes what comes of it, alone or in one table with other runs."""

from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.provenance import side_by_side
from swwatch.evaluate.quiz import page
from swwatch.evaluate.quiz.answers import read_answers, read_facts, read_judged, read_took_s
from swwatch.evaluate.quiz.settings import QuizSettings
from swwatch.evaluate.run_files import beside, read_lines, write_object


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
    notes, answered = [], [set(read_lines(path)) for path in paths]
    if len({report.get("settings", {}).get("data_sha256") for report in reports}) > 1:
        notes.append("These runs are of different annotation files.")
    common = set.intersection(*answered)
    if any(keys != common for keys in answered):
        notes.append(f"These runs did not answer the same questions: {len(common)} were answered in all of them.")
    return notes


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
    provenance = page.described(facts)
    facts = {name: value for name, value in facts.items() if name != "repeat"}
    return {**facts, **report, "how": provenance["how"], "made": provenance}


def show(path: Path, report: dict) -> None:
    """Write the summary and the table beside the answers, and show the table."""
    metrics, drawn = beside(path, "metrics.json"), path.with_suffix(".md")
    write_object(metrics, report)
    table = page.describe(report)
    write_atomic(drawn, [table])
    print(table)
    print(f"summary in {metrics}, table in {drawn}")
