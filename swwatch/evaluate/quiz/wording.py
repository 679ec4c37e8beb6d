"""The wording of questions, from configs/quiz.yaml."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swwatch.config import read_yaml
from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import lettered
from swwatch.paths import CONFIGS

FIELDS = {"question": "{question} {options}", "subtitled": "{subtitles} {question}", "count": "{activity}"}
FIELDS |= {"step": "{step}", "ready": "{question}"}


@dataclass(frozen=True)
class Wording:
    """Texts with the places {…} that FIELDS names.

    Attributes:
        question: a question and its options.
        subtitled: subtitles before such a question.
        count, step, ready: of OVO-Bench's forward tasks REC, SSR and CRR.
    """

    question: str
    subtitled: str
    count: str
    step: str
    ready: str

    def ask(self, question: str, options: list[str]) -> str:
        return self.question.format(question=question, options="\n".join(lettered(options)))


@cache
def read_wording(path: Path = CONFIGS / "quiz.yaml") -> Wording:
    """Raises:
    UserError: the file is missing, or a text lacks its places.
    """
    found = read_yaml(path, "wording")
    if found.keys() != FIELDS.keys():
        raise UserError(f"{path}: need the keys {', '.join(FIELDS)}")
    for name, places in FIELDS.items():
        lacking = [place for place in places.split() if place not in str(found[name])]
        if lacking:
            raise UserError(f"{path}: {name} lacks {' and '.join(lacking)}")
    return Wording(**{name: str(text) for name, text in found.items()})
