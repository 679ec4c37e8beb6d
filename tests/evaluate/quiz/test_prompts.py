"""What is asked, word for word: golden prompts of every task and form, of the toy quiz.

A changed prompt is another measurement: whoever changes one on purpose records it anew, and the diff shows it:
    UPDATE_PROMPTS=1 python -m pytest tests/evaluate/quiz/test_prompts.py
"""

import json
import os
from pathlib import Path

import pytest

from swwatch.evaluate.quiz import tasks
from swwatch.evaluate.quiz.items import Item

GOLDEN = Path(__file__).parent / "prompts"
FORMS = [(name, form) for name in tasks.TASKS for form in tasks.get(name).forms]


def asked(name: str, form: str, data: Path) -> dict:
    """The first question of every group, and what surrounds it."""
    form = tasks.get(name).form(form)
    items = {item.group: item for item in reversed(tasks.get(name).items(data, form))}
    how = {"prompts": form.prompts} if any(item.rounds for item in items.values()) else {}
    how |= {"version": form.version, "reply": form.reply, "beginning": "" if form.reply else form.beginning}
    first = {item.group: _told(item) for item in items.values()}
    return how | {"asked": dict(sorted(first.items()))}


def _told(item: Item) -> dict:
    told = {"prompt": item.prompt, "choices": list(item.choices), "shown": [item.start_s, item.end_s]}
    told |= {"rounds": [one.question for one in item.rounds]} if item.rounds else {}
    if moment := item.moment:
        told |= {"word": moment.word, "then": moment.then, "unasked": moment.instruction, "output": moment.output}
    return told


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_what_is_asked_is_what_was_recorded(quiz, name, form):
    found, path = asked(name, form, quiz[name]), GOLDEN / f"{name}-{form}.json"
    if os.environ.get("UPDATE_PROMPTS"):
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_no_recorded_prompt_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {f"{name}-{form}" for name, form in FORMS}
