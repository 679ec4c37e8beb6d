"""From predictions to numbers: the metrics file and what is printed at the end."""

from collections.abc import Iterable, Mapping, Sequence

from swwatch.errors import UserError
from swwatch.evaluate.caption.by_task import by_task, describe_tasks
from swwatch.evaluate.caption.settings import EvalSettings
from swwatch.evaluate.run_files import RunFiles, some, write_object
from swwatch.metrics.captions import Metric, caption_scores
from swwatch.metrics.paper import format_table, our_interval, our_row, paper_rows
from swwatch.metrics.significance import interval
from swwatch.metrics.timing import planned_arrivals, summarize
from swwatch.rules.schedule import FPS, seconds_of_step
from swwatch.toy.mentions import mentions
from swwatch.toy.scores import toy_events, toy_scores, toy_statistics


def learned_metrics(settings: EvalSettings) -> list[Metric]:
    """BLEURT and BERTScore where they were asked for; the import of transformers' models waits until then."""
    if settings.bleurt is None and settings.bertscore is None:
        return []
    import torch

    from swwatch.metrics.learned import load_learned

    return load_learned(
        bleurt=settings.bleurt,
        bertscore=settings.bertscore,
        layer=settings.bertscore_layer,
        idf=settings.bertscore_idf,
        baseline=settings.bertscore_baseline,
        device=settings.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )


def score_run(run: RunFiles, records: Iterable[dict], learned: Sequence[Metric], variant: str | None = None) -> None:
    """Score the predictions of a run, write the metrics beside them and print them.

    Args:
        variant: of the run, where its files do not name it.
    """
    settings, metrics = run.facts.get("settings", {}), run.beside("metrics.json")
    report = score(
        list(run.rows.values()),
        records,
        traces=run.tokens if run.beside("trace.jsonl").exists() else None,  # the public release writes none
        schedule=settings.get("schedule"),
        fps=settings.get("fps", FPS),
        clips_at_once=run.facts.get("about", {}).get("clips_at_once", 1),
        learned=learned,
    )
    if run.problems:
        report["problems"] = run.problems
    write_object(metrics, {**run.facts, "num_skipped": len(run.skipped), **report})
    print(describe(report, settings.get("variant", variant), len(run.skipped)))
    print(f"metrics in {metrics}")


def score(
    predictions: list[dict],
    records: Iterable[dict] = (),
    *,
    traces: Mapping[str, Sequence[dict]] | None = None,
    schedule: str | None = None,
    fps: float = FPS,
    clips_at_once: int = 1,
    learned: Sequence[Metric] = (),
) -> dict:
    """All scores of a set of predictions (objects with video_id, result and mostly annotation).

    A prediction without a reference gets that of its record; where there is none either it is left out of every
    score, counted and listed.

    Args:
        records: the annotations; those of the toy world carry `events`, which are then scored too.
        traces: clip -> its tokens, for the timing.
        schedule, fps: what the run spoke by and the frames a second that it watched; they tell the arrival of steps
            that said nothing.
        clips_at_once: how many clips shared each forward; beyond 1 the timing says so.
        learned: BLEURT, BERTScore; they say in `about` what they computed with.
    Returns:
        num_clips, num_empty (captions without a word), scores (see caption_scores; with `learned`: what those were
        computed with); where there is such a thing without_reference (clips), by_task, timing, toy_events and
        toy_ci95.
    Raises:
        UserError: no prediction has a reference.
    """
    known = {str(record["video_id"]): record for record in records}
    rows = {str(row["video_id"]): _with_reference(row, known) for row in predictions}
    without = [key for key, row in rows.items() if not (row.get("annotation") or "").strip()]
    scored = {key: row for key, row in rows.items() if key not in set(without)}
    if rows and not scored:
        raise UserError(
            f"none of the {len(rows)} predictions has a reference, neither in `annotation` nor in the data"
        )
    said = {key: row["result"] for key, row in scored.items()}
    scores = caption_scores(said, {key: row["annotation"] for key, row in scored.items()}, learned=learned)
    report = {"num_clips": len(said), "num_empty": sum(not text.strip() for text in said.values()), "scores": scores}
    if learned:
        scores["learned"] = {name: about for metric in learned for name, about in metric.about.items()}
    if without:
        report["without_reference"] = without
    if tasks := by_task(list(scored.values()), scores["per_clip"]):
        report["by_task"] = tasks
    events_of = {key: toy_events(known[key]) for key in rows if key in known}
    events_of = {key: events for key, events in events_of.items() if events}
    if traces is not None:
        traced = {key: traces[key] for key in rows if key in traces}
        report["timing"] = _timing(traced, known, events_of, schedule, fps, clips_at_once)
    clips = [(rows[key]["result"], events) for key, events in events_of.items()]
    if clips:
        shares = {name: interval(statistic) for name, statistic in toy_statistics(clips).items()}
        report |= {"toy_events": toy_scores(clips), "toy_ci95": shares}
    return report


def _with_reference(row: dict, known: Mapping[str, dict]) -> dict:
    record = known.get(str(row["video_id"]), {})
    return row if (row.get("annotation") or "").strip() else {**row, "annotation": record.get("human_caption")}


def _timing(
    traces: Mapping,
    known: Mapping[str, dict],
    events_of: Mapping,
    schedule: str | None,
    fps: float,
    clips_at_once: int,
) -> dict:
    """Timing; the events of other data sets have no matcher, so they are kept from it."""
    plain = {
        key: {**record, "events": record.get("events") if key in events_of else None} for key, record in known.items()
    }
    arrivals = None if schedule is None else planned_arrivals(traces, schedule, seconds_of_step(fps))
    shared = f"{clips_at_once} clips shared each forward: these are the times of the shared device, not of one stream"
    note = shared if clips_at_once > 1 else None
    return summarize(traces, plain, mentions if events_of else None, arrivals=arrivals, note=note)


def describe(report: dict, variant: str | None, num_skipped: int) -> str:
    """The report as text: counts, our row beside the paper's, what is unavailable, toy accuracies."""
    scores, name, tasks = report["scores"], variant or "these", report.get("by_task")
    here, corpus = f"{name}, here", scores["corpus"]
    paper = paper_rows(variant) if variant and not tasks else []
    lines = [
        f"{name}: {report['num_clips']} clips scored, {num_skipped} skipped, {report['num_empty']} empty captions "
        f"(tokenizer {scores['tokenizer']}; all values times 100)",
        format_table([our_row(here, corpus), *paper], {here: our_interval(scores.get("ci95", {}))}),
    ]
    if without := report.get("without_reference"):
        lines.insert(1, f"{len(without)} more have no reference and were left out: {some(without)}")
    if paper:
        lines.append(
            "The paper's rows are Qwen2.5-VL 3B and 7B trained and tested on PE-Video: no yardstick for other data."
        )
    lines += describe_tasks(name, tasks, variant) if tasks else []
    lines += _missing(corpus)
    if report["num_clips"] == 1:
        lines.append("CIDEr of a single clip is 0 by definition.")
    if "BERTScore" in corpus:
        lines.append(f"BERTScore {100 * corpus['BERTScore']:.2f} ({scores['learned']['BERTScore']})")
    if "toy_events" in report:
        toy = report["toy_events"]
        values = ", ".join(f"{k} {100 * v:.1f} %" for k, v in toy.items() if not k.startswith("num_"))
        lines.append(f"toy events told right ({toy['num_events']} in {toy['num_clips']} clips): {values}")
    return "\n".join(lines)


def _missing(corpus: dict) -> list[str]:
    """Why columns of the table are empty."""
    lines = [f"{name} is not available: {value['why']}" for name, value in corpus.items() if isinstance(value, dict)]
    missing = ["BLEURT by --bleurt"] * ("BLEURT" not in corpus) + ["Fluency by swwatch judge"]
    return [*lines, f"Not asked for: {', '.join(missing)}."]
