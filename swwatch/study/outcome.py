"""What a study found: the shares of every variant, seed and schedule, clip by clip."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.annotations import read_jsonl
from swwatch.errors import UserError
from swwatch.evaluate.run_files import read_run
from swwatch.metrics.significance import Statistic, compare, ratio_of
from swwatch.study.plan import Plan
from swwatch.toy.scores import clip_counts, toy_events


@dataclass(frozen=True)
class Cell:
    """One variant, seed and schedule.

    Attributes:
        counts: share -> (N, 2) numerator and denominator of each test clip (see swwatch.toy.scores.MEANING).
        said: video id -> narration.
        metrics: the evaluation's metrics file.
    """

    counts: dict[str, np.ndarray]
    said: dict[str, str]
    metrics: dict

    def statistic(self, share: str) -> Statistic:
        counts = self.counts.get(share)  # no clip has any, such as recoloured events in another level
        return ratio_of([0], [0]) if counts is None else ratio_of(*counts.T)

    def share(self, name: str) -> float:
        """The share over all clips; nan where there is nothing to have a share of."""
        return self.statistic(name).value


@dataclass(frozen=True)
class Outcome:
    """All cells of a plan, with how they were made.

    Attributes:
        cells: (variant, seed, schedule's name) -> Cell.
        records: the test annotations, in the order of the file.
        jobs: job -> its note (argv, seconds, where it ran).
    """

    plan: Plan
    folder: Path
    cells: dict[tuple[str, int, str], Cell]
    records: list[dict]
    jobs: dict[str, dict]

    def over_seeds(self, variant: str, schedule: str, share: str) -> np.ndarray:
        """(S,) one share for each seed that was tested so."""
        cells = [self.cells.get((variant, seed, schedule)) for seed in self.plan.seeds]
        return np.array([cell.share(share) for cell in cells if cell is not None])

    def metric(self, variant: str, schedule: str, *path: str) -> np.ndarray:
        """(S,) a number of the metrics file for each seed, such as "scores", "corpus", "CIDEr"."""
        found = []
        for seed in self.plan.seeds:
            value = self.cells[variant, seed, schedule].metrics
            for key in path:
                value = value[key]
            found.append(np.nan if value is None or isinstance(value, dict) else value)
        return np.array(found)

    def differences(self, a: tuple[str, str], b: tuple[str, str], share: str) -> list[dict]:
        """For each seed the share of (variant, schedule) b minus that of a, on the same clips."""
        pairs = [(self.cells[a[0], seed, a[1]], self.cells[b[0], seed, b[1]]) for seed in self.plan.seeds]
        return [compare(one.statistic(share), other.statistic(share)) for one, other in pairs]


def read_outcome(plan: Plan, folder: Path) -> Outcome:
    """Read what the jobs of a plan left.

    Raises:
        UserError: something is missing.
    """
    path = folder / "data" / "test_3_5.jsonl"
    if not path.exists():
        raise UserError(f"there is no study in {folder}: run it first")
    records = read_jsonl(path)[: plan.test_clips]
    cells = {cell: _cell(folder / "eval", _name(*cell), records) for cell in plan.cells()}
    names = ["clips", "annotations", *(f"model-{seed}" for seed in plan.seeds)]
    names += [f"{v}-{seed}" for v in plan.variants for seed in plan.seeds] + [f"eval-{_name(*cell)}" for cell in cells]
    paths = {name: folder / "jobs" / f"{name}.json" for name in names}  # others are of a larger plan
    notes = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    return Outcome(plan, folder, cells, records, notes)


def _name(variant: str, seed: int, schedule: str) -> str:
    return f"{variant}-{seed}-{schedule}"


def _cell(folder: Path, name: str, records: list[dict]) -> Cell:
    run = read_run(folder / f"{name}_infer.json")
    if not run.metrics:
        raise UserError(f"{run.beside('metrics.json')} is missing: run the study again, it makes what is not there")
    said = {key: row["result"] for key, row in run.rows.items()}
    if lacking := [record["video_id"] for record in records if str(record["video_id"]) not in said]:
        raise UserError(f"{run.path} lacks {len(lacking)} clips, such as {lacking[0]}")
    clips = [clip_counts(said[str(record["video_id"])], toy_events(record)) for record in records]
    names = dict.fromkeys(name for clip in clips for name in clip)
    counts = {name: np.array([clip.get(name, (0, 0)) for clip in clips], dtype=float) for name in names}
    return Cell(counts, said, run.metrics)
