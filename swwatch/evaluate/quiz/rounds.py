"""Questions that are asked more than once: is it time yet, and one after another in a dialogue."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import Item, Moment
from swwatch.evaluate.quiz.tasks import Form
from swwatch.metrics.tables import as_markdown

NEVER, EARLY, IN_TIME, LATE = "never", "early", "in time", "late"
Ask = Callable[[Item], "Answered | UserError"]  # noqa: F821 - of asking, which is above


def ask_all(item: Item, ask: Ask, step_s: float, form: Form):
    """The answer to a question, asked as often as it must be; an error in the place of one ends it.

    Args:
        step_s: before so much of the video is over nothing is asked.
    """
    if item.rounds:
        return talk(item, ask, form)
    return ask(item) if item.moment is None else poll(item, item.moment, ask, step_s)


def talk(item: Item, ask: Ask, form: Form):
    """Ask the questions of a dialogue in order, each with what was asked and answered before it in front."""
    before, rounds, took_s = [], [], 0.0
    for one in item.rounds:
        history = "".join(form.prompts["earlier"].format(question=question, answer=said) for question, said in before)
        prompt = form.prompts["question"].format(
            history=form.prompts["history"] + history if history else "", question=one.question
        )
        got = ask(replace(item, rounds=(), prompt=prompt, choices=("No", "Yes"), end_s=one.end_s))
        if isinstance(got, UserError):
            return got
        before.append((one.question, got.said if item.own_history else one.answer))
        rounds.append({"question": one.question, "answer": one.answer, "result": got.said, "end_s": one.end_s})
        took_s += got.took_s or 0
    said = "\n".join(one["result"] for one in rounds)
    return replace(got, said=said, took_s=took_s, more={"rounds": rounds})


def poll(item: Item, moment: Moment, ask: Ask, step_s: float):
    """Ask every so often whether it is time and, once it is, what there is to say. Nothing later is looked at."""
    at_s, took_s, num_asked = moment.asked_s, 0.0, 0
    while True:
        at_s = min(max(at_s + moment.every_s, item.start_s + step_s), moment.last_s)
        got = ask(replace(item, end_s=at_s, moment=None))
        if isinstance(got, UserError):
            return got
        num_asked, took_s = num_asked + 1, took_s + (got.took_s or 0)
        is_time = says(got.said, moment.word)
        if is_time or at_s >= moment.last_s:
            break
    if is_time and moment.then:
        got = ask(replace(item, end_s=at_s, moment=None, prompt=moment.then))
        if isinstance(got, UserError):
            return got
        took_s += got.took_s or 0
    facts = timed(moment, at_s if is_time else None) | {"num_asked": num_asked}
    return replace(got, said=got.said if is_time else "", took_s=took_s, more=facts)


def timed(moment: Moment, said_s: float | None) -> dict:
    """What a row tells of a moment."""
    return {"asked_s": moment.asked_s, "due_s": moment.due_s, "last_s": moment.last_s, "said_s": said_s} | {
        "when": when(moment, said_s)
    }


def when(moment: Moment, said_s: float | None) -> str:
    """Whether something was said in time, up to the moment's tolerance before or behind the true one."""
    if said_s is None:
        return NEVER
    if abs(said_s - moment.due_s) <= moment.tolerance_s:
        return IN_TIME
    return EARLY if said_s < moment.due_s else LATE


def says(text: str, word: str) -> bool:
    """Whether a text says that it is time: the word or, where that is a count, a last number as large."""
    if not word.isdigit():
        return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None
    numbers = re.findall(r"\d+", text)
    return bool(numbers) and int(numbers[-1]) >= int(word)


def moments(rows: list[Mapping]) -> dict[str, dict]:
    """Group -> shares of what came never, early, in time and late, and the median of how late it came, in seconds."""
    groups = dict.fromkeys(row["group"] for row in rows if "when" in row)
    return {group: _moments([row for row in rows if row["group"] == group]) for group in groups}


def _moments(rows: list[Mapping]) -> dict:
    late_s = [row["said_s"] - row["due_s"] for row in rows if row["said_s"] is not None]
    shares = {name: sum(row["when"] == name for row in rows) / len(rows) for name in (NEVER, EARLY, IN_TIME, LATE)}
    return shares | {"median_late_s": median(late_s) if late_s else None, "num_questions": len(rows)}


def describe_moments(groups: Mapping[str, Mapping]) -> str:
    """As Markdown, percent and seconds."""
    lines = [("said, %", NEVER, EARLY, IN_TIME, LATE, "late by, s (median)", "moments")]
    for group, row in groups.items():
        shares = [f"{100 * row[name]:.1f}" for name in (NEVER, EARLY, IN_TIME, LATE)]
        late = row["median_late_s"]
        lines.append((group, *shares, "-" if late is None else f"{late:+.1f}", str(row["num_questions"])))
    return as_markdown(lines)
