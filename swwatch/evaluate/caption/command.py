"""Caption a test set with a checkpoint and score the captions. Continues where an earlier run was killed."""

import hashlib
import os
import sys
from pathlib import Path

import torch
import transformers

from swwatch.data.annotations import read_jsonl, resolve_video
from swwatch.data.prompt import Prompts, load_prompts
from swwatch.data.video import iter_steps
from swwatch.engine.requests import Run
from swwatch.errors import UserError
from swwatch.evaluate.caption.clips_at_once import clips_at_once
from swwatch.evaluate.caption.runner import Clip, Unreadable, run
from swwatch.evaluate.caption.scoring import describe, score
from swwatch.evaluate.caption.settings import EvalSettings, read_settings
from swwatch.evaluate.predictions import read_object, read_predictions
from swwatch.evaluate.results import Part, beside, read_lines, write_object
from swwatch.evaluate.sharing import shared
from swwatch.launch.place import place_of
from swwatch.launch.ranks import Alone, join
from swwatch.launch.signals import stops_at_once
from swwatch.metrics.captions import Metric
from swwatch.model.loading import Loaded, load
from swwatch.narrate.words import narration
from swwatch.policies.speak import parse_schedule


def main(argv: list[str]) -> int:
    settings, restart, score_only = read_settings(argv)
    if score_only:
        return score_predictions(settings) if place_of(os.environ).rank == 0 else 0
    with stops_at_once(), join(os.environ) as ranks:
        return evaluate(settings, ranks, restart=restart)


def several(argv: list[str]) -> bool:
    """For `launch.torchrun`: tell what is wrong with the flags, and whether more than one process is of use."""
    _, _, score_only = read_settings(argv)
    return not score_only


def evaluate(settings: EvalSettings, ranks: Alone, *, restart: bool = False) -> int:
    """Narrate the test set, alone or with other ranks, and score it at rank 0."""
    records = read_jsonl(settings.data_path)[: settings.max_count]
    learned = [] if ranks.rank else learned_metrics(settings)  # first: what it lacks is told before hours of work
    if ranks.rank:
        transformers.utils.logging.disable_progress_bar()
    loaded = load(
        settings.model,
        variant=settings.variant,
        pixel_budget=settings.pixel_budget,
        see=settings.see,
        device=device_of(settings.device, ranks),
        dtype=settings.dtype,
        attention=settings.attention,
    )
    prompts, variant = load_prompts(), loaded.settings.variant
    limits = {"max_frames": settings.max_frames, "max_new_tokens": settings.max_new_tokens}
    at_once = clips_at_once(settings.clips_at_once, loaded, **limits)

    def locate(record_path: str | None) -> Path:
        try:
            return resolve_video(record_path, settings.data_path, settings.img_root)
        except UserError as error:
            raise Unreadable(str(error)) from error

    def narrator(clip: Clip) -> Run:
        return narrate_clip(clip, loaded, settings, prompts)

    def work(results: Part) -> None:
        run(
            records,
            results,
            locate=locate,
            narrator=narrator,
            question=prompts.eval_question,
            task=settings.label,
            max_bad_fraction=settings.max_bad_fraction,
            model=loaded.model,
            clips_at_once=at_once,
            ranks=ranks,
        )

    path, keys = settings.predictions_path(variant), [str(record["video_id"]) for record in records]
    facts = describe_run(settings, loaded, prompts)
    facts["about"] |= {"clips_at_once": at_once, "num_processes": ranks.size}
    with shared(path, facts, keys, work, ranks, restart=restart, label=variant) as results:
        if results is None:
            return 0
        rows, schedule = [row for _, row in read_lines(path).values()], facts["settings"]["schedule"]
        spoken = {
            "traces": read_traces(path),
            "schedule": schedule,
            "clips_at_once": results.facts["about"]["clips_at_once"],
        }
        report = score(rows, records, **spoken, learned=learned)
        write_object(results.metrics, {**results.facts, "num_skipped": results.num_skipped, **report})
    print(describe(report, variant, results.num_skipped))
    print(f"metrics in {results.metrics}")
    return 0


def narrate_clip(clip: Clip, loaded: Loaded, settings: EvalSettings, prompts: Prompts) -> Run:
    """Watch one clip and speak.

    Raises:
        Unreadable: its video cannot be decoded, is too long, or has a shape that the pixel budget cannot take.
    """
    try:
        yield from narration(
            loaded,
            iter_steps(clip.video, max_frames=settings.max_frames),
            question=clip.question,
            system=prompts.system,
            schedule=settings.schedule,
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            clip_key=clip.key,
        )
    except UserError as error:  # not VideoError alone: a picture may be too narrow for the pixel budget
        raise Unreadable(str(error)) from error


def score_predictions(settings: EvalSettings) -> int:
    """Score a predictions file without a model: one of ours, or the public release's, which has the same form."""
    path, learned = settings.predictions_path(settings.variant), learned_metrics(settings)
    told = read_predictions(path)
    for line in told.describe():
        print(f"{path}: {line}", file=sys.stderr)
    run_facts = read_object(beside(path, "run.json"))
    records = read_jsonl(settings.data_path) if settings.data_path.is_file() else []  # for the toy world's events
    num_skipped = len(read_lines(beside(path, "skipped.jsonl")))
    traces = read_traces(path) if beside(path, "trace.jsonl").exists() else None  # the public release writes none
    spoken = {"traces": traces, "schedule": run_facts.get("settings", {}).get("schedule")}
    spoken["clips_at_once"] = run_facts.get("about", {}).get("clips_at_once", 1)
    report = score(list(told.rows.values()), records, **spoken, learned=learned)
    if told.problems:
        report["problems"] = told.problems
    variant = run_facts.get("settings", {}).get("variant", settings.variant)
    write_object(beside(path, "metrics.json"), {**run_facts, "num_skipped": num_skipped, **report})
    print(describe(report, variant, num_skipped))
    print(f"metrics in {beside(path, 'metrics.json')}")
    return 0


def read_traces(predictions: Path) -> dict[str, list[dict]]:
    """Clip -> its tokens, of every clip whose line in the trace is whole."""
    return {key: row["tokens"] for key, (_, row) in read_lines(beside(predictions, "trace.jsonl")).items()}


def learned_metrics(settings: EvalSettings) -> list[Metric]:
    """BLEURT and BERTScore where they were asked for; the import of transformers' models waits until then."""
    if settings.bleurt is None and settings.bertscore is None:
        return []
    from swwatch.metrics.learned import load_learned

    return load_learned(
        bleurt=settings.bleurt,
        bertscore=settings.bertscore,
        layer=settings.bertscore_layer,
        idf=settings.bertscore_idf,
        baseline=settings.bertscore_baseline,
        device=settings.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )


def describe_run(settings: EvalSettings, loaded: Loaded, prompts: Prompts) -> dict:
    """What the results depend on (`settings`: results are only continued under equal ones) and, for the reader, where
    things lay (`about`). --max-count is in neither: a run may be extended."""
    data, see = settings.data_path, loaded.settings.see
    return {
        "settings": {
            "variant": loaded.settings.variant,
            "schedule": str(parse_schedule(settings.schedule or loaded.settings.schedule)),
            "pixel_budget": loaded.settings.pixel_budget,
            **identity(settings.model, loaded),
            "data_sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
            "task": settings.label,
            "system": prompts.system,
            "question": prompts.eval_question,
            "max_frames": settings.max_frames,
            "max_new_tokens": settings.max_new_tokens,
            "repetition_penalty": settings.repetition_penalty,
        }
        | ({"see": str(see)} if see.drops else {}),  # a run of before knows nothing of it
        "about": {
            "model": settings.model,
            "data": str(data),
            "img_root": None if settings.img_root is None else str(settings.img_root),
            **circumstances(loaded),
        },
    }
