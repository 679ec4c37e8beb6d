"""Rows of the training benchmark, each in a process of its own, asked for one step after the other."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from transformers.utils import is_flash_attn_2_available

from swwatch.bench.record import Record
from swwatch.bench.train.figures import finish, unequal_losses
from swwatch.bench.train.page import report, row_name
from swwatch.bench.train.processes import RowProcess
from swwatch.bench.train.settings import ROWS, SWEPT, TrainBenchSettings, TrainRow, why_not
from swwatch.data.annotations import encode_line, write_atomic
from swwatch.rules import variants


def measure(settings: TrainBenchSettings, command: str) -> dict:
    """Measure the rows, then the sweep over lengths; the result is written after each of both.

    Args:
        settings: settled.
    """
    record = Record("train", settings, command, report)
    result = record.result
    result |= {"rows": [], "sweep": [], "warnings": []}
    table = [(ROWS[name], None) for name in settings.rows or ROWS]
    sweep = [(ROWS[name], length) for length in settings.sweep_length for name in settings.rows or SWEPT]
    with tempfile.TemporaryDirectory(prefix="swwatch-bench-") as folder:
        ready = with_toy_data(settings, Path(folder))
        for part, rows in (("rows", table), ("sweep", sweep)):
            result[part] = finish(measure_rows(ready, rows, record.say), settings, result["begin"])
            result["warnings"] = unequal_losses(result["rows"], settings.precision)
            record.save([(row_name(row), row.get("spread")) for row in result["rows"] + result["sweep"]])
    return result


def with_toy_data(settings: TrainBenchSettings, folder: Path) -> TrainBenchSettings:
    """Make the toy model and clips where they are asked for; other settings stay as they are."""
    if settings.shape != "toy" or settings.model is not None:
        return settings
    from swwatch.toy.checkpoint import make_checkpoint
    from swwatch.toy.clips import Recipe, clips_of, write_dataset

    model, data = make_checkpoint(folder / "model", seed=settings.seed), folder / "data"
    write_dataset(data, Recipe(clips=settings.samples, test_clips=0, seed=settings.seed))
    records = [record | {"video_path": video} for record, video in clips_of(data, "train")]
    write_atomic(data / "train.jsonl", map(encode_line, records))
    return replace(settings, model=str(model), data=data / "train.jsonl")


def measure_rows(
    settings: TrainBenchSettings, rows: Sequence[tuple[TrainRow, int | None]], say: Callable[[str], None]
) -> list[dict]:
    """Measure rows, each with its length of a sweep or None.

    Returns:
        For each: `row`, `attention`, `rows`, `length`, and what its process told, with the `times` of its steps; or
        `not_measured`, the reason.
    """
    here = {"causal": variants.get(settings.variant).streams == 1, "flash_available": is_flash_attn_2_available()}
    results, possible = [], []
    for row, length in rows:
        result = {"row": row.name, "attention": row.attention, "rows": row.rows, "length": length}
        if reason := why_not(row, settings, **here):
            result["not_measured"] = reason
        else:
            possible.append((result, row))
        results.append(result)
    at_once = 1 if settings.device == "cuda" else len(ROWS)  # two models may not fit into a GPU's memory
    for at in range(0, len(possible), at_once):
        take_turns(settings, possible[at : at + at_once], say)
    return results


def take_turns(
    settings: TrainBenchSettings, rows: Sequence[tuple[dict, TrainRow]], say: Callable[[str], None]
) -> None:
    """Measure some rows side by side: one step of each, again and again. Their results are written into the dicts."""
    running = []
    try:
        for result, row in rows:
            say(f"{row_name(result)}: starting")
            process = RowProcess(settings, row, result["length"])
            running.append((result, process))
            result |= process.ask(None) | {"times": []}
        for turn in range(settings.warmup + settings.repeats):
            for result, process in running:
                if times := process.ask("step"):
                    result["times"].append(times)
                    timed = f"{turn - settings.warmup + 1}/{settings.repeats}"
                    what = "warm-up" if turn < settings.warmup else timed
                    say(f"{row_name(result)}: {what} {times['seconds']:.3f} s")
        for result, process in running:
            result["memory"] = process.ask("end")
    finally:
        for result, process in running:
            process.close()
            if process.problem:
                result["not_measured"] = process.problem
