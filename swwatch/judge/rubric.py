"""What the judge is asked, and how its reply is read."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from swwatch.config import read_yaml
from swwatch.errors import UserError

GRADES = (1, 2, 3, 4, 5)
FIRST, SECOND, TIE = "first", "second", "tie"
LONGEST_REPLY = 20_000  # characters that are searched for JSON
_DECODER = json.JSONDecoder()


class Malformed(Exception):
    """A reply that holds no usable verdict."""


@dataclass(frozen=True)
class Criterion:
    """One thing to judge by.

    Attributes:
        grades: grade -> what it means; {} where it is only for comparing, or for dialogues.
        scales: of dialogues, scale -> what it is about; see judge.scales.
        system: what the judge is told first, in place of the rubric's words.
    """

    name: str
    about: str
    grades: dict[int, str]
    needs_reference: bool = False
    scales: dict[str, str] = field(default_factory=dict)
    system: str = ""


@dataclass(frozen=True)
class Rubric:
    """The words of the judge's task, from configs/rubric.yaml."""

    system: str
    criteria: dict[str, Criterion]

    def get(self, name: str) -> Criterion:
        """The criterion of that name.

        Raises:
            UserError: there is none.
        """
        if name not in self.criteria:
            raise UserError(f"the rubric has no criterion {name!r}; it has {', '.join(self.criteria)}")
        return self.criteria[name]


def load_rubric(path: Path) -> Rubric:
    """Read a rubric.

    Raises:
        UserError: unreadable, or not in the form of configs/rubric.yaml.
    """
    content = read_yaml(path, "rubric", "a rubric")
    try:
        criteria = {name: _criterion(name, **fields) for name, fields in content["criteria"].items()}
        return Rubric(str(content["system"]).strip(), criteria)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a rubric ({error}); configs/rubric.yaml shows the form") from error


def _criterion(name: str, *, about: str, grades=None, scales=None, system="", **more) -> Criterion:
    scales = {str(scale): str(text).strip() for scale, text in (scales or {}).items()}
    if grades and set(grades) != set(GRADES):
        raise ValueError(f"{name}: grades {GRADES[0]} to {GRADES[-1]} are wanted, not {list(grades)}")
    grades = {int(grade): str(text) for grade, text in (grades or {}).items()}
    return Criterion(name, about.strip(), grades, scales=scales, system=system.strip(), **more)


def grade_messages(rubric: Rubric, criterion: Criterion, caption: str) -> list[dict]:
    """The question for a grade of one caption, which stands there alone.

    Raises:
        UserError: the criterion has no grades, or needs a reference.
    """
    if not criterion.grades or criterion.needs_reference:
        raise UserError(f"criterion {criterion.name!r} is for comparing two runs: give --against")
    scale = "\n".join(f"{grade}: {criterion.grades[grade]}" for grade in sorted(criterion.grades, reverse=True))
    question = (
        f"{criterion.about}\n\nGrades:\n{scale}\n\n{_tagged('text', caption)}\n\n"
        'Reply with one JSON object and nothing else: {"score": a whole number from 1 to 5, "why": one short sentence}'
    )
    return _messages(rubric, criterion, question)


def compare_messages(
    rubric: Rubric, criterion: Criterion, first: str, second: str, reference: str, *, ties: bool = True
) -> list[dict]:
    """The question which of two captions is better; the reference is shown only where the criterion needs it.

    Args:
        ties: "tie" is an answer; else the judge has to choose.
    """
    choices = '"first", "second" or "tie"' if ties else '"first" or "second"'
    shown = [_tagged("reference", reference)] if criterion.needs_reference else []
    shown += [_tagged("first", first), _tagged("second", second)]
    question = (
        f"{criterion.about}\n\nTwo texts were written about the same video. Which one is better in this sense? The "
        "order in which they stand means nothing.\n\n" + "\n\n".join(shown) + "\n\n"
        f'Reply with one JSON object and nothing else: {{"better": {choices}, "why": one short sentence}}'
    )
    return _messages(rubric, criterion, question)


def ask_again(messages: list[dict], problem: str, attempt: int) -> list[dict]:
    """The same question with a word on why the last reply could not be used."""
    *before, last = messages
    note = f"Request {attempt + 1}: the reply before this could not be used, {problem}. Reply with the object alone."
    return [*before, {**last, "content": f"{last['content']}\n\n({note})"}]


def fingerprint(messages: list[dict]) -> str:
    """SHA-256 of a question about placeholders: equal where the judge is told the same."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode("ascii")).hexdigest()


def read_grade(reply: str) -> tuple[int, str]:
    """(grade, reason) of a reply.

    A code fence, prose or thoughts around the object do no harm; 4.0 and "4" say 4.

    Raises:
        Malformed: no JSON object with a score, several that differ, or a score that is no whole number from 1 to 5.
    """
    score, why = _read(reply, "score")
    if isinstance(score, str) and re.fullmatch(r"\s*[0-9]+(\.0+)?\s*", score):
        score = float(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or score not in GRADES:
        raise Malformed(f"score {_short(score)} is no whole number from 1 to 5")
    return int(score), why


def read_choice(reply: str, *, ties: bool = True) -> tuple[str, str]:
    """(first, second or, with `ties`, tie; reason) of a reply.

    Raises:
        Malformed: no JSON object with `better`, several that differ, or another word.
    """
    better, why = _read(reply, "better")
    word = better.strip().lower() if isinstance(better, str) else better
    words = (FIRST, SECOND, TIE) if ties else (FIRST, SECOND)
    if word not in words:
        raise Malformed(f"better {_short(better)} is none of {', '.join(words)}")
    return word, why


def request(rubric: Rubric, criterion: Criterion, shown: dict[str, str], task: str, reply: str) -> list[dict]:
    """A question: what it is about, what is asked, what is shown between tags, and the form of the reply."""
    tagged = "\n\n".join(_tagged(tag, text) for tag, text in shown.items())
    return _messages(rubric, criterion, f"{criterion.about}\n\n{task}\n\n{tagged}\n\n{reply}")


def objects_in(reply: str) -> list[dict]:
    """The JSON objects of a reply, behind its thoughts."""
    return _objects(reply.rsplit("</think>", 1)[-1])


def _read(reply: str, name: str) -> tuple[object, str]:
    objects = [found for found in objects_in(reply) if name in found]
    if not objects:
        raise Malformed(f"it holds no JSON object with {name!r}" if reply.strip() else "it is empty")
    if any(found[name] != objects[0][name] for found in objects[1:]):
        raise Malformed(f"it holds several objects that differ in {name!r}")
    why = objects[-1].get("why")
    return objects[-1][name], why[:1000] if isinstance(why, str) else ""


def _objects(text: str) -> list[dict]:
    """All JSON objects in a text, outermost only."""
    text, found, at = text[:LONGEST_REPLY], [], 0
    while (start := text.find("{", at)) >= 0:
        try:
            value, at = _DECODER.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            at = start + 1
    return found


def _messages(rubric: Rubric, criterion: Criterion, question: str) -> list[dict]:
    return [{"role": "system", "content": criterion.system or rubric.system}, {"role": "user", "content": question}]


def _tagged(tag: str, text: str) -> str:
    # a lone surrogate, which JSON may smuggle in, is no text and many servers reject it
    return f"<{tag}>\n{text.strip().encode('utf-8', 'replace').decode('utf-8')}\n</{tag}>"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
