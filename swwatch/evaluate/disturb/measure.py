"""The disturbance table: what each model's scores become under each schedule, and how sure the change is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from swwatch.errors import UserError
from swwatch.evaluate.disturb.settings import ModelRuns
from swwatch.evaluate.run_files import read_run
from swwatch.metrics.captions import bleu_counts
from swwatch.metrics.paper import paper_disturbed
from swwatch.metrics.significance import Statistic, bleu_of, compare, ratio_of
from swwatch.metrics.timing import summarize
from swwatch.metrics.tokenize import java_problem, tokenize_java, tokenize_python
from swwatch.toy.scores import clip_counts, toy_events

LEARNED = ("BLEURT",)  # shown where every run has it ...
CLASSIC = ("CIDEr", "BLEU-4", "ROUGE-L")  # ... else these
TOY = ("told", "true", "direction", "parses")  # in the toy world
TIMING = ("time_to_first_token_s", "staleness_s", "gap_s", "laal_s", "real_time_factor")
PER_TOKEN = ("staleness_s",)  # a mean over tokens, not over clips
PAPER = "the paper's: Qwen2.5-VL-3B on PE-Video, trained with wait-k:3, no yardstick for other data"


def build_table(
    rows: list[ModelRuns], schedules: list[str], records: Mapping[str, Mapping], metrics: list[str] | None = None
) -> dict:
    """The table as JSON values.

    Args:
        schedules: the columns after each model's own schedule.
        records: clip -> annotation, for the events of the toy world.
        metrics: names instead of the usual ones.
    Returns:
        schedules, metrics, scale (metric -> factor of the shown values), rows (each with name, variant, model,
        trained, offline, runs and cells: metric -> schedule -> {value} and, for another schedule than the trained
        one, also {a, b, difference, ci95, p_value} of `significance.compare`), num_clips, and the paper's own rows.
    Raises:
        UserError: a metric that some run does not have.
    """
    found = [{schedule: read_measures(path, records) for schedule, path in row.runs.items()} for row in rows]
    every = [run for runs in found for run in runs.values()]
    keys = [key for key in every[0].captions if all(key in run.captions for run in every)]
    have = set.intersection(*(set(run.parts) for run in every))
    if not keys:
        raise UserError("the runs have no clip in common")
    usual = (*(LEARNED if set(LEARNED) <= have else CLASSIC), *TOY, "staleness_s")
    chosen = metrics or [name for name in usual if name in have]
    if missing := [name for name in chosen if name not in have]:
        raise UserError(f"not every run has {', '.join(missing)}: choose from {', '.join(sorted(have))}")
    shown = dict.fromkeys(row.variant for row in rows)
    lines = []
    for row, runs in zip(rows, found, strict=True):
        values = {schedule: run.statistics(chosen, keys) for schedule, run in runs.items()}
        cells = {name: _cells(row.trained, {s: v[name] for s, v in values.items()}) for name in chosen}
        facts = {k: v for k, v in asdict(row).items() if k != "runs"}
        lines.append({**facts, "runs": {s: str(path) for s, path in row.runs.items()}, "cells": cells})
    return {
        "schedules": schedules,
        "num_clips": len(keys),
        "metrics": chosen,
        "scale": {name: 1 if name in TIMING else 100 for name in chosen},
        "rows": lines,
        "paper": {"metric": "BLEURT", "what": PAPER, "rows": {v: x for v in shown if (x := paper_disturbed(v))}},
    }


def _cells(trained: str, values: Mapping[str, Statistic]) -> dict[str, dict]:
    cells = {}
    for schedule, statistic in values.items():
        cell = {"value": statistic.value}
        if schedule != trained:
            cell |= compare(values[trained], statistic)
            if not math.isfinite(cell["difference"]):  # a share of nothing: there is no change to be sure of
                cell["p_value"] = math.nan
        cells[schedule] = {key: _json(value) for key, value in cell.items()}
    return cells


def _json(value):
    """None for what is not a number, such as a share of nothing."""
    if isinstance(value, list):
        return [_json(part) for part in value]
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Measures:
    """One run in a form that can be resampled.

    Attributes:
        captions: clip -> (caption, reference), of the clips that were scored.
        parts: metric -> clip -> (part, whole): the metric is the sum of parts over the sum of wholes. A clip without
            an entry has no such thing, such as an event.
    """

    captions: Mapping[str, tuple[str, str]]
    parts: Mapping[str, Mapping[str, tuple[float, float]]]

    def statistics(self, names: Sequence[str], keys: Sequence[str]) -> dict[str, Statistic]:
        """Metric -> its sums over the clips `keys`."""
        bleu = {name for name in names if name.startswith("BLEU-")}  # corpus BLEU is no mean of clip values
        counts = self._bleu_counts(keys) if bleu else None
        return {
            name: bleu_of(counts, int(name.removeprefix("BLEU-")))
            if name in bleu
            else ratio_of(*zip(*(self.parts[name].get(key, (0, 0)) for key in keys), strict=True))
            for name in names
        }

    def _bleu_counts(self, keys: Sequence[str]):
        tokenize = tokenize_python if java_problem() else tokenize_java
        texts = tokenize([text for key in keys for text in self.captions[key]])
        said, references = ({key: [text] for key, text in zip(keys, texts[i::2], strict=True)} for i in (0, 1))
        return bleu_counts(references, said)


def read_measures(predictions: Path, records: Mapping[str, Mapping]) -> Measures:
    """The result files of one evaluation: captions' scores, toy events, and timing from the trace."""
    run = read_run(predictions)
    scores = run.metrics["scores"]["per_clip"]
    rows = {key: row for key, row in run.rows.items() if key in scores}
    traces = {key: tokens for key, tokens in run.tokens.items() if key in rows}
    parts: dict[str, dict[str, tuple[float, float]]] = {}
    # 1) captions; the jar's METEOR is no mean of clip values, so the mean has its own name
    for key, values in scores.items():
        for name, value in values.items():
            parts.setdefault("METEOR-mean" if name == "METEOR" else name, {})[key] = (value, 1)
    parts = {name: clips for name, clips in parts.items() if clips.keys() == rows.keys()}
    # 2) the toy world
    for key, row in rows.items():
        if events := toy_events(records.get(key, {})):
            for name, pair in clip_counts(row["result"], events).items():
                parts.setdefault(name, {})[key] = pair
    # 3) timing
    for key, values in summarize(traces, records)["per_clip"].items():
        for name in TIMING:
            if values[name] is not None:
                weight = values["num_tokens"] if name in PER_TOKEN else 1
                parts.setdefault(name, {})[key] = (values[name] * weight, weight)
    references = {key: row.get("annotation") or records[key]["human_caption"] for key, row in rows.items()}
    return Measures({key: (row["result"], references[key]) for key, row in rows.items()}, parts)
