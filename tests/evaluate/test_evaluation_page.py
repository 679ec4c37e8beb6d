"""docs/evaluation.md tells of every task what exactly is measured."""

import re
from pathlib import Path

import pytest

from swwatch.evaluate.commentary import tasks as commentary
from swwatch.evaluate.quiz import tasks as quiz

PAGE = Path(__file__).parents[2] / "docs/evaluation.md"
ROWS = ["asked", "file", "shown", "prompt", "scored", "refused", "command", "traps"]
QUIZ = [quiz.get(name) for name in quiz.TASKS]
COMMENTARY = [commentary.get(name) for name in commentary.TASKS]


@pytest.fixture(scope="module")
def blocks() -> dict[str, dict[str, str]]:
    """Task -> the rows of its block."""
    found = {}
    for part in re.split(r"^#+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        head, _, body = part.partition("\n")
        rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", body, re.MULTILINE))
        found |= {name: rows for name in re.findall(r"`([\w-]+)`", head)}
    return found


@pytest.mark.parametrize("task", QUIZ + COMMENTARY, ids=lambda task: task.name)
def test_every_task_has_a_block_with_all_rows_and_the_versions_of_its_prompts(blocks, task):
    rows = blocks[task.name]
    assert list(rows) == ROWS and all(rows.values())
    for form in task.forms.values():
        assert f"`{form.version}`" in rows["prompt"]


@pytest.mark.parametrize("task", QUIZ, ids=lambda task: task.name)
def test_averages_and_refusals_of_questions_are_told_by_their_names(blocks, task):
    rows = blocks[task.name]
    assert all(average in rows["scored"] for average in task.averages)
    assert all(group in rows["refused"] for group, why in task.refused.items() if "give the task" not in why)


@pytest.mark.parametrize("task", COMMENTARY, ids=lambda task: task.name)
def test_figures_and_criteria_of_commentary_are_told_by_their_names(blocks, task):
    assert task.average in blocks[task.name]["scored"] and task.criterion in blocks[task.name]["scored"]
