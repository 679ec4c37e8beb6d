"""The tasks: a YAML file each in configs/tasks, and what makes questions of its rows.

What a key of such a file means is said at `Task` and `Form`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from swwatch.config import near, read_yaml
from swwatch.errors import UserError
from swwatch.evaluate.quiz.items import ANSWERS, LETTERS, Item, Moment, lettered, letters_of
from swwatch.evaluate.quiz.readers import READERS, SUBTITLES
from swwatch.evaluate.quiz.shapes import TASK, check_task, template
from swwatch.evaluate.rows import FileRow, places_in
from swwatch.evaluate.tasks import check, form_of, names_of, read_task, version_of

ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
TASKS = names_of("quiz")


@dataclass(frozen=True)
class Form:
    """How a task is asked: a version of its prompts, and how answers are taken.

    Attributes:
        name: of the version.
        prompts: name -> text with places {field} of the row, {options}; `subtitled` has {subtitles} and {question};
            {history} is `history`, then `earlier` for every question before, of which there may be none.
        options: what stands between two options.
        beginning: of the answer, which the model is given where it chooses.
        context: what choices are tokenized behind: ": " where a space comes before them, else a line end.
        reply: so many tokens are said and read; 0: nothing is, the best of the choices' logits is the answer.
        scorer: of replies, the benchmark's own, beside the strict one; of scorers.SCORERS.
        whole_seconds: what is shown ends at the next whole second.
        starts: kind -> the field that tells where what is shown begins.
        max_frames: of longer videos so many are taken of the grid, evenly spread.
    """

    name: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    options: str = "\n"
    beginning: str = "Answer:"
    context: str = ": "
    reply: int = 0
    scorer: str = "strict"
    whole_seconds: bool = False
    starts: Mapping[str, str] = field(default_factory=dict)
    max_frames: int = 480

    @property
    def version(self) -> str:
        """Its name, and eight digits that differ wherever a word of it does."""
        return version_of(self, Form(self.name))


@dataclass(frozen=True)
class Task:
    """What a YAML file says.

    Attributes:
        title, source: of the benchmark: its name, and whence fields and wording are known.
        reader: files -> flat rows, of readers.READERS.
        fields: key, video, question, options, group, start, end, tags: the field or fields of a row, the first that is
            there counts; a template ("{id}/{number}") makes one of several. answer: {how it is told: field}, see
            items.ANSWERS. marks: fields that are 1 where a question belongs to the tag of that name.
        places: where a video may lie, as templates; {id} is `video`, {ending} each of ENDINGS.
        forms: name -> Form, or the task that has it; the first is asked by default.
        averages: name -> "questions" (every question counts the same), "groups" (every group does) or modes (every
            mode does, and in it every group). All are told, the first is the accuracy.
        modes: mode -> its groups; there are no others then.
        kind, kinds: the field that tells kinds of rows apart, and what differs in some: `ask` (the prompt's name),
            `choices`, `answer`, and of moments `word`.
        parts: of a reader of several files.
        moment: of questions about when: the fields `asked`, `due` and `last`, `after` (seconds behind `due` up
            to which it goes on, at least), `tolerance_s`, `output` (the field with what must be said).
        instructions: of these, prompt's name -> what a model that speaks by itself is told.
        refused: group -> why its questions cannot be asked here.
        subtitles: how those of a row are read, of readers.SUBTITLES; None: there are none.
    """

    name: str
    title: str
    source: str
    reader: str
    fields: Mapping
    places: Sequence[str]
    forms: Mapping[str, Form]
    averages: Mapping[str, str | Sequence[str]]
    modes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kind: str | None = None
    kinds: Mapping[str, Mapping] = field(default_factory=dict)
    parts: Mapping[str, Mapping] = field(default_factory=dict)
    moment: Mapping = field(default_factory=dict)
    instructions: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    subtitles: str | None = None

    def form(self, wording: str | None = None) -> Form:
        """How it is asked.

        Args:
            wording: a name of `forms`, or a YAML file with prompts in place of those of the first.
        Raises:
            UserError: no such form, or a prompt that lacks its places.
        """
        return form_of(self.name, self.forms, wording, self._worded)

    def _worded(self, path: Path, first: Form) -> Form:
        """The first form with a file's prompts."""
        prompts = read_yaml(path, "wording")
        for name, text in prompts.items():
            if name not in first.prompts:
                raise UserError(f"{path}: {self.name} asks no {name}{near(str(name), first.prompts) or '.'}")
            try:
                check(text, template, name)
            except ValueError as error:
                raise UserError(f"{path}: {error}") from error
            lacking = [place for place in places_in(first.prompts[name]) if f"{{{place}}}" not in str(text)]
            if lacking:
                raise UserError(f"{path}: {name} lacks {' and '.join(f'{{{place}}}' for place in lacking)}")
        prompts = {name: str(prompts.get(name, text)) for name, text in first.prompts.items()}
        return replace(first, name=path.stem, prompts=prompts)

    def items(
        self, data: Path, form: Form | None = None, subtitles: Path | None = None, only: Sequence[str] = ()
    ) -> list[Item]:
        """All questions, in the order of the file.

        Args:
            only: of these groups alone.
        Raises:
            UserError: the file is none of this task, a question stands there twice, or cannot be asked here.
        """
        if subtitles is not None and self.subtitles is None:
            raise UserError(f"{self.name} has no subtitles: leave --subtitles out")
        if subtitles is not None and not subtitles.is_dir():
            raise UserError(f"there is no folder {subtitles}: --subtitles wants that of the subtitle files")
        form = form or self.form()
        items = [self._item(row, form, subtitles) for row in READERS[self.reader](data, self.parts)]
        groups = list(dict.fromkeys(item.group for item in items))
        for name in only:
            if name not in groups:
                raise UserError(f"{data} has no questions of {name!r}{near(name, groups) or '.'}")
        items = [item for item in items if not only or item.group in only]
        self._check_asked(data, items)
        return items

    def _check_asked(self, data: Path, items: list[Item]) -> None:
        for name, why in self.refused.items():
            if num := sum(item.group == name for item in items):
                left = list(dict.fromkeys(item.group for item in items if item.group not in self.refused))
                rest = f", or leave these out: --only {','.join(map(repr, left))}" if left else ""
                raise UserError(f"{data}: {num} of {len(items)} questions are of {name}: {why}{rest}")
        twice = [key for key, times in Counter(item.key for item in items).items() if times > 1]
        if twice:
            raise UserError(f"{data}: the question {twice[0]} stands there more than once")

    def _dialogue(self, row: FileRow) -> Item:
        key, video = (row.text(*_names(self.fields[name])) for name in ("key", "video"))
        rounds = tuple(row.values["rounds"])
        if not rounds:
            raise row.wrong("a dialogue without a question")
        where = {"places": tuple(self._places(row, video)), "end_s": max(one.end_s for one in rounds)}
        group = " ".join(_names(self.fields["group"]))  # one for all: the rows have none
        return Item(key, video, prompt="", choices=(), answer="", group=group, rounds=rounds, **where)

    def _item(self, row: FileRow, form: Form, subtitles: Path | None) -> Item:
        if "rounds" in row:
            return self._dialogue(row)
        kind = row.text(self.kind) if self.kind else ""
        how = self.kinds.get(kind, {})
        if self.moment and not how:
            raise row.wrong(f"{self.kind} {kind!r} is none of {self.title}'s")
        group, video = (row.text(*_names(self.fields[name])) for name in ("group", "video"))
        if self.modes and not any(group in groups for groups in self.modes.values()):
            raise row.wrong(f"{self.fields['group']} {group!r} is none of {self.title}'s")
        options = [] if "choices" in how else self._options(row)
        choices = tuple(how["choices"]) if "choices" in how else letters_of(row, options)
        shown = self._shown(row)
        if kind in form.starts:
            shown["start_s"] = row.number(form.starts[kind])
        if self.moment:
            shown["moment"] = moment = self._moment(row, form, how)
            shown |= {"end_s": moment.last_s, "answer": moment.output or moment.word}
        else:
            shown["answer"] = self._answer(row, how, choices, options)
            if form.whole_seconds and "end_s" in shown:
                shown["end_s"] = float(math.ceil(shown["end_s"]))
        return Item(
            key=row.text(*_names(self.fields["key"])),
            video=video,
            places=tuple(self._places(row, video)),
            prompt=self._prompt(row, form, how.get("ask", "question"), options, subtitles, video),
            choices=choices,
            group=group,
            tags=self._tags(row),
            **shown,
        )

    def _answer(self, row: FileRow, how: Mapping, choices: tuple[str, ...], options: list[str]) -> str:
        ((form, name),) = how.get("answer", self.fields["answer"]).items()
        return ANSWERS[form](row, name, choices, options)

    def _moment(self, row: FileRow, form: Form, how: Mapping) -> Moment:
        fields, name = self.moment, how.get("ask", "question")
        due_s, output = row.seconds(fields["due"]), row.text(fields["output"]) if "output" in fields else ""
        last_s = row.seconds(fields["last"]) if fields.get("last") in row else due_s
        word, then = how.get("word", "yes"), form.prompts.get("then")
        return Moment(
            asked_s=row.seconds(fields["asked"]),
            due_s=due_s,
            last_s=max(last_s, due_s + fields.get("after", 0)),
            tolerance_s=fields["tolerance_s"],
            word=row.text(word) if "{" in word else word,
            then="" if then is None else row.text(then),
            instruction=row.text(self.instructions[name]),
            output=output,
        )

    def _options(self, row: FileRow) -> list[str]:
        *lists, last = _names(self.fields["options"])
        if "{" not in last or any(name in row for name in lists):
            return row.texts(*lists, *([last] if "{" not in last else []))
        columns = [last.format(number=i, letter=letter) for i, letter in enumerate(LETTERS)]
        found = [row.text(name) for name in columns if name in row]
        return [option for option in found if option != "N/A"]

    def _prompt(
        self, row: FileRow, form: Form, name: str, options: list[str], subtitles: Path | None, video: str
    ) -> str:
        filled = row
        if "{options}" in form.prompts[name]:
            question = row.text(*_names(self.fields["question"]))
            filled = row.with_values(question=question, options=form.options.join(lettered(options)))
        if "{history}" in form.prompts[name]:
            filled = filled.with_values(history=self._history(row.values["earlier"], form))
        prompt = filled.text(form.prompts[name])
        if subtitles is None:
            return prompt
        said = SUBTITLES[self.subtitles](subtitles, row, video)
        return form.prompts["subtitled"].format(subtitles=said, question=prompt)

    def _history(self, earlier: Sequence[FileRow], form: Form) -> str:
        """The questions before, with their true answers; "" before the first."""
        rounds = [row.with_values(options=", ".join(lettered(self._options(row)))) for row in earlier]
        return form.prompts["history"] * bool(rounds) + "".join(row.text(form.prompts["earlier"]) for row in rounds)

    def _shown(self, row: FileRow) -> dict[str, float]:
        shown = {}
        for name in ("start", "end"):
            known = [field for field in _names(self.fields.get(name, ())) if field in row]
            if known:
                shown[f"{name}_s"] = row.seconds(known[0])
        if "frames_per_second" in row:
            shown["frames_per_second"] = row.number("frames_per_second")
        return shown

    def _places(self, row: FileRow, video: str) -> list[str]:
        known, found = row.with_values(id=video), []
        for place in self.places:
            endings = ENDINGS if "{ending}" in place else ("",)
            found += [known.with_values(ending=ending).fill(place) for ending in endings]
        return [place for place in found if place is not None]

    def _tags(self, row: FileRow) -> tuple[str, ...]:
        tags, marks = (_names(self.fields.get(name, ())) for name in ("tags", "marks"))
        texts = [row.text(name) for name in tags if name in row]
        return (*texts, *(name for name in marks if name in row and row.number(name) == 1))


def _names(names: str | Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names


@cache
def get(name: str) -> Task:
    """The task of this name, or of a YAML file.

    Raises:
        UserError: no such task, or its file is no task.
    """
    return read_task(name, Task, "quiz", _make)


def _make(name: str, content: dict) -> Task:
    check(content, TASK)
    forms = {
        name: get(form).forms[name] if isinstance(form, str) else Form(name, **form)
        for name, form in content.pop("forms").items()
    }
    task = Task(name=name, forms=forms, **content)
    check_task(task)
    return task
