"""The report of a study: what was done, what came of each claim, the tables behind it."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from swwatch.data.annotations import write_atomic
from swwatch.metrics.tables import as_markdown
from swwatch.paths import make_folder
from swwatch.rules.variants import VARIANTS
from swwatch.study.claims import LEARNED, Claim, Evidence, claims, learned
from swwatch.study.outcome import Outcome
from swwatch.study.plots import draw_delay, draw_shares
from swwatch.toy.scores import MEANING

FLUENCY = ("parses", "broken", "repeats")
CONTENT = ("right", "told", "true", "told_direction")
POSITION = ("color", "shape", "direction", "new_color", "count")
CAPTION = ("BLEU-4", "ROUGE-L", "CIDEr")
TIMING = {
    "told after the event's end, s": ("events", "delay_s"),
    "staleness, s": ("staleness_s",),
    "tail, s": ("tail_s",),
}


def write_page(outcome: Outcome, folder: Path) -> Path:
    """Write toy_world.md, its pictures and toy_world.json (every share of every seed); returns the page."""
    make_folder(folder)
    name = outcome.plan.name
    pictures = [draw_shares(outcome, folder / f"toy_world_{name}_shares.png")]
    pictures.append(draw_delay(outcome, folder / f"toy_world_{name}_delay.png"))
    judged = claims(outcome)
    everything = set(outcome.plan.variants) == set(VARIANTS)
    parts = [
        f"# All variants on the toy world ({name} study)" if everything else _title(outcome),
        _what(outcome),
        "\n".join(f"![{picture.stem}]({picture.name})" for picture in pictures),
        "## What came of the paper's claims",
        _unlearned(outcome),
        *[claim_text(claim) for claim in judged],
        "## Numbers",
        "Mean over training seeds, in brackets the lowest and the highest seed. Shares in %.",
        _shares("Language", outcome, FLUENCY),
        _shares("Content, by alignment in order", outcome, CONTENT),
        _shares("Content, by position (one lost phrase and all later ones count as wrong)", outcome, POSITION),
        _caption_scores(outcome),
        _timing(outcome),
        _sweep(outcome),
        _examples(outcome),
        _provenance(outcome),
    ]
    page = folder / "toy_world.md"
    write_atomic(page, ["\n\n".join(filter(None, parts)) + "\n"])
    write_atomic(folder / "toy_world.json", [json.dumps(_numbers(outcome, judged), indent=1) + "\n"])
    return page


def summary(outcome: Outcome) -> str:
    """A few lines for the terminal: fluency and content under each schedule, and the verdicts."""
    lines = [f"{'':12}{'schedule':10}" + "".join(f"{name:>10}" for name in ("parses", "right", "true"))]
    for variant, schedule in outcome.plan.rows():
        cells = (
            f"{100 * np.mean(outcome.over_seeds(variant, schedule, s)):9.1f}%" for s in ("parses", "right", "true")
        )
        lines.append(f"{variant:12}{schedule:10}" + "".join(cells))
    return "\n".join([*lines, "", *(f"{claim.verdict}: {claim.text}" for claim in claims(outcome))])


def _title(outcome: Outcome) -> str:
    return f"# {' and '.join(outcome.plan.variants)} on the toy world ({outcome.plan.name} study)"


def _what(outcome: Outcome) -> str:
    plan = outcome.plan
    schedules = {name: text for v in plan.variants for name, text in plan.schedules(v).items()}
    return (
        f"Every variant was trained from the same {'BASE' if plan.base else 'random weights'} on the same "
        f"{plan.clips:,} clips of level "
        f"`{plan.level}` with its own schedule (wait-k, K = 3), {plan.steps:,} steps of 16 clips, "
        f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)} (other weights, other order), and tested on the same "
        f"{len(outcome.records)} held-out clips, free running, under: "
        + "; ".join(f"{name} = `{text}`" for name, text in schedules.items())
        + ". Offline variants speak after the video, so no schedule reaches them. "
        "The model is a Qwen2.5-VL of 1.6 M parameters; what holds here need not hold at 3B, and what does not show "
        "here may show there."
    )


def _unlearned(outcome: Outcome) -> str:
    """Which trainings ended before the model could see, which no comparison of content can do without."""
    plan = outcome.plan
    seeds = {v: [str(seed) for seed in plan.seeds if not learned(outcome, v, seed)] for v in plan.variants}
    named = "; ".join(f"`{variant}` (seed {', '.join(which)})" for variant, which in seeds.items() if which)
    return named and (
        f"Not learned within {plan.steps:,} steps: {named}. On the trained schedule these told fewer than "
        f"{100 * LEARNED:.0f} % of the directions of told events right; guessing gives 25 %. A comparison of content "
        "in which they take part would compare how fast variants learn, so it says nothing for or against a claim. "
        "Their language was learned, and its comparisons stand."
    )


def claim_text(claim: Claim) -> str:
    head = f"### {claim.verdict.capitalize()}: {claim.text}\nMeasured: {claim.rule}."
    return f"{head}\n\n{evidence_table(claim.evidence)}"


def evidence_table(evidence: Iterable[Evidence]) -> str:
    lines = [["comparison", "difference in points, per seed [95 % interval]", "speaks"]]
    for one in evidence:
        pairs = zip(one.differences, one.intervals, strict=True)
        cells = "; ".join(f"{100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for d, (low, high) in pairs)
        says = ", ".join(
            "not learned" if blind else {1: "for", 0: "open", -1: "against"}[sign]
            for sign, blind in zip(one.signs, one.unlearned, strict=True)
        )
        lines.append([one.text, cells, says])
    return as_markdown(lines, numeric=False)


def _table(title: str, outcome: Outcome, columns: dict[str, Callable], digits: int, note: str = "") -> str:
    """A line for every variant and schedule.

    Args:
        columns: heading -> (variant, schedule) -> (S,) a number for each seed.
    """
    lines = [["variant", "schedule", *columns]]
    for variant, schedule in outcome.plan.rows():
        cells = [_spread(values(variant, schedule), digits) for values in columns.values()]
        lines.append([f"`{variant}`", schedule, *cells])
    return "\n\n".join(filter(None, [f"### {title}", as_markdown(lines, num_names=2), note]))


def _spread(values: np.ndarray, digits: int) -> str:
    values = values[~np.isnan(values)]
    if not len(values):
        return "n/a"
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} [{values.min():.{digits}f}, {values.max():.{digits}f}]"


def _shares(title: str, outcome: Outcome, shares: tuple[str, ...]) -> str:
    columns = {name: lambda v, s, name=name: 100 * outcome.over_seeds(v, s, name) for name in shares}
    meaning = "; ".join(f"`{name}`: {MEANING[name]}" for name in shares)
    return _table(title, outcome, columns, 1, f"{meaning}.")


def _caption_scores(outcome: Outcome) -> str:
    columns = {n: lambda v, s, n=n: 100 * outcome.metric(v, s, "scores", "corpus", n) for n in CAPTION}
    return _table("Caption metrics (times 100)", outcome, columns, 1)


def _timing(outcome: Outcome) -> str:
    columns = {
        heading: lambda v, s, path=path: outcome.metric(v, s, "timing", *path, "median")
        for heading, path in TIMING.items()
    }
    note = (
        "Medians, in stream time on the clock of a paced run (docs/metrics.md). Several processes shared the machine, "
        "so the computing part is an upper bound; here it is small beside the waiting."
    )
    return _table("Timing", outcome, columns, 2, note)


def _sweep(outcome: Outcome) -> str:
    """Other K and other frame rates than trained, where the plan has them."""
    lines = [["variant", "test", "parses", "right", "told_direction"]]
    trained = [(variant, "fixed") for variant in outcome.plan.variants]
    for variant, name in [*trained, *outcome.plan.sweep()]:
        shares = (100 * outcome.over_seeds(variant, name, share) for share in lines[0][2:])
        lines.append([f"`{variant}`", name, *(_spread(values, 1) for values in shares)])
    note = (
        "Trained with K = 3 at 2 frames a second (fixed). At 1, 4 and 8 frames a second K is 6, 2 and 1. Other than "
        f"trained is tested with seed {outcome.plan.seeds[0]} alone."
    )
    table = as_markdown(lines, num_names=2)
    return f"### Other K, other frame rates\n\n{note}\n\n{table}" if outcome.plan.sweep() else ""


def _examples(outcome: Outcome) -> str:
    """What the first clip of the test file was told to be, whatever it shows: nothing is picked."""
    record, seed = outcome.records[0], outcome.plan.seeds[0]
    key = str(record["video_id"])
    lines = [f"reference: {record['human_caption']}"]
    lines += [f"{v}, {s}: {outcome.cells[v, seed, s].said[key]}" for v, s in outcome.plan.rows()]
    return f"## The first clip of the test file (seed {seed})\n\n```text\n" + "\n".join(lines) + "\n```"


def _provenance(outcome: Outcome) -> str:
    notes = outcome.jobs.values()
    begins, ends = [note["begin"] for note in notes], [note["end"] for note in notes]
    kinds, commands = {"training": [], "test": [], "preparation": []}, {}
    for note in notes:
        kind = {"train": "training", "eval": "test"}.get(note["argv"][0], "preparation")
        kinds[kind].append(note["seconds"])
        commands.setdefault(kind, " ".join(["swwatch", *note["argv"]]))
    loads = [note["load"][0] for note in (*begins, *ends)]

    def each(key: str) -> str:
        return ", ".join(dict.fromkeys(str(note[key]) for note in begins))

    gpus = ", ".join(dict.fromkeys(name for note in begins for name in note["gpus"])) or "no GPU"
    times = "; ".join(f"{len(s)} x {kind}, {sum(s) / 60:.0f} min in all" for kind, s in kinds.items() if s)
    examples = "\n".join(commands[kind] for kind in ("training", "test") if kind in commands)
    for path, name in ((outcome.folder, "STUDY"), (outcome.folder.parent, "OUT")):  # the BASE lies beside the study
        examples = examples.replace(str(path), name)
    shown = re.sub(r"\S*/(?=configs/)", "", examples)
    at_once = ", ".join(sorted({str(note["at_once"]) for note in notes}))
    return (
        f"## How it was made\n\n`bash scripts/study.sh --size {outcome.plan.name}{' --base' * outcome.plan.base}`, "
        f"which runs for each seed and variant commands such as\n\n```bash\n{shown}\n```\n\n"
        f"Commits: {each('commit')}. Hardware: {each('cores')} cores of {each('cpu')}, {gpus}; "
        f"{at_once} jobs at a time; load average {min(loads):.1f} to {max(loads):.1f} (the machine was shared where "
        f"it exceeds the jobs). Python {each('python')}, torch {each('torch')}, transformers {each('transformers')}. "
        f"Wall time of the jobs: {times}. Seeds: {', '.join(map(str, outcome.plan.seeds))}; data seed 0.\n\n"
        "Intervals in the claims are of the clips that were drawn for testing; seeds are shown side by side, and no "
        "correction is made for the number of comparisons."
    )


def _numbers(outcome: Outcome, judged: list[Claim]) -> dict:
    shares = {
        f"{variant}/{schedule}": {
            share: [None if np.isnan(x) else round(float(x), 4) for x in outcome.over_seeds(variant, schedule, share)]
            for share in (*FLUENCY, *CONTENT, *POSITION)
        }
        for variant, schedule in outcome.plan.rows()
    }
    verdicts = [{"claim": claim.text, "rule": claim.rule, "verdict": claim.verdict} for claim in judged]
    return {"plan": outcome.plan.name, "seeds": list(outcome.plan.seeds), "shares": shares, "claims": verdicts}
