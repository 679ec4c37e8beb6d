"""What models and the judge are told, word for word: golden prompts of every benchmark of commentary and form.

A changed prompt is another measurement: whoever changes one on purpose records it anew, and the diff shows it:
    UPDATE_PROMPTS=1 python -m pytest tests/evaluate/commentary/test_commentary_prompts.py
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from swwatch.errors import UserError
from swwatch.evaluate.commentary import tasks
from swwatch.evaluate.commentary.events import CommentaryEvent, ask
from swwatch.evaluate.judge.settings import JudgeSettings
from swwatch.judge.rubric import compare_messages, load_rubric
from swwatch.rules.systems import SYSTEMS

GOLDEN = Path(__file__).parent / "prompts"
FORMS = [(name, form) for name in tasks.TASKS for form in tasks.get(name).forms]
WITH, WITHOUT = (
    CommentaryEvent("v.mp4", "v", "0", 5, 11, *told, "they said") for told in (("A match", "they begin"), ("", ""))
)


def asked(task: tasks.CommentaryTask, form: tasks.Wording) -> dict:
    """What is asked about a game, or about two events."""
    if task.of_games:
        return {"query": form.game}
    told = {f"{n}, base model": ask(WITH, SYSTEMS[n], form, True) for n in ("livecc", "streamingvlm")}
    for name in ("livecc", "streamingvlm"):
        told |= {name: ask(WITH, SYSTEMS[name], form), f"{name}, nothing before": ask(WITHOUT, SYSTEMS[name], form)}
    return told


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_what_is_asked_is_what_was_recorded(name, form):
    task, rubric = tasks.get(name), load_rubric(JudgeSettings.rubric)
    told = ("what A said", "what B said", "what the human said")
    judged = compare_messages(rubric, rubric.get(task.criterion), *told, ties=task.has_ties)
    found = {"version": task.form(form).version, "asked": asked(task, task.form(form)), "judge": judged}
    path = GOLDEN / f"{name}-{form}.json"
    if os.environ.get("UPDATE_PROMPTS"):
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


def test_no_recorded_prompt_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {f"{name}-{form}" for name, form in FORMS}


def test_a_file_has_parts_in_place_of_the_tasks_and_another_version(tmp_path):
    path, own = tmp_path / "mine.yaml", tasks.get("livesports-cc").form()
    path.write_text(yaml.safe_dump({"prompts": {"go_on": "Go on.", "apart": "\n", "game": "is not of events"}}))
    mine = tasks.get("livesports-cc").form(str(path))
    assert (mine.go_on, mine.apart, mine.expert, mine.game) == ("Go on.", "\n", own.expert, "")
    assert mine.version.startswith("mine-") and mine.version[-8:] != own.version[-8:]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prompts: {goon: x}", "it asks no goon.*go_on.*livesports-cc.yaml shows them"),
        ("prompts: {titled: '{name}'}", "cannot be used"),
        ("prompts: {apart: 3}", "apart is a text"),
        ("{}", "cannot be used"),
    ],
)
def test_a_file_that_is_no_wording_is_told(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        tasks.get("livesports-cc").form(str(path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"reader": "songs"}, "reader is games or events"),
        ({"segments": {"begin_s": 0}}, "fields or segments lack least_words, length_s"),
        ({"forms": {"own": {"prompts": {"expert": "x"}}}}, "the form own has no prompt game"),
        ({"forms": {"own": {}}}, "is no task"),
        ({"fields": "x"}, "fields: NAME: VALUE is wanted"),
        ({"reader": "events"}, "has no prompt expert, titled, before, go_on"),
        ({"program": "quiz"}, "is a task of `swwatch quiz`: here are inf-streams, livesports-cc"),
    ],
)
def test_a_task_of_the_users_own_is_read_and_checked(tmp_path, change, told):
    from swwatch.evaluate.tasks import FOLDER

    whole = yaml.safe_load((FOLDER / "inf-streams.yaml").read_text(encoding="utf-8"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(whole))
    assert tasks.get(str(tmp_path / "mine.yaml")).form() == tasks.get("inf-streams").form()
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(whole | change))
    with pytest.raises(UserError, match=told):
        tasks.get(str(tmp_path / "bad.yaml"))
    with pytest.raises(UserError, match="inf-streams is a task of `swwatch commentary`"):
        from swwatch.evaluate.quiz import tasks as of_quiz

        of_quiz.get("inf-streams")
