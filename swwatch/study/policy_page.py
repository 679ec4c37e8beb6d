"""What a comparison of policies found: tables, a plot of quality against cost, and what comes of public claims."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.metrics.machine import machine
from swwatch.metrics.significance import Statistic, compare, interval, ratio_of
from swwatch.metrics.tables import as_markdown
from swwatch.paths import make_folder
from swwatch.pictures.plots import panels, save
from swwatch.policies.speak import SPEAK
from swwatch.study.base import describe
from swwatch.study.claims import Claim, Evidence, kept, less, more
from swwatch.study.page import claim_text
from swwatch.study.policy_plan import CONTROLS, PLAIN, TESTS, PolicyPlan, cell_path, rows

Row = tuple[str, str, str]  # test, table, policy
NO_MEMORY = ("all", "window", "sink_window", "flush", "restart", "recompute", "recent")
# heading -> (numerator, denominator) of a clip
Share = Callable[[dict], tuple[float, float]]


def _events(name: str, of: str) -> Share:
    return lambda clip: (clip["events"][name], clip["events"][of])


def _answers(past: bool) -> Share:
    def share(clip: dict) -> tuple[float, float]:
        counts = [counts for kind, counts in clip["answers"].items() if kind.endswith(" now") != past]
        return sum(right for right, _ in counts), sum(asked for _, asked in counts)

    return share


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
    "about now, %": _answers(past=False),
    "about the past, %": _answers(past=True),
}
TOLD = ("right, %", "coverage, %", "redundancy, %", "unfounded, %", "TimDiff, s", "dropped, %")
ASKED = ("about now, %", "about the past, %")
COSTS = {  # heading -> (field, factor)
    "tokens said": ("said", 1),
    "recalled": ("recalled", 1),
    "fed a step": ("fed", None),
    "device, kB": ("cache_bytes", 1e-3),
    "host, kB": ("host_bytes", 1e-3),
    "early, ms": ("early_s", 1e3),
    "late, ms": ("late_s", 1e3),
}


@dataclass(frozen=True)
class Found:
    """All cells of a plan: row -> for each seed its clips, or why there are none."""

    plan: PolicyPlan
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
        clips = [clip for cell in self.cells[row] for clip in cell["clips"]]
        if field not in clips[0]:
            return None
        return float(np.mean([clip[field] * (factor or 1 / clip["steps"]) for clip in clips]))


def read_found(plan: PolicyPlan, folder: Path) -> Found:
    """Raises UserError: a cell is missing."""
    paths = {row: [cell_path(folder, plan, seed, *row) for seed in plan.seeds] for row in rows()}
    lacking = [path for some in paths.values() for path in some if not path.exists()]
    if lacking:
        raise UserError(
            f"{lacking[0]} is missing, and {len(lacking) - 1} more: run the comparison again without report"
        )
    return Found(plan, {row: [json.loads(path.read_text()) for path in some] for row, some in paths.items()})


def write_page(plan: PolicyPlan, folder: Path, out: Path) -> Path:
    """Write policies_study.md, its picture and policies_study.json; returns the page."""
    make_folder(out)
    found = read_found(plan, folder)
    picture = draw(found, out / "policies_study.png")
    seeds = ", ".join(map(str, plan.seeds))
    parts = [
        f"# Policies compared ({plan.name})",
        f"Models were fine-tuned from one BASE, {plan.steps} steps each, seeds {seeds}: one narrates (`group`, clips "
        "of 6 to 10 s), one answers in chat turns (`streamingvlm`, streams of up to 24 s). A policy is put on them "
        f"without training for it. {plan.clips} clips a test, at most {plan.seconds} s of each. In brackets 95 % "
        "intervals, resampled over clips and seeds. Times are CPU time of a step, decoding included, at the "
        "beginning and at the end of a clip. What holds for 1.6 M parameters need not hold for 7 B.",
        f"![quality against cost]({picture.name})",
        "## Claims",
        *map(claim_text, claims(found)),
        *[_table(found, test) for test in TESTS],
        _base(folder),
        _where(),
    ]
    page = out / "policies_study.md"
    write_atomic(page, ["\n\n".join(filter(None, parts)) + "\n"])
    numbers = {" | ".join(row): _numbers(found, row) for row in found.cells}
    write_atomic(out / "policies_study.json", [json.dumps(numbers, indent=1) + "\n"])
    return page


def _headings(test: str) -> Sequence[str]:
    return ASKED if TESTS[test].asks else TOLD


def _table(found: Found, test: str) -> str:
    mine = [row for row in found.cells if row[0] == test]
    able = [row for row in mine if found.refused(row) is None]
    costs = [name for name in COSTS if able and found.cost(able[0], name) is not None]
    lines = [["table", "policy", *_headings(test), *costs]]
    for row in able:
        cells = [_with_interval(found.statistic(row, share), share) for share in _headings(test)]
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
    shares = {share: found.statistic(row, share).value for share in _headings(row[0])}
    told = shares | {name: found.cost(row, name) for name in COSTS}
    return {name: None if value is None or not np.isfinite(value) else round(value, 4) for name, value in told.items()}


def draw(found: Found, path: Path) -> Path:
    """One panel a test: its quality against CPU time of a late step. The recent window stands in every panel with one
    that has it, joined by a line; elsewhere what is plain does."""
    figure, axes = panels(-(-len(TESTS) // 2), 2, (13, 9.5))
    for axis, test in zip(axes, TESTS, strict=True):
        share = "about the past, %" if TESTS[test].asks else "right, %"
        able = [row for row in found.cells if row[0] == test and found.refused(row) is None]
        points = {row: (found.cost(row, "late, ms"), 100 * found.statistic(row, share).value) for row in able}
        for row, point in points.items():
            if row[2] not in CONTROLS:
                axis.plot(*point, "o", color="black" if row[2] == PLAIN[row[1]] else "#3b6ea5")
                axis.annotate(row[2].split(":")[0], point, fontsize=8, xytext=(4, 3), textcoords="offset points")
        window = sorted(points[test, "keep", policy] for policy in CONTROLS if (test, "keep", policy) in points)
        if window:
            axis.plot(*zip(*window, strict=True), "s--", color="#d9822b", label=f"{CONTROLS[0]} to {CONTROLS[-1]}")
            axis.legend(frameon=False)
        axis.set(title=test, xlabel="CPU time of a late step, ms", ylabel=share)
    return save(figure, path)


def claims(found: Found) -> list[Claim]:
    """Public claims that can be tested at this size. The rules were fixed before the results."""

    def versus(a: Row, b: Row, share: str, rule: Callable) -> tuple[Evidence, ...]:
        """Of a minus b; nothing where one of them was refused."""
        if any(row not in found.cells or found.refused(row) for row in (a, b)):
            return ()
        seeds = range(len(found.plan.seeds))
        differences = [compare(found.statistic(b, share, seed), found.statistic(a, share, seed)) for seed in seeds]
        spans = tuple((one["ci95"][0], one["ci95"][1]) for one in differences)
        text, none = f"{share}: {a[2]} minus {b[2]} ({a[0]})", (False,) * len(spans)
        return (
            Evidence(
                text, tuple(one["difference"] for one in differences), spans, tuple(rule(*s) for s in spans), none
            ),
        )

    def each(tests: Sequence[str], table: str, policies: Iterable[str], other: str, share: str, rule: Callable):
        pairs = [((test, table, policy), (test, table, other)) for test in tests for policy in policies]
        return tuple(one for a, b in pairs for one in versus(a, b, share, rule))

    see = dict.fromkeys(policy for _, table, policy in found.cells if table == "see" and policy != "all")
    kinds = list(dict.fromkeys(policy for _, table, policy in found.cells if table == "keep"))
    memories = [policy for policy in kinds if policy not in CONTROLS and policy.split(":")[0] not in NO_MEMORY]
    deciding = [str(SPEAK[name]()) for name in ("change", "sved")]
    listed = [
        Claim(
            "Most video tokens can be dropped and narration stays as good (TimeChat-Online, STC, FlashVID, ...).",
            "events told right change by less than 5 points from `all`, each policy of SEE, on both worlds",
            each(("told, still", "told, minutes"), "see", see, "all", "right, %", kept),
        ),
        Claim(
            "No memory beats the newest few seconds where the present is asked about (SimpleStream).",
            "answers about now of each memory do not exceed those of recent:4",
            each(("asked, still", "asked, count"), "keep", memories, "recent:4", "about now, %", not_more),
        ),
        Claim(
            "A memory knows more of the past than the newest few seconds (ReKV, QuickVideo, LiveStar, ...).",
            "answers about the past of each memory exceed those of recent:4",
            each(("asked, still", "asked, count"), "keep", memories, "recent:4", "about the past, %", more),
        ),
        Claim(
            "Who speaks when something changes says less that did not happen (TimeChat-Online, LiveStar).",
            "unfounded phrases of `change` and `sved` are fewer than those of wait-k:3, on the still world",
            each(("told, still",), "schedule", deciding, "wait-k:3", "unfounded, %", less),
        ),
    ]
    return [claim for claim in listed if claim.evidence]


def not_more(low: float, high: float) -> int:
    """For where a difference may be nothing or less."""
    return (high <= 0.05) - (low > 0)


def _base(folder: Path) -> str:
    """What the BASE knows, where it was made by `swwatch study base`."""
    argv = json.loads((folder / "jobs" / "annotations.json").read_text())["argv"]
    base = Path(argv[argv.index("--tokenizer-model-id") + 1])
    if not (base.parent / "base.json").exists():
        return ""
    return f"## The BASE\n\n{describe(base).replace(str(base), 'BASE')}"


def _where() -> str:
    here = machine()
    return (
        f"## How it was made\n\n`swwatch study policies`. Commit {here['commit']}, {here['cores']} cores of "
        f"{here['cpu']}, load average {here['load'][0]:.1f} when this was written; Python {here['python']}, "
        f"torch {here['torch']}."
    )
