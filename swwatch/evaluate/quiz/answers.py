"""Answers that are there, and what is told of their run: checked before they are counted, for files may be damaged."""

from pathlib import Path

from swwatch.errors import UserError
from swwatch.evaluate.quiz.tasks import Task
from swwatch.evaluate.run_files import beside, objects_in, read_object
from swwatch.evaluate.tasks import check, optional


def texts(value, where: str) -> None:
    """A list of texts, which may be empty."""
    if value != []:
        check(value, [str], where)


ROW = {  # of the answers
    **dict.fromkeys(("video", "group", "answer", "result", "when"), str),
    **dict.fromkeys(("tags", "choices"), texts),
    **dict.fromkeys(("correct", "official"), bool),
    **dict.fromkeys(("num_frames", "num_tokens"), int),
    "due_s": float,
    "said_s": optional(float),
    "*": object,
}
RUN = {  # of run.json
    "settings": {
        **dict.fromkeys(("task", "how", "prompt", "model_fingerprint", "only", "data_sha256"), str),
        **dict.fromkeys(("keep", "eviction"), optional(str)),
        **dict.fromkeys(("context_s", "fps", "nframes"), optional(float)),
        "*": object,
    },
    "about": {"model": str, "commit": optional(str), "num_items": int, "*": object},
    "*": object,
}
TRACE = {"took_s": float, "*": object}
SCALE = {"mean": optional(float), "ci95": optional([float]), "num_graded": int}
JUDGED = {"model": str, "scales": {"*": SCALE | {"*": object}}, "*": object}


def read_answers(path: Path, task: Task) -> list[dict]:
    """The rows of an answer file, each question once.

    Raises:
        UserError: a row that lacks a field, or has one of another kind; names the row.
    """
    needed = ("video", "group", *(("tags", "choices", "answer", "correct") if task.averages else ()))
    rows: dict[str, dict] = {}
    for _, row in objects_in(path, "video_id", *needed):
        _check(row, ROW, f"{path}, {row['video_id']}", ("due_s", "said_s") if "when" in row else ())
        rows.setdefault(str(row["video_id"]), row)
    return list(rows.values())


def read_took_s(path: Path) -> list[float]:
    """Seconds that answers took, of those that have a line in the trace. Raises: UserError."""
    lines = [line for _, line in objects_in(beside(path, "trace.jsonl"))]
    for line in lines:
        _check(line, TRACE, str(beside(path, "trace.jsonl")))
    return [line["took_s"] for line in lines if "took_s" in line]


def read_facts(path: Path) -> dict:
    """What an answer file's run says of itself; {} where it does not. Raises: UserError."""
    facts = read_object(beside(path, "run.json"))
    _check(facts, RUN, str(beside(path, "run.json")))
    return facts


def read_judged(path: Path) -> dict:
    """A judge's grades of dialogues; {} where none was asked. Raises: UserError."""
    judged, where = read_object(beside(path, "judge.json")), str(beside(path, "judge.json"))
    _check(judged, JUDGED, where, ("model",) if "scales" in judged else ())
    for scale in judged.get("scales", {}).values():
        _check(scale, SCALE | {"*": object}, where, SCALE)
    return judged


def _check(value: dict, shape: dict, where: str, needed=()) -> None:
    try:
        check(value, shape, where)
    except ValueError as error:
        raise UserError(f"{error}: the file is damaged; mend it, or ask again with --restart") from error
    if lacking := [name for name in needed if name not in value]:
        raise UserError(f"{where}: no {lacking[0]}: the file is damaged; mend it, or ask again with --restart")
