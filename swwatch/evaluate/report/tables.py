"""The report's tables as plain cells, written out as HTML and as Markdown alike."""

import re
from dataclasses import dataclass, field

from swwatch.evaluate.report.gather import ReportedRun, is_number
from swwatch.metrics.paper import AS_IT_IS, COLUMNS, paper_disturbed, paper_rows
from swwatch.metrics.tables import interval
from swwatch.rules.variants import TURNS, VARIANTS
from swwatch.toy.scores import MEANING

METRICS = (*COLUMNS, "BLEU-2", "BLEU-3", "BERTScore")  # the paper's columns first, then what it does not give
ROWS = VARIANTS | TURNS
NONE = "–"
MAX_SKIPPED = 200

LABELS = {
    "variant": "variant",
    "schedule": "schedule",
    "pixel_budget": "pixel budget",
    "model_fingerprint": "model's fingerprint",
    "data_sha256": "data's sha256",
    "max_frames": "most frames",
    "fps": "frames a second",
    "max_new_tokens": "most tokens",
    "repetition_penalty": "repetition penalty",
    "img_root": "folder of videos",
}


@dataclass(frozen=True)
class Table:
    """A table. The first `num_names` cells of a row name it; `paper` are the indices of the paper's rows."""

    key: str  # for links, one word
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    paper: frozenset[int] = frozenset()
    numeric: bool = True
    num_names: int = 1


def all_tables(runs: list[ReportedRun]) -> list[Table]:
    """Every table that these runs have something for, in reading order."""
    tables = [facts(runs), scores(runs), by_task(runs), judge(runs), toy_events(runs)]
    tables += [timing(runs), timing_shares(runs), skipped(runs)]
    return [table for table in tables if table is not None]


def sentence(run: ReportedRun) -> str:
    """What was run and how many clips it concerned, in plain words."""
    variant, schedule = run.settings.get("variant"), run.settings.get("schedule")
    what = f"variant {variant}" if variant else "a variant that no file names"
    if variant in ROWS:
        what += f" ({ROWS[variant].paper}; it speaks {ROWS[variant].speaks.value})"
    how = f", schedule {schedule}" if schedule else ""
    empty = sum(not row["result"].strip() for row in run.rows.values())
    scored = run.metrics["scores"].get("num_clips", len(run.rows))
    counts = f"{_count(scored, 'clip')} scored, {len(run.skipped)} skipped, {_count(empty, 'caption')} empty"
    trace = len(run.tokens.keys() & run.rows.keys())
    if trace < len(run.rows):
        counts += f"; {trace or 'none'} of {_count(len(run.rows), 'caption')} with the times of their words"
    return f"{what}{how}: {counts}"


def facts(runs: list[ReportedRun]) -> Table:
    """Settings and versions, one column a run."""
    rows = []
    for part in ("settings", "about"):
        for key in dict.fromkeys(key for run in runs for key in getattr(run, part)):
            rows.append([LABELS.get(key, key.replace("_", " "))])
            rows[-1] += [_plain(getattr(run, part).get(key)) for run in runs]
    rows.append(["metrics' tokenizer", *(_plain(run.metrics["scores"].get("tokenizer")) for run in runs)])
    notes = [f"{run.name}: {problem}" for run in runs for problem in run.describe()]
    if len({run.settings.get("data_sha256") for run in runs}) > 1 or len({frozenset(run.rows) for run in runs}) > 1:
        notes.append("These runs are not of the same clips: their scores cannot be compared with each other.")
    return Table("runs", "What was run", ["", *(run.name for run in runs)], rows, notes, numeric=False)


def scores(runs: list[ReportedRun]) -> Table:
    """Corpus scores of every run, beside the paper's rows of the variants that were run."""
    ours = [(run.name, *_scores_of(run)) for run in runs]
    papers = _papers([run for run in runs if not run.metrics.get("by_task")], "pe-video")
    have = {name for _, values, _ in ours for name in values} | {name for _, values in papers for name in values}
    columns = _order(have)
    rows = [[name, *(_score(column, values, ci) for column in columns)] for name, values, ci in ours]
    paper = frozenset(range(len(rows), len(rows) + len(papers)))
    rows += [[name, *(_hundredths(values.get(column)) for column in columns)] for name, values in papers]
    notes = []
    if any(ci for _, _, ci in ours):
        notes.append("In brackets: 95 % confidence intervals by bootstrap over clips.")
    if papers:
        notes.append(
            "The rows marked paper are the paper's own (arXiv 2601.06843): Qwen2.5-VL of the size named, trained and "
            "tested on PE-Video. They are no yardstick for other data."
        )
    notes.append("All values times 100" + (", except Fluency: a judge's 1 to 5." if "Fluency" in columns else "."))
    notes += _disturbed(runs)
    why = {  # text -> the runs that say it
        f"no {name}: {value['why']}": [run.name for run in runs if run.metrics["scores"]["corpus"].get(name) == value]
        for run in runs
        for name, value in run.metrics["scores"]["corpus"].items()
        if isinstance(value, dict) and value.get("why")
    }
    notes += _said_by(why, len(runs))
    title = "Scores beside the paper's" if papers else "Scores of all clips"
    return Table("scores", title, ["", *columns], rows, notes, paper)


def by_task(runs: list[ReportedRun]) -> Table | None:
    """Scores of each sub-task, all runs of a task together; last the mean over tasks, beside the paper's."""
    having = [run for run in runs if run.metrics.get("by_task")]
    tasks = dict.fromkeys(task for run in having for task in run.metrics["by_task"])
    order = sorted(tasks, key=lambda task: task == "mean")
    parts = [(task, run, run.metrics["by_task"][task]) for task in order for run in having if _has(run, task)]
    if not parts:
        return None
    papers = _papers(having, "funqa")
    columns = _order({name for _, _, part in parts for name in part["corpus"]} | {c for _, row in papers for c in row})
    rows = [
        [task, run.name, _plain(part.get("num_clips")), *(_score(c, part["corpus"], {}) for c in columns)]
        for task, run, part in parts
    ]
    paper = frozenset(range(len(rows), len(rows) + len(papers)))
    rows += [["mean", name, NONE, *(_hundredths(values.get(c)) for c in columns)] for name, values in papers]
    notes = ["Each sub-task is scored as a corpus of its own; the mean gives them equal weights."]
    for task, run, part in parts:
        if task == "mean" and part.get("missing"):
            notes.append(
                f"{run.name}: the mean lacks {', '.join(part['missing'])}, so it is not the paper's mean of six."
            )
    if papers:
        notes.append("The rows marked paper are the paper's own (arXiv 2601.06843), of the model size named.")
    columns = ["task", "run", "clips", *columns]
    return Table("tasks", "Scores by sub-task", columns, rows, notes, paper, num_names=2)


def toy_events(runs: list[ReportedRun]) -> Table | None:
    """How much of the toy world's events was told right: shares (fractions) in percent, counts as they are."""
    flat = {run.name: flatten(run.metrics["toy_events"]) for run in runs if run.metrics.get("toy_events")}
    ends = {run.name: flatten(run.metrics.get("toy_ci95") or {}) for run in runs}
    rows = [[name, *(_share(flat[run].get(name), ends[run].get(name)) for run in flat)] for name in _keys(flat)]
    notes = [f"{name.replace('_', ' ')}: {text}" for name, text in MEANING.items() if _words(name) in _keys(flat)]
    if any(ends.values()):
        notes.append("In brackets: 95 % confidence intervals by bootstrap over clips.")
    return Table("toy", "Toy world: what was told right", ["", *flat], rows, notes) if rows else None


def timing(runs: list[ReportedRun]) -> Table | None:
    """The distributions of the timing summary (whatever holds a median), one row a metric and run."""
    flat = {run.name: flatten(_timing(run), stop="median") for run in runs}
    having = [
        (name, run, values[name])
        for name in _keys(flat)
        for run, values in flat.items()
        if _is_distribution(values.get(name))
    ]
    columns = list(dict.fromkeys(column for _, _, value in having for column in value))
    rows = [[_unit(name), run, *(_plain(value.get(column)) for column in columns)] for name, run, value in having]
    if not rows:
        return None
    return Table("timing", "Timing", ["", "run", *map(_words, columns)], rows, _definitions(runs), num_names=2)


def timing_shares(runs: list[ReportedRun]) -> Table | None:
    """The timing summary's counts and shares, one column a run; what it says in words comes below."""
    flat = {run.name: flatten(_timing(run), stop="median") for run in runs if _timing(run)}
    names = [name for name in _keys(flat) if any(is_number(values.get(name)) for values in flat.values())]
    rows = [[_unit(name), *(_plain(values.get(name)) for values in flat.values())] for name in names]
    words = {  # text -> the runs that say it
        f"{name}: {_plain(value)}": [run for run, values in flat.items() if values.get(name) == value]
        for values in flat.values()
        for name, value in values.items()
        if name not in names and value is not None and not _is_distribution(value)
    }
    notes = _said_by(words, len(flat))
    return Table("timing-shares", "Timing: counts and shares", ["", *flat], rows, notes) if rows else None


def judge(runs: list[ReportedRun]) -> Table | None:
    """Who judged the fluency, and of how many captions."""
    judged = [run for run in runs if run.judge]
    if not judged:
        return None
    fields = ("model", "num_judged", "num_empty", "num_failed", "rubric_sha256", "cost")
    rows = [[run.name, *(_plain(run.judge.get(name)) for name in fields)] for run in judged]
    columns = ["", "judge", "judged", "of them empty", "failed, left out", "rubric's sha256", "cost"]
    return Table("judge", "The judge of fluency", columns, rows, numeric=False)


def skipped(runs: list[ReportedRun]) -> Table | None:
    """The clips that could not be read, with the reasons."""
    rows = [
        [str(line.get("video_id")), run.name, _plain(line.get("path")), _plain(line.get("reason"))]
        for run in runs
        for line in run.skipped
    ]
    if not rows:
        return None
    rest = len(rows) - MAX_SKIPPED
    notes = [f"{rest} more are in the runs' _skipped.jsonl files."] if rest > 0 else []
    return Table("skipped", "Skipped clips", ["clip", "run", "video", "why"], rows[:MAX_SKIPPED], notes, numeric=False)


def flatten(value: object, name: str = "", stop: str = "why") -> dict[str, object]:
    """Nested objects as one level: {"lag": {"p95": 1}} -> {"lag, p95": 1}.

    An object that says `why` a value is missing stays whole, and so does one with the key `stop`.
    """
    if not isinstance(value, dict) or "why" in value or stop in value:
        return {name: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{name}, {_words(key)}" if name else _words(key), stop)
    return flat


def _said_by(texts: dict[str, list[str]], num_runs: int) -> list[str]:
    """Texts, each after the names of the runs that it is said of, unless that is all of them."""
    return [text if len(names) == num_runs else f"{', '.join(names)}: {text}" for text, names in texts.items()]


def _timing(run: ReportedRun) -> dict:
    """The summary without what is told elsewhere."""
    return {k: v for k, v in (run.metrics.get("timing") or {}).items() if k not in ("definitions", "per_clip")}


def _definitions(runs: list[ReportedRun]) -> list[str]:
    definitions = {}
    for run in runs:
        definitions |= flatten((run.metrics.get("timing") or {}).get("definitions") or {})
    return [f"{_unit(name)}: {text}" for name, text in definitions.items() if isinstance(text, str)]


def _is_distribution(value: object) -> bool:
    return isinstance(value, dict) and "median" in value


def _keys(flat: dict[str, dict]) -> list[str]:
    return list(dict.fromkeys(name for values in flat.values() for name in values))


def _scores_of(run: ReportedRun) -> tuple[dict, dict]:
    """Corpus values and confidence intervals of a run, the judge's among them."""
    values, ci95 = dict(run.metrics["scores"]["corpus"]), dict(run.metrics["scores"].get("ci95") or {})
    if is_number(run.judge.get("fluency")):
        values["Fluency"] = run.judge["fluency"]
        ci95 |= {"Fluency": run.judge["ci95"]} if run.judge.get("ci95") else {}
    return values, ci95


def _score(name: str, values: dict, ci95: dict) -> str:
    value, factor = values.get(name), 1 if name in AS_IT_IS else 100
    if isinstance(value, dict):
        return "n/a"
    if not is_number(value):
        return NONE
    ends = ci95.get(name)
    known = isinstance(ends, list) and all(is_number(end) for end in ends)
    return f"{factor * value:.2f}" + (f" {interval(ends, times=factor)}" if known else "")


def _share(value: object, ends: object) -> str:
    if not isinstance(value, float) or not is_number(value):
        return _plain(value)
    return f"{100 * value:.1f} %" + (f" {interval(ends, '.1f', 100)}" if isinstance(ends, list) else "")


def _hundredths(value: float | None) -> str:
    return f"{value:.2f}" if is_number(value) else NONE


def _papers(runs: list[ReportedRun], task: str) -> list[tuple[str, dict[str, float]]]:
    """The paper's rows of the variants among these runs."""
    variants = dict.fromkeys(run.settings.get("variant") for run in runs)
    return [row for variant in variants if variant in ROWS for row in paper_rows(variant, task)]


def _disturbed(runs: list[ReportedRun]) -> list[str]:
    """What the paper says of the variants that were run under a schedule other than wait-k."""
    notes = []
    for variant in dict.fromkeys(run.settings.get("variant") for run in runs if _is_disturbed(run)):
        if row := paper_disturbed(variant) if variant in ROWS else None:
            notes.append(
                f"Disturbance in the paper (3B, trained with K = 3), BLEURT of {variant}: {row['fixed']:.2f} tested "
                f"with K = 3, {row['random']:.2f} with random K."
            )
    return notes


def _is_disturbed(run: ReportedRun) -> bool:
    return not str(run.settings.get("schedule", "wait-k")).startswith("wait-k")


def _has(run: ReportedRun, task: str) -> bool:
    return isinstance((run.metrics.get("by_task") or {}).get(task), dict)


def _order(names: set[str]) -> list[str]:
    return [name for name in METRICS if name in names] + sorted(names.difference(METRICS))


def _plain(value: object) -> str:
    """A value as a reader wants it: 4 digits of a fraction, a dash for nothing."""
    if value is None:
        return NONE
    if isinstance(value, dict) and "why" in value:
        return f"n/a: {value['why']}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(item) for item in value)}]" if value else NONE
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_plain(inner)}" for key, inner in value.items()) or NONE
    return str(value)


def _words(key: str) -> str:
    """A key as words: num_clips -> number of clips."""
    return re.sub("^num ", "number of ", str(key).replace("_", " "))


def _unit(name: str) -> str:
    """gap s -> gap (s)."""
    return re.sub(" (s|ms)$", r" (\1)", name)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
