"""The benchmarks of commentary: a YAML file each in configs/tasks, and how they ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from swwatch.config import near, read_yaml
from swwatch.errors import UserError
from swwatch.evaluate import tasks

TASKS = tasks.names_of("commentary")
SHARE, RATE = "win share", "win rate"  # see match
GAMES, EVENTS = "games", "events"
ASKED = {GAMES: ("game",), EVENTS: ("expert", "titled", "before", "go_on")}  # reader -> the parts that it needs

GAME_KEYS = {"video", "words", "title", "start", "end"}  # of a task's fields
EVENT_KEYS = {"video", "video_id", "event_id", "begin", "end", "title", "previous", "reference"}
SHAPE = {
    **dict.fromkeys(("title", "source", "reader", "criterion", "average"), str),
    "fields": {"*": str},
    "segments": {"*": float},
    "recipes": {"*": {"choose": str, "first_s": float}},
    "forms": {"*": {"prompts": {"*": str}, "apart": str, "go_on_alone": bool}},
}


@dataclass(frozen=True)
class Wording:
    """What is asked about a game, and the parts of the question about an event: a form of a task.

    Attributes:
        apart: what stands between the parts.
        go_on_alone: the last part is said even where nothing was said before.
    """

    name: str = ""
    game: str = ""
    expert: str = ""
    titled: str = ""
    before: str = ""
    go_on: str = ""
    apart: str = " "
    go_on_alone: bool = True

    def __post_init__(self):
        self.titled.format(title=""), self.before.format(previous="")
        if not isinstance(self.apart, str) or not isinstance(self.go_on_alone, bool):
            raise TypeError("apart is a text, go_on_alone true or false")

    @property
    def version(self) -> str:
        return tasks.version_of(self, Wording(self.name))

    def facts(self) -> dict:
        """What the answers depend on; a run of before knows nothing of what is as it was then."""
        plain = vars(Wording(self.name))
        return {name: value for name, value in vars(self).items() if value != plain[name]}


@dataclass(frozen=True)
class CommentaryTask:
    """What a YAML file says.

    Attributes:
        title, source: of the benchmark: its name, and whence fields and wording are known.
        reader: games (whole ones, one stream each) or events (each alone).
        fields: what a row's fields are called: of games video, words, title, start, end; of events video, video_id,
            event_id, begin, end, title, previous, reference.
        criterion: of the rubric, what is compared by default.
        average: win share (the judge must choose) or win rate (ties are losses), see match.
        forms: name -> Wording; the first is asked by default.
        segments: of games, in seconds: `begin_s`, from where on is commented, `length_s` of what is compared, and
            `least_words` of a human in it.
        recipes: system -> what differs from live streaming in the benchmark's own run: `choose`, a policy, and
            `first_s`, seconds of the first turn.
    """

    name: str
    title: str
    source: str
    reader: str
    fields: Mapping[str, str]
    criterion: str
    average: str
    forms: Mapping[str, Wording]
    segments: Mapping[str, float] = field(default_factory=dict)
    recipes: Mapping[str, Mapping] = field(default_factory=dict)

    @property
    def of_games(self) -> bool:
        return self.reader == GAMES

    @property
    def has_ties(self) -> bool:
        return self.average == RATE

    def form(self, wording: str | None = None) -> Wording:
        """How it is asked.

        Args:
            wording: a name of `forms`, or a YAML file with `prompts` in place of those of the first.
        Raises:
            UserError: no such form, or a file that is none.
        """
        return tasks.form_of(self.name, self.forms, wording, self._worded)

    def _worded(self, path: Path, first: Wording) -> Wording:
        """The first form with a file's prompts."""
        prompts = read_yaml(path, "wording").get("prompts")
        try:
            known = set(vars(first)) - {"name"}
            if unknown := set(prompts) - known:
                raise ValueError(f"it asks no {min(unknown)}{near(min(unknown), known)}")
            own = {name: text for name, text in prompts.items() if name in ASKED[self.reader]}
            how = {name: prompts[name] for name in ("apart", "go_on_alone") if name in prompts}
            return replace(first, name=path.stem, **_stripped(own), **how)
        except (ValueError, LookupError, TypeError) as error:
            shown = f"configs/tasks/{self.name}.yaml"
            raise UserError(f"{path}: its prompts cannot be used ({error}); {shown} shows them") from error


def _stripped(prompts: Mapping[str, str]) -> dict[str, str]:
    return {name: str(text).strip() for name, text in prompts.items()}


@cache
def get(name: str) -> CommentaryTask:
    """The task of this name, or of a YAML file. Raises: UserError: see tasks.read_task."""
    return tasks.read_task(name, CommentaryTask, "commentary", _make)


def _make(name: str, content: dict) -> CommentaryTask:
    tasks.check(content, SHAPE)
    forms = {form: Wording(form, **_stripped(how.pop("prompts")), **how) for form, how in content.pop("forms").items()}
    task = CommentaryTask(name, forms=forms, **content)
    if task.reader not in ASKED or task.average not in (SHARE, RATE):
        raise ValueError(f"reader is {' or '.join(ASKED)}, average {SHARE} or {RATE}")
    for form in forms.values():
        if missing := [part for part in ASKED[task.reader] if not getattr(form, part)]:
            raise ValueError(f"the form {form.name} has no prompt {', '.join(missing)}")
    lacking = (GAME_KEYS if task.of_games else EVENT_KEYS) - set(task.fields)
    if task.of_games:
        lacking |= {"begin_s", "length_s", "least_words"} - set(task.segments)
    if lacking:
        raise ValueError(f"fields or segments lack {', '.join(sorted(lacking))}")
    if task.of_games and not (task.segments["length_s"] > 0 and task.segments["begin_s"] >= 0):
        raise ValueError("segments: length_s is above 0, begin_s not below it")
    return task
