"""Evaluate checkpoints under their own schedule and under disturbed ones, and tabulate what the disturbance costs.

One process runs everything, one model at a time. Give the same command again after a kill: finished clips are kept.
Precedence: flags, then environment variables, then configs/eval.yaml, then the defaults.
"""

import gc
import itertools
import json
from dataclasses import replace

from swwatch.config import read_settings
from swwatch.data.annotations import read_jsonl, write_atomic
from swwatch.evaluate.caption.settings import CONFIG
from swwatch.evaluate.disturb.settings import DisturbSettings, ModelRuns, find_checkpoints
from swwatch.launch.ranks import SingleProcess
from swwatch.paths import only_one_writes
from swwatch.policies.speak import check_schedule, parse_schedule
from swwatch.rules.variants import is_chat


def main(argv: list[str]) -> int:
    settings = read_settings(DisturbSettings, argv, program="swwatch disturb", about=__doc__, yaml_path=CONFIG)
    schedules = list(dict.fromkeys(str(parse_schedule(text)) for text in settings.schedules))
    models = find_checkpoints(settings.models)
    for model, schedule in itertools.product(models, schedules):
        if not model.offline:
            check_schedule(schedule, model.variant)
    records = read_jsonl(settings.data_path)[: settings.max_count]
    with only_one_writes(settings.output_dir / "disturbance.json"):
        rows = run_all(models, schedules, settings, records)
        tabulate(rows, schedules, records, settings)

        from swwatch.model.repeat import repeat_of, write_note

        names = sorted(path.name for row in rows for path in row.runs.values())
        note, inputs = settings.output_dir / "disturbance_run.json", {"data": settings.data_path}
        models = dict.fromkeys(settings.models)
        results = ["disturbance.json", *names]
        write_note(note, repeat_of(["disturb"], settings, note, results=results, inputs=inputs, models=models))
    return 0


def tabulate(rows: list[ModelRuns], schedules: list[str], records: list[dict], settings: DisturbSettings) -> None:
    """Write the table of all runs in three forms, and show it."""
    from swwatch.evaluate.disturb.measure import build_table
    from swwatch.evaluate.disturb.page import disturbance_markdown, disturbance_text

    table = build_table(rows, schedules, {str(record["video_id"]): record for record in records}, settings.metrics)
    text, folder = disturbance_text(table), settings.output_dir
    files = {"json": json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False), "txt": text}
    for ending, content in {**files, "md": disturbance_markdown(table)}.items():
        write_atomic(folder / f"disturbance.{ending}", [content + "\n"])
    print(f"\n{text}\ntable in {folder / 'disturbance.json'}, .md and .txt")


def run_all(
    models: list[ModelRuns], schedules: list[str], settings: DisturbSettings, records: list[dict]
) -> list[ModelRuns]:
    """Evaluate every model under its own schedule and, unless it is offline, under each of `schedules`.

    Returns:
        models with their runs.
    """
    import torch

    from swwatch.evaluate.caption import measure

    done = []
    for number, model in enumerate(models, start=1):
        wanted = [model.trained] if model.offline else dict.fromkeys([model.trained, *schedules])
        runs = {schedule: model.predictions(settings.output_dir, schedule) for schedule in wanted}
        for schedule, path in runs.items():
            print(f"[model {number} of {len(models)}] {model.name} under {schedule}", flush=True)
            run = {"variant": None, "model_path": model.model, "output_file": path.name}
            run["schedule"] = None if is_chat(model.variant) else schedule
            measure.evaluate(replace(settings, **run), records, SingleProcess())
            gc.collect()  # a model sits in reference cycles: without this the next one is loaded beside it
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        done.append(replace(model, runs=runs))
    return done
