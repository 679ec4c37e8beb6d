"""What a stream without end keeps and forgets, second by second, and where the rest stands.

The sessions, caches, rules of forgetting and positions are those that models run with; only the model is a blank one.
A second has few tokens, so that pictures and tables read well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import torch

from swwatch.data.turns.prompt import Turns
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask, Order, Step
from swwatch.engine.trace import Said, Spoken
from swwatch.engine.turns import TurnSession
from swwatch.model.dummy import MARKUP, DummyModel, DummyTokenizer, ScriptedChooser
from swwatch.policies.choose import Greedy
from swwatch.policies.keep import Keep, Window
from swwatch.policies.speak import WaitK
from swwatch.rules.layout import Kind, Layout
from swwatch.rules.schedule import seconds_of_step
from swwatch.rules.spans import Part, Span
from swwatch.rules.systems import SYSTEMS
from swwatch.rules.variants import get
from swwatch.rules.visibility import SAID, WATCHED

FIRST_WORD = 1000  # ids of words from here on, each its own, so that it is known when a word was said
MARKS = (Part.HEAD, Part.LABEL, Part.VISION, Part.TAIL, Part.HEADER, Part.CLOSE)


@dataclass(frozen=True)
class TokenRun:
    """Tokens that follow one another in what is kept.

    Attributes:
        what: "prompt", "previous", "marks", "query", "video" or "words".
        seconds: of each token, that of its video or when it was said, from 0; -1: of none.
        position_ids: (3, L).
    """

    what: str
    seconds: tuple[int, ...]
    position_ids: torch.Tensor

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass
class Story:
    """A stream up to a moment.

    Attributes:
        title: what was streamed, in a line.
        now: seconds -> what was kept when so many were over.
        words: said in a second.
        first: position of the first word, where words have an axis of their own; else 0.
        num_fed: tokens ever fed to the model; largest: position had nothing gone.
    """

    title: str
    words: int
    first: int = 0
    now: dict[int, list[TokenRun]] = field(default_factory=dict)
    num_fed: int = 0
    largest: int = 0

    @property
    def final_runs(self) -> list[TokenRun]:
        """At the end."""
        return self.now[max(self.now)]


@dataclass
class Seconds:
    """A source of blank seconds that are all there."""

    rows: int
    columns: int
    taken: int = 0
    ended: bool = False

    def poll(self) -> Step:
        self.taken += 1
        grid = torch.tensor([[1, self.rows, self.columns]])
        return Step(torch.zeros(self.rows * self.columns, 1), grid, self.taken - seconds_of_step() / 2, False)

    def wait(self, timeout_s: float | None = None) -> None:
        raise AssertionError("the next second is always there")

    def orders(self) -> list[Ask | Order]:
        return []


def turns_story(system: str, seconds: int, grid: tuple[int, int], words: int, keep=None, policy=None) -> Story:
    """A stream in chat turns.

    Args:
        system: a row of rules.systems.
        grid: merged rows and columns of a second's patch.
        words: said in a turn, before " ..." and <|im_end|>.
        keep, policy: as for TurnSession; by default the system's own.
    """
    row = SYSTEMS[system]

    def open_session(keep: Keep | str | None, policy: str | None) -> TurnSession:
        turns = Turns(DummyTokenizer(), row)
        model = DummyModel(
            system, t_per_step=1 if system == "livecc" else 2, vocab_size=FIRST_WORD + words * seconds + 1
        )
        options = {"keep": keep, "policy": policy}
        session = TurnSession(model, turns, choose=Greedy(1.0, words + 2), **options)
        session.chooser = ScriptedChooser(
            session.chooser, words + 2, (*turns.ellipsis, turns.im_end), count(FIRST_WORD)
        )
        return session

    session = open_session(keep, policy)
    how = f"{session.keep.name}, {session.policy.name}"
    story = Story(f"{system} ({how}) after {seconds} s", words)
    said_at: list[int] = []  # of each word, in order
    for event in moments(session, Seconds(*grid), seconds):
        said_at += [int(event.start_s)] * words
        story.now[round(event.end_s)] = list(_turn_runs(session, said_at))
    story.num_fed = session.num_fed
    whole = open_session("all", "mrope_full" if session.policy.compact else session.policy.name)
    *_, _ = moments(whole, Seconds(*grid), seconds)
    story.largest = int(whole.cache.tokens[WATCHED].position_ids.max())
    return story


def endless_story(variant: str, seconds: int, grid: tuple[int, int], words: int, prompt: int, window: Window) -> Story:
    """A parallel variant.

    Args:
        words: said after each second.
        prompt: tokens before the video.
        window: what is kept.
    """

    def open_session(window: Window | None) -> Session:
        return Session(
            DummyModel(variant, WaitK(words)),
            [MARKUP.im_end] * prompt,
            choose=Greedy(max_new_tokens=None),
            keep=window,
        )

    session = open_session(window)
    first = get(variant).positions.first
    story = Story(f"{variant} after {seconds} s, window of {window.vision_s} s", words, first)
    for event in moments(session, Seconds(*grid), seconds, words):
        parts = [session.cache.tokens[SAID]] if SAID in session.cache.tokens else []
        said = Layout.cat([*parts, *(rows for _, rows in session.pending)])
        story.now[event.step + 1] = [*_layout_runs(session.cache.tokens[WATCHED]), *_layout_runs(said)]
    story.num_fed = session.cache.num_fed
    whole = open_session(None)
    *_, _ = moments(whole, Seconds(*grid), seconds, words)
    story.largest = max(int(tokens.position_ids.max()) for tokens in whole.cache.tokens.values())
    return story


def moments(session, source: Seconds, seconds: int, words: int = 0) -> Iterator:
    """What was told at the end of each turn, or with the last word of each second."""
    spoken = 0
    for event in drive(session.model, session.run(source)):
        if isinstance(event, Said):
            yield event
            if event.end_s >= seconds:
                return
        elif isinstance(event, Spoken) and words:
            spoken += 1
            if spoken == words * (event.step + 1):
                yield event
                if event.step + 1 >= seconds:
                    return


def _turn_runs(session: TurnSession, said_at: list[int]) -> Iterator[TokenRun]:
    """The context, with the positions of what is in the cache and of what will be fed next."""
    cached = session.cache.tokens[WATCHED].position_ids
    where, place = torch.cat([cached, *(rows.position_ids for _, rows in session.pending)], dim=1), 0
    for span in session.context:
        yield from _split(span, where[:, place : place + len(span)], said_at)
        place += len(span)


def _split(span: Span, where: torch.Tensor, said_at: list[int]) -> Iterator[TokenRun]:
    """A span as runs: what follows the words of an answer is marks."""
    when = (int(span.start_s),) * len(span)
    if span.part is Part.VIDEO:  # a first turn may have several seconds
        patch = len(span) // span.grid[0]
        when = tuple(int(span.start_s) + i // patch for i in range(len(span)))
        yield TokenRun("video", when, where)
    elif span.part in (Part.ANSWER, Part.PREVIOUS):
        words = sum(token >= FIRST_WORD for token in span.ids)
        said = tuple(said_at[token - FIRST_WORD] for token in span.ids[:words])
        yield TokenRun("previous" if span.part is Part.PREVIOUS else "words", said, where[:, :words])
        yield TokenRun("marks", when[words:], where[:, words:])
    else:
        what = "marks" if span.part in MARKS else "query" if span.part is Part.QUERY else "prompt"
        yield TokenRun(what, (-1,) * len(span) if what == "prompt" else when, where)


def _layout_runs(tokens: Layout) -> Iterator[TokenRun]:
    """Tokens of one kind and step."""
    names = {Kind.VIDEO: "video", Kind.ANSWER: "words", Kind.PROMPT: "prompt"}
    what = [names.get(kind, "marks") for kind in tokens.kind]
    steps = [-1 if name == "prompt" else step for name, step in zip(what, tokens.step.tolist(), strict=True)]
    begin = 0
    for i in range(1, len(what) + 1):
        if i == len(what) or (what[i], steps[i]) != (what[begin], steps[begin]):
            yield TokenRun(what[begin], tuple(steps[begin:i]), tokens.position_ids[:, begin:i])
            begin = i


def shares(runs: list[TokenRun], seconds: int, of: int, what: tuple[str, ...]) -> list[float]:
    """Of each second, which share of its `of` tokens is kept."""
    counts = [0] * seconds
    for run in runs:
        if run.what in what:
            for second in run.seconds:
                counts[second] += 1
    return [min(1.0, value / of) for value in counts]
