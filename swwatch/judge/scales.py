"""Dialogues of a run: each graded by several scales from 0 to 10, its questions, right answers and replies before it.

A scale that does not apply to a dialogue gets no grade and counts in no mean, as -1 in SVBench (arXiv 2502.10810).
"""

from collections.abc import Mapping, Sequence
from functools import partial

from swwatch.errors import UserError
from swwatch.judge.asking import Verdict
from swwatch.judge.pointwise import failures
from swwatch.judge.rubric import Criterion, Malformed, Rubric, fingerprint, objects_in, request
from swwatch.metrics.significance import interval, ratio_of

TOP = 10


def messages(rubric: Rubric, criterion: Criterion, rounds: Sequence[Mapping]) -> list[dict]:
    """The question for the grades of one dialogue.

    Args:
        rounds: question, answer (the right one) and result (the reply), in order.
    """
    dialogue = "\n\n".join(
        f"Question {number}: {one['question']}\nRight answer: {one['answer']}\nReply: {one['result'] or '(none)'}"
        for number, one in enumerate(rounds, start=1)
    )
    scales = "\n".join(f"{name}: {about}" for name, about in criterion.scales.items())
    form = ", ".join(f'"{name}": a whole number from 0 to {TOP}, or -1' for name in criterion.scales)
    task = f"Scales, each from 0 to {TOP}; -1 where one does not apply:\n{scales}"
    reply = f'Reply with one JSON object and nothing else: {{{form}, "why": one short sentence}}'
    return request(rubric, criterion, {"dialogue": dialogue}, task, reply)


def questions(rubric: Rubric, criterion: Criterion, rows: Mapping[str, Mapping]) -> dict[str, list[dict]]:
    """Dialogue -> question.

    Raises:
        UserError: a row that is no dialogue.
    """
    for key, row in rows.items():
        if not row.get("rounds"):
            raise UserError(f"{key} is no dialogue: {criterion.name!r} grades runs of swwatch quiz svbench-...")
    return {key: messages(rubric, criterion, row["rounds"]) for key, row in rows.items()}


def read(reply: str, names: Sequence[str]) -> tuple[dict[str, int | None], str]:
    """(scale -> grade, None where it does not apply; reason) of a reply.

    Raises:
        Malformed: no JSON object with all scales, or a grade that is no whole number from 0 to 10 and not -1.
    """
    found = [one for one in objects_in(reply) if all(name in one for name in names)]
    if not found:
        raise Malformed(f"it holds no JSON object with {', '.join(names)}")
    grades = {}
    for name in names:
        grade = found[-1][name]
        if isinstance(grade, bool) or grade not in (None, -1, *range(TOP + 1)):
            raise Malformed(f"{name} {grade!r} is no whole number from 0 to {TOP}, and not -1")
        grades[name] = None if grade in (None, -1) else int(grade)
    return grades, str(found[-1].get("why") or "")[:1000]


def reader(criterion: Criterion):
    return partial(read, names=tuple(criterion.scales))


def summarize(rows: Mapping[str, Mapping], criterion: Criterion, verdicts: Mapping[str, Verdict]) -> dict:
    """Grades to means. Intervals are bootstrapped over videos; dialogues without usable grades are in no mean.

    Raises:
        UserError: not one dialogue could be judged.
    """
    failed = {key: verdict for key, verdict in verdicts.items() if verdict.value is None}
    graded = {key: verdict.value for key, verdict in verdicts.items() if key not in failed}
    if not graded:
        raise UserError(f"no dialogue could be judged; the first: {next(iter(failed.values())).why}")
    of = {name: {key: grades[name] for key, grades in graded.items()} for name in criterion.scales}
    return {
        "num_clips": len(rows),
        "num_judged": len(graded),
        "scales": {name: _scale(grades, rows) for name, grades in of.items()},
        **failures(failed),
        "per_clip": graded,
        "why": {key: verdicts[key].why for key in graded},
    }


def _scale(grades: Mapping[str, int | None], rows: Mapping[str, Mapping]) -> dict:
    sums: dict[str, list[int]] = {}
    for key, grade in grades.items():
        if grade is not None:
            both = sums.setdefault(str(rows[key].get("video", key)), [0, 0])
            both[0] += grade
            both[1] += 1
    if not sums:
        return {"mean": None, "ci95": None, "num_graded": 0}
    mean = ratio_of(*zip(*sums.values(), strict=True))
    ends = interval(mean) if len(sums) > 1 else None
    return {"mean": mean.value, "ci95": ends, "num_graded": sum(count for _, count in sums.values())}


def rubric_sha256(rubric: Rubric, criterion: Criterion) -> str:
    return fingerprint(messages(rubric, criterion, [{"question": "q", "answer": "a", "result": "r"}]))
