"""What a comparison found, and the page that tells it: shares with intervals, costs, verdicts, how it was made."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.metrics.machine import machine
from swwatch.metrics.significance import Statistic, compare, interval, ratio_of
from swwatch.metrics.tables import as_markdown
from swwatch.paths import make_folder
from swwatch.study.base import describe
from swwatch.study.claims import LEARNED, Evidence
from swwatch.study.policy_plan import PolicyPlan, Row, cell_path
from swwatch.study.thinking import VIEW_S
from swwatch.toy.levels import PAST

# heading -> (numerator, denominator) of a clip
Share = Callable[[dict], tuple[float, float]]


def _events(name: str, of: str) -> Share:
    return lambda clip: (clip["events"][name], clip["events"][of])


def answers(about: Callable[[str, float], bool]) -> Share:
    """Right answers to questions of which `about` (kind, seconds since what they are about was over) holds."""

    def share(clip: dict) -> tuple[float, float]:
        right = [right for kind, right, ago_s, _ in clip["asked"] if about(kind, ago_s)]
        return sum(right), len(right)

    return share


def is_now(kind: str, ago_s: float = 0.0) -> bool:
    return kind.endswith(" now")


def _time_diff(clip: dict) -> tuple[float, float]:
    found = [value for value in clip["events"]["time_diff_s"] if value is not None]
    return sum(found), len(found)


SHARES: dict[str, Share] = {
    "right, %": lambda clip: clip["counts"]["right"],
    "coverage, %": _events("num_told", "num_events"),
    "redundancy, %": _events("num_repeated", "num_events"),
    "unfounded, %": _events("num_unfounded", "num_mentions"),
    "TimDiff, s": _time_diff,
    "dropped, %": lambda clip: (clip["dropped"], clip["arrived"]),
    "about now, %": answers(is_now),
    "about the past, %": answers(lambda kind, _: not is_now(kind)),
    "out of view, %": answers(lambda _, ago_s: ago_s >= VIEW_S),
    **{f"{kind}, %": answers(lambda of, _, kind=kind: of == kind) for kind in PAST},
}
TOLD = ("right, %", "coverage, %", "redundancy, %", "unfounded, %", "TimDiff, s", "dropped, %")
ASKED = ("about now, %", "about the past, %")
COSTS = {  # heading -> (field, factor)
    "tokens said": ("said", 1),
    "recalled": ("recalled", 1),
    "fed a step": ("fed", None),
    "thought a step": ("thought", None),
    "video in view": ("video", 1),
    "thoughts in view": ("thoughts", 1),
    "device, kB": ("cache_bytes", 1e-3),
    "host, kB": ("host_bytes", 1e-3),
    "early, ms": ("early_s", 1e3),
    "late, ms": ("late_s", 1e3),
    "a step, ms": ("mean_s", 1e3),
    "lag, ms": ("lag_s", 1e3),
}


@dataclass(frozen=True)
class Found:
    """All cells of a plan: row -> for each seed its clips, or why there are none."""

    plan: PolicyPlan
    folder: Path
    cells: dict[Row, list[dict]]

    def refused(self, row: Row) -> str | None:
        return next((cell["refused"] for cell in self.cells[row] if "refused" in cell), None)

    def statistic(self, row: Row, share: str, seed: int | None = None) -> Statistic:
        """The share, to be resampled over clips; of one seed (its place), or over the clips of all."""
        cells = self.cells[row] if seed is None else [self.cells[row][seed]]
        return ratio_of(*zip(*(SHARES[share](clip) for cell in cells for clip in cell["clips"]), strict=True))

    def cost(self, row: Row, heading: str) -> float | None:
        """Mean over clips and seeds; None where a session of this form has no such thing."""
        field, factor = COSTS[heading]
        clips = [clip for cell in self.cells[row] for clip in cell["clips"] if field in clip]
        if not clips:
            return None
        return float(np.mean([clip[field] * (factor or 1 / clip["steps"]) for clip in clips]))


def read_found(plan: PolicyPlan, folder: Path) -> Found:
    """Raises UserError: a cell is missing."""
    paths = {row: [cell_path(folder, plan, seed, *row) for seed in plan.seeds] for row in plan.rows()}
    lacking = [path for some in paths.values() for path in some if not path.exists()]
    if lacking:
        raise UserError(
            f"{lacking[0]} is missing, and {len(lacking) - 1} more: run the comparison again without --report-only"
        )
    return Found(plan, folder, {row: [json.loads(path.read_text()) for path in some] for row, some in paths.items()})


def versus(
    found: Found, a: Row, b: Row, share: str, rule: Callable, must: tuple[Row, str] | None = None
) -> tuple[Evidence, ...]:
    """Of a minus b, for each seed; nothing where one of them was refused.

    Args:
        must: a row and its share, of which half must be reached: a seed says nothing where it is not, for a model that
            has not learned a thing cannot tell one policy from another.
    """
    if any(row not in found.cells or found.refused(row) for row in (a, b)):
        return ()
    seeds = range(len(found.plan.seeds))
    differences = [compare(found.statistic(b, share, seed), found.statistic(a, share, seed)) for seed in seeds]
    spans = tuple((one["ci95"][0], one["ci95"][1]) for one in differences)
    blind = tuple(must is not None and found.statistic(*must, seed).value < LEARNED for seed in seeds)
    signs = tuple(0 if unlearned else rule(*span) for unlearned, span in zip(blind, spans, strict=True))
    text = f"{share}: {a[2]} minus {b[2]} ({a[0]})"
    return (Evidence(text, tuple(one["difference"] for one in differences), spans, signs, blind),)


def write_page(found: Found, out: Path, name: str, parts: Sequence[str]) -> Path:
    """Write NAME_study.md, of these parts, the tables and how it was made, and NAME_study.json; returns the page."""
    make_folder(out)
    parts = [*parts, *[_table(found, test) for test in found.plan.tests], _base(found), _where(name)]
    page = out / f"{name}_study.md"
    write_atomic(page, ["\n\n".join(filter(None, parts)) + "\n"])
    numbers = {" | ".join(row): _numbers(found, row) for row in found.cells}
    write_atomic(out / f"{name}_study.json", [json.dumps(numbers, indent=1) + "\n"])
    return page


def headings(plan: PolicyPlan, test: str) -> Sequence[str]:
    """Of the shares that are told."""
    return plan.tests[test].shares or (ASKED if plan.tests[test].asks else TOLD)


def _table(found: Found, test: str) -> str:
    mine = [row for row in found.cells if row[0] == test]
    able = [row for row in mine if found.refused(row) is None]
    costs = [name for name in COSTS if able and found.cost(able[0], name) is not None]
    lines = [["table", "policy", *headings(found.plan, test), *costs]]
    for row in able:
        cells = [_with_interval(found.statistic(row, share), share) for share in headings(found.plan, test)]
        lines.append([row[1], f"`{row[2]}`", *cells, *(f"{found.cost(row, name):.1f}" for name in costs)])
    refused = "\n".join(f"- `{row[2]}` was refused: {found.refused(row)}" for row in mine if row not in able)
    return "\n\n".join(filter(None, [f"## {test.capitalize()}", as_markdown(lines, num_names=2), refused]))


def _with_interval(statistic: Statistic, share: str) -> str:
    if not np.isfinite(statistic.value):
        return "n/a"
    factor, digits = (100, 0) if share.endswith("%") else (1, 1)
    text = f"{factor * statistic.value:.{digits}f}"
    if len(statistic.per_clip) < 2:
        return text
    low, high = interval(statistic)
    return f"{text} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def _numbers(found: Found, row: Row) -> dict:
    if (why := found.refused(row)) is not None:
        return {"refused": why}
    shares = {share: found.statistic(row, share).value for share in headings(found.plan, row[0])}
    values = shares | {name: found.cost(row, name) for name in COSTS}
    return {
        name: None if value is None or not np.isfinite(value) else round(value, 4) for name, value in values.items()
    }


def _base(found: Found) -> str:
    """What the BASE knows, where it was made by `swwatch study base`."""
    note = found.folder / "jobs" / f"group-{found.plan.seeds[0]}.json"
    argv = json.loads(note.read_text())["argv"]
    base = Path(argv[argv.index("--model-path") + 1])
    if not (base.parent / "base.json").exists():
        return ""
    return f"## The BASE\n\n{describe(base).replace(str(base), 'BASE')}"


def _where(name: str) -> str:
    here = machine()
    return (
        f"## How it was made\n\n`swwatch study {name}`. Commit {here['commit']}, {here['cores']} cores of "
        f"{here['cpu']}, load average {here['load'][0]:.1f} when this was written; Python {here['python']}, "
        f"torch {here['torch']}."
    )
