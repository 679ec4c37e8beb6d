"""What a task's YAML file may say, checked before any of it is used: kinds of values, then names, then what lacks."""

import string

from swwatch.evaluate.quiz.items import ANSWERS
from swwatch.evaluate.quiz.readers import READERS, SUBTITLES
from swwatch.evaluate.quiz.scorers import SCORERS
from swwatch.evaluate.rows import places_in
from swwatch.evaluate.tasks import check

ENDS_OF_PLACES = ("", "name", "stem", "below")  # of {field:...}, see rows.FileRow.fill


def template(value, where: str) -> None:
    """A text whose places {field} can be filled from a row."""
    check(value, str, where)
    try:
        places = [part for part in string.Formatter().parse(value) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{where} is no template ({error}): a brace of its own is written twice") from error
    for _, name, end, turned in places:
        if not name.isidentifier() or turned or end not in ENDS_OF_PLACES:
            raise ValueError(
                f"{where}: a place is {{field}}, or {{field:...}}: of a path there are name, stem and below"
            )


def templates(value, where: str) -> None:
    """One, or several of which the first that can be filled counts."""
    check(value, template if isinstance(value, str) else [template], where)


def texts(value, where: str) -> None:
    check(value, str if isinstance(value, str) else [str], where)


FORM = {
    "prompts": {"*": template},
    **dict.fromkeys(("options", "beginning", "context", "scorer"), str),
    **dict.fromkeys(("reply", "max_frames"), int),
    "whole_seconds": bool,
    "starts": {"*": template},
}


def form(value, where: str) -> None:
    """How it is asked, or the name of the task that has it."""
    check(value, str if isinstance(value, str) else FORM, where)


ANSWER = {"*": template}
TASK = {
    **dict.fromkeys(("title", "source", "reader", "subtitles"), str),
    "kind": template,
    "fields": {"answer": ANSWER, "*": templates},
    "places": [template],
    "forms": {"*": form},
    "averages": {"*": texts},
    "modes": {"*": [str]},
    "kinds": {"*": {"ask": str, "choices": [str], "answer": ANSWER, "word": template}},
    "parts": {"*": {"*": object}},
    "moment": {"after": float, "tolerance_s": float, "*": template},
    "instructions": {"*": template},
    "refused": {"*": str},
}


def check_task(task) -> None:
    """A tasks.DataTask. Raises: ValueError: a name that its table does not have, or something missing."""
    if not task.forms:
        raise ValueError("forms are wanted: one at least")
    for name, table in ((task.reader, READERS), (task.subtitles, SUBTITLES)):
        if name is not None and name not in table:
            raise ValueError(f"{name!r} is none of {', '.join(table)}")
    if any("file" not in facts for facts in task.parts.values()):
        raise ValueError("every one of the parts needs its file")
    for form in task.forms.values():
        if form.scorer not in SCORERS:
            raise ValueError(f"{form.scorer!r} is none of {', '.join(SCORERS)}")
    for how in task.averages.values():
        if isinstance(how, str) and how not in ("questions", "groups"):
            raise ValueError(f"{how!r} is neither questions nor groups")
        if not isinstance(how, str) and (unknown := set(how) - set(task.modes)):
            raise ValueError(f"{', '.join(unknown)} is no mode")
    prompts = {how.get("ask", "question") for how in task.kinds.values()} | (set() if task.moment else {"question"})
    for form in task.forms.values():
        if missing := prompts - set(form.prompts):
            raise ValueError(f"the form {form.name} has no prompt {', '.join(sorted(missing))}")
    wanted = {"asked", "due", "tolerance_s"} - set(task.moment) | prompts - set(task.instructions)
    if task.moment and wanted:
        raise ValueError(f"moment or instructions lack {', '.join(sorted(wanted))}")
    has_options = any("{options}" in form.prompts[name] for form in task.forms.values() for name in prompts)
    needed = {"key", "video", "group"} | ({"question", "options", "answer"} if has_options else set())
    if missing := needed - set(task.fields):
        raise ValueError(f"fields lack {', '.join(sorted(missing))}")
    _check_answers(task)


def _check_answers(task) -> None:
    """Raises: ValueError: questions without choices, or an answer that is told in no known way."""
    if "options" not in task.fields and not all("choices" in how for how in task.kinds.values()):
        raise ValueError("fields have no options: every kind needs choices")
    columns = task.fields.get("options", "options")
    columns = columns if isinstance(columns, str) else columns[-1]
    if unknown := set(places_in(columns)) - {"number", "letter"}:
        raise ValueError(f"options {columns!r}: {', '.join(unknown)} is neither number nor letter")
    for how in (task.fields, *task.kinds.values()):
        if "answer" in how and (len(how["answer"]) != 1 or set(how["answer"]) - set(ANSWERS)):
            raise ValueError(f"an answer is told in one of these ways, and no other: {', '.join(ANSWERS)}")
    for form in task.forms.values():
        needed = {"history", "earlier"} if any("{history}" in text for text in form.prompts.values()) else set()
        if missing := needed - set(form.prompts):
            raise ValueError(f"the form {form.name} has no prompt {', '.join(sorted(missing))}")
