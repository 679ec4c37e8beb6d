"""What two runs are compared by, and how the comparison is told."""

from pathlib import Path

from swwatch.data.annotations import read_jsonl
from swwatch.errors import UserError
from swwatch.evaluate.compare import METHOD
from swwatch.evaluate.run_files import RunFiles, some
from swwatch.metrics import NUM_RESAMPLES
from swwatch.metrics.captions import Measured, measure
from swwatch.metrics.paper import AS_IT_IS
from swwatch.metrics.significance import Statistic, compare, mean_of
from swwatch.metrics.tables import as_text, interval
from swwatch.toy.scores import toy_events, toy_statistics

Pairs = dict[str, tuple[Statistic, Statistic]]  # metric -> what it sums over clips, of A and of B
JUDGE_FACTS = ("model", "request", "criterion", "rubric_sha256", "scale")


def compare_runs(
    a: RunFiles, b: RunFiles, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0, other_data: bool = False
) -> dict:
    """All metrics of two runs on the clips that both have.

    Returns:
        {"a", "b": labels, "num_common", "only_a", "only_b", "without_reference": clips, "metrics": {name: {"a", "b",
        "difference", "ci95", "p_value", "num_clips"}}, "left_out": {name: why}, "method", "num_resamples", "seed"}.
    Raises:
        UserError: no clip in common, other references, other test data, or scores that are not of these predictions.
    """
    common = [key for key in a.rows if key in b.rows]
    if not common:
        raise UserError(f"{a.path} and {b.path} have no clip in common: they are not of the same data")
    references = _references(a, b, common)
    _check_data(a, b, other_data)
    keys = [key for key in common if key in references]
    if len(keys) < 2:
        raise UserError(f"{len(keys)} of {len(common)} common clips have a reference: at least two are needed")
    sides = [
        measure({key: run.rows[key]["result"] for key in keys}, {key: references[key] for key in keys})
        for run in (a, b)
    ]
    pairs = {name: (statistic, sides[1].statistics[name]) for name, statistic in sides[0].statistics.items()}
    left_out: dict[str, str] = {}
    if "METEOR-mean" not in pairs:
        left_out["METEOR"] = sides[0].corpus["METEOR"]["why"]
    for more in (_learned(a, b, sides, left_out), _fluency(a, b, keys, left_out), _toy(a, b, common)):
        pairs |= more
    return {
        "a": label(a),
        "b": label(b),
        "num_common": len(common),
        "only_a": [key for key in a.rows if key not in b.rows],
        "only_b": [key for key in b.rows if key not in a.rows],
        "without_reference": [key for key in common if key not in references],
        "metrics": {
            name: {**compare(x, y, num_resamples=num_resamples, seed=seed), "num_clips": len(x.per_clip)}
            for name, (x, y) in pairs.items()
        },
        "left_out": left_out,
        "method": METHOD,
        "num_resamples": num_resamples,
        "seed": seed,
    }


def label(run: RunFiles) -> str:
    """Where a run lies, its variant and schedule."""
    settings = run.facts.get("settings", {})
    how = ", ".join(str(settings[name]) for name in ("variant", "schedule") if settings.get(name))
    return f"{run.path}" + f" ({how})" * bool(how)


def describe(found: dict) -> str:
    """The comparison as text; values times 100, but Fluency."""
    lines = [f"A: {found['a']}", f"B: {found['b']}", f"{found['num_common']} clips in common"]
    for name, what in (("only_a", "only in A"), ("only_b", "only in B"), ("without_reference", "without a reference")):
        if found[name]:
            lines.append(f"{len(found[name])} {what}, left out: {some(found[name])}")
    rows = [("", "clips", "A", "B", "B - A", "95 % interval", "p")]
    for name, row in found["metrics"].items():
        times = 1 if name in AS_IT_IS else 100
        values = [f"{times * row[key]:.2f}" for key in ("a", "b", "difference")]
        rows.append(
            (name, str(row["num_clips"]), *values, interval(row["ci95"], times=times), f"{row['p_value']:.3f}")
        )
    lines.append(as_text(rows))
    lines += [f"no {name}: {why}" for name, why in found["left_out"].items()]
    return "\n".join([*lines, f"{found['method']} {found['num_resamples']} rounds, seed {found['seed']}."])


def _references(a: RunFiles, b: RunFiles, common: list[str]) -> dict[str, str]:
    """Clip -> reference; that of the other run where one lacks it."""
    references, differing = {}, []
    for key in common:
        given = [text for run in (a, b) if (text := (run.rows[key].get("annotation") or "").strip())]
        if len(set(given)) > 1:
            differing.append(key)
        elif given:
            references[key] = given[0]
    if differing:
        raise UserError(
            f"{len(differing)} of {len(common)} common clips have other references in {a.path} than in {b.path} "
            f"({some(differing)}): their scores cannot be compared. Evaluate both on the same test file"
        )
    return references


def _check_data(a: RunFiles, b: RunFiles, other_data: bool) -> None:
    hashes = {run.facts.get("settings", {}).get("data_sha256") for run in (a, b)} - {None}
    if len(hashes) > 1 and not other_data:
        raise UserError(
            f"{a.path} and {b.path} were evaluated on different test files (by data_sha256 in their _run.json): "
            "videos and questions may differ. If the common clips are the same, say so by --other-data"
        )


def _learned(a: RunFiles, b: RunFiles, sides: list[Measured], left_out: dict) -> Pairs:
    """BLEURT and BERTScore from the clip values of the metrics files: computing them again would need checkpoints."""
    with_what = [run.metrics.get("scores", {}).get("learned", {}) for run in (a, b)]
    pairs = {}
    for name in {**with_what[0], **with_what[1]}:
        how = [about.get(name) for about in with_what]
        if how[0] != how[1]:
            left_out[name] = (
                f"A has it by {how[0] or 'nothing'}, B by {how[1] or 'nothing'}: score both with one model"
            )
            continue
        values = [_clip_values(run, side, name) for run, side in zip((a, b), sides, strict=True)]
        pairs[name] = (mean_of(values[0]), mean_of(values[1]))
    return pairs


def _clip_values(run: RunFiles, side: Measured, name: str) -> list[float]:
    scores, again = run.metrics["scores"], "score it again with swwatch eval --score-only"
    stored = scores.get("per_clip", {})
    missing = [key for key in side.keys if name not in stored.get(key, {})]
    if missing:
        raise UserError(f"{run.beside('metrics.json')} lacks {name} of {len(missing)} clips: {again}")
    if scores.get("tokenizer") == side.tokenizer:  # then its ROUGE-L tells whether it is of these very captions
        stale = [k for k in side.keys if abs(stored[k].get("ROUGE-L", -1) - side.per_clip[k]["ROUGE-L"]) > 1e-6]
        if stale:
            raise UserError(f"{run.beside('metrics.json')} is not of these captions ({some(stale)}): {again}")
    return [stored[key][name] for key in side.keys]


def _fluency(a: RunFiles, b: RunFiles, keys: list[str], left_out: dict) -> Pairs:
    """The judge's grades of the clips that it could grade in both runs."""
    if not a.judge and not b.judge:
        return {}
    if not (a.judge and b.judge):
        left_out["Fluency"] = f"only {'A' if a.judge else 'B'} was judged: run swwatch judge on the other"
        return {}
    differing = [name for name in JUDGE_FACTS if a.judge.get(name) != b.judge.get(name)]
    if differing:
        left_out["Fluency"] = f"the judges differ in {', '.join(differing)}: grade both by the same one"
        return {}
    grades = [run.judge.get("per_clip", {}) for run in (a, b)]
    both = [key for key in keys if all(key in grade for grade in grades)]
    if not both:
        left_out["Fluency"] = "no clip was graded in both runs"
        return {}
    return {"Fluency": tuple(mean_of([grade[key] for key in both]) for grade in grades)}


def _toy(a: RunFiles, b: RunFiles, common: list[str]) -> Pairs:
    """Shares of the toy world's events, where the test file is still there."""
    data = next((path for run in (a, b) if (path := run.facts.get("about", {}).get("data"))), None)
    if data is None or not Path(data).is_file():
        return {}
    events = {str(record["video_id"]): toy_events(record) for record in read_jsonl(data)}
    keys = [key for key in common if events.get(key)]
    sides = [toy_statistics((run.rows[key]["result"], events[key]) for key in keys) for run in (a, b)]
    return {f"toy {name}": (sides[0][name], sides[1][name]) for name in sides[0] if name in sides[1]}
