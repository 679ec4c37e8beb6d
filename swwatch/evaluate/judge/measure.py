"""What a judge says of runs, written beside them: grades of captions or dialogues, or which run is better."""

import json
from pathlib import Path

from swwatch.data.annotations import write_atomic
from swwatch.errors import UserError
from swwatch.evaluate.judge.session import JudgeSession, names
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.evaluate.run_files import RunFiles, some
from swwatch.judge import pairwise, pointwise, scales
from swwatch.judge.rubric import read_choice, read_grade
from swwatch.model.fingerprint import file_sha256


def report_of(run: RunFiles, other: RunFiles | None, criterion: str) -> Path:
    """NAME_judge.json of a run, or A_vs_B_judge.json beside the first."""
    if other is None:
        return run.beside("judge.json")
    by = "" if criterion == JudgeSettings.criterion else f"_{criterion}"
    return run.path.with_name(f"{'_vs_'.join(names(run.path, other.path))}{by}_judge.json")


def grade_dialogues(run: RunFiles, session: JudgeSession) -> dict:
    """Grade every dialogue of a run by all scales and write NAME_judge.json beside it."""
    rubric, criterion = session.rubric, session.criterion
    questions = scales.questions(rubric, criterion, run.rows)
    verdicts, cost = session.ask(run.path, questions, scales.reader(criterion))
    report = {
        "run": str(run.path),
        "predictions_sha256": file_sha256(run.path),
        **session.facts(scales.rubric_sha256(rubric, criterion)),
        **scales.summarize(run.rows, criterion, verdicts),
        **cost,
    }
    return write(report_of(run, None, criterion.name), report)


def grade_run(run: RunFiles, session: JudgeSession) -> dict:
    """Grade every caption of a run and write NAME_judge.json beside it."""
    captions = {key: row["result"] for key, row in run.rows.items()}
    questions = pointwise.questions(session.rubric, session.criterion, captions)
    verdicts, cost = session.ask(run.path, questions, read_grade)
    report = {
        "run": str(run.path),
        "predictions_sha256": file_sha256(run.path),
        **session.facts(pointwise.rubric_sha256(session.rubric, session.criterion)),
        **pointwise.summarize(captions, verdicts),
        **cost,
    }
    return write(report_of(run, None, session.criterion.name), report)


def compare_runs(a: RunFiles, b: RunFiles, session: JudgeSession) -> dict:
    """Compare two runs on the clips that both have, and write A_vs_B_judge.json beside the first."""
    rubric, criterion, (name_a, name_b) = session.rubric, session.criterion, names(a.path, b.path)
    clips = common_clips(a, b, name_a, name_b, needs_reference=criterion.needs_reference)
    verdicts, cost = session.ask(a.path, pairwise.questions(rubric, criterion, clips), read_choice)
    report = {
        "a": name_a,
        "b": name_b,
        "runs": {"a": str(a.path), "b": str(b.path)},
        "only_in": {"a": len(a.rows) - len(clips), "b": len(b.rows) - len(clips)},
        **session.facts(pairwise.rubric_sha256(rubric, criterion)),
        **pairwise.summarize(clips, verdicts),
        **cost,
    }
    return write(report_of(a, b, criterion.name), report)


def common_clips(
    a: RunFiles, b: RunFiles, name_a: str, name_b: str, *, needs_reference: bool
) -> dict[str, tuple[str, str, str]]:
    """Clip -> (caption of A, caption of B, reference), in the order of A.

    Raises:
        UserError: no clip in common, or a criterion with reference and clips without, or with two different ones.
    """
    clips, unlike = {}, []
    for key, row in a.rows.items():
        if key not in b.rows:
            continue
        reference, other = ((run.rows[key].get("annotation") or "").strip() for run in (a, b))
        if not reference or reference != other:
            unlike.append(key)
        clips[key] = (row["result"], b.rows[key]["result"], reference)
    if not clips:
        raise UserError(f"{name_a} and {name_b} have no clip in common: compare runs over the same test set")
    if needs_reference and unlike:
        raise UserError(
            f"{len(unlike)} clips have no reference, or another one in {name_b} than in {name_a}: {some(unlike)}. "
            "Judge by --criterion fluency, which needs none, or mend the predictions"
        )
    return clips


def write(path: Path, report: dict) -> dict:
    write_atomic(path, [json.dumps(report, indent=2) + "\n"])
    return {**report, "file": str(path)}
