"""One policy on one clip: a narration, or questions in mid-stream; what came of it and what it cost."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from swwatch.bench.stopwatch import TimedModel
from swwatch.data.prompt import ask_ids
from swwatch.data.video import iter_steps
from swwatch.engine.base import BaseSession
from swwatch.engine.door import open_stream
from swwatch.engine.requests import Run, drive
from swwatch.engine.source import Ask, Step, StepEncoder
from swwatch.engine.trace import Asked, Reflected, Said, SimulatedClock, Spoken, Watched
from swwatch.engine.turns import TurnSession
from swwatch.metrics.events import event_timing
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Token, watching
from swwatch.policies.see import parse_see
from swwatch.rules.layout import Kind
from swwatch.rules.spans import Part
from swwatch.rules.visibility import THOUGHT, WATCHED
from swwatch.toy import clips
from swwatch.toy.mentions import mentions
from swwatch.toy.questions import WATCH, questions_of
from swwatch.toy.scores import clip_counts, toy_events

CHOOSE = "greedy:1:max_new_tokens=none"
ANSWER = "greedy:1:max_new_tokens=6"  # of a question: a word and what ends a turn


class Cost:
    """What a session costs, noted after each step.

    Attributes:
        step_s: CPU seconds of each step, decoding and words included.
        fed: tokens that went through the LLM, those read anew included; cache, host: most bytes held at once, on the
            device and parked; video, thoughts: most tokens of these in view after a step.
    """

    def __init__(self, session: BaseSession, watch: TimedModel):
        self.session, self.watch = session, watch
        self.step_s: list[float] = []
        self.fed = self.cache = self.host = self.video = self.thoughts = 0
        self._last = time.process_time()

    def note(self) -> None:
        self.watch.stop()
        self.step_s.append(time.process_time() - self._last)
        self.fed += sum(work.watched + work.said for work in self.watch.work if work.what != "look")
        self.cache = max(self.cache, self.session.cache.nbytes)
        self.host = max(self.host, self.session.cache.parking.nbytes)
        video, thoughts = in_view(self.session)
        self.video, self.thoughts = max(self.video, video), max(self.thoughts, thoughts)
        self.skip()

    def skip(self) -> None:
        """What was done since the last note does not count."""
        self.watch.stop()
        self.watch.forget()
        self._last = time.process_time()

    def summary(self) -> dict:
        """Medians of the first and of the last fifth of the steps; the very first step prepares."""
        some = max(1, len(self.step_s) // 5)
        early, late = self.step_s[1 : some + 1] or self.step_s, self.step_s[-some:]
        times = {
            "early_s": statistics.median(early),
            "late_s": statistics.median(late),
            "mean_s": statistics.mean(self.step_s),
        }
        held = {"cache_bytes": self.cache, "host_bytes": self.host, "video": self.video, "thoughts": self.thoughts}
        return times | {"fed": self.fed, "steps": len(self.step_s)} | held


def in_view(session: BaseSession) -> tuple[int, int]:
    """Tokens of video, and of thoughts, that a session has in view."""
    if isinstance(session, TurnSession):
        video = sum(len(span) for span in session.context if span.part is Part.VIDEO)
        thoughts = sum(len(span) for span in session.context if span.part in (Part.PREVIOUS, Part.ANSWER))
        return video, thoughts * session.system.thinks
    held = session.cache.tokens
    return int(held[WATCHED].where(Kind.VIDEO).sum()), len(held[THOUGHT]) if THOUGHT in held else 0


@torch.no_grad()
def narrated(loaded: Loaded, record: dict, video: Path, seconds: int, **policies: str) -> dict:
    """A narration of the first seconds of a clip, which goes on behind them.

    Args:
        policies: see, keep or schedule; what is left out is the checkpoint's own.
    Returns:
        `counts`, of toy.scores.MEANING; `events`, of metrics.events; tokens that `arrived` and were `dropped`; what
        `Cost.summary` tells.
    """
    loaded = put_on(loaded, policies.get("see", "all"))
    how = {name: policies[name] for name in ("keep", "schedule") if name in policies}
    clock = SimulatedClock()
    session = open_stream(loaded, choose=CHOOSE, clock=clock, key=record["video_id"], **how)
    watch = TimedModel(loaded.model)
    cost, tokens, arrived, dropped = Cost(session, watch), [], 0, 0
    step_s = loaded.settings.step_s
    for event in drive(watch, watching(session, _steps(loaded, video), StepEncoder(loaded), loaded.tokenizer)):
        if isinstance(event, Watched):
            if event.step * step_s >= seconds:
                break
            cost.note()
            arrived += event.grid[0] * event.grid[1]
            dropped += event.num_dropped
        if isinstance(event, Token):
            tokens.append(event)
    events = [event for event in record["events"] if event["end_s"] <= seconds]
    pieces = [token.text for token in tokens]
    timed = event_timing([vars(token) for token in tokens], events, mentions(pieces, events))
    counts = clip_counts("".join(pieces), toy_events(record | {"events": events}))
    seen = {"arrived": arrived, "dropped": dropped, "said": len(tokens)}
    return {"counts": counts, "events": timed, **seen, **cost.summary()}


@torch.no_grad()
def ask_questions(
    loaded: Loaded,
    record: dict,
    video: Path,
    seconds: int,
    keep: str,
    think: str | None = None,
    choose: str = ANSWER,
    rounds: int = 1,
) -> dict:
    """The questions of a clip, asked in a stream that is silent else; each leaves no trace.

    Args:
        think: of a narration; None: it is no narration, but chat turns, which think where their system does.
        choose: how answers and thoughts are chosen.
        rounds: how often each kind is asked.
    Returns:
        `asked`: [kind, whether the answer was right, seconds since what it is about was over, CPU seconds from the
        question to the end of its answer] of each; tokens `recalled` by the KEEP policy, and `thought`; what
        `Cost.summary` tells.
    """
    form = {"question": ""} if think is None else {"question": WATCH, "think": think}
    session = open_stream(loaded, keep=keep, choose=choose, **form)
    watch, encode = TimedModel(loaded.model), StepEncoder(loaded)
    cost, answers, recalled, thought, waiting = Cost(session, watch), [], 0, 0, []
    list(drive(watch, session.begin()))
    questions = questions_of(record, seconds, rounds)
    for frames in islice(_steps(loaded, video), int(seconds / loaded.settings.step_s)):
        waiting.append(encode(frames))
        for question in questions:
            if question.at_s != waiting[-1].end_s:
                continue
            snapshot, begin = session.state(), time.process_time()
            ids = ask_ids(loaded.tokenizer, question.text, loaded.markup)
            said, came, end = _answer(loaded, drive(watch, _watch(session, waiting, [Ask(tuple(ids), question.text)])))
            session.restore(snapshot)
            answers.append([question.kind, said == question.word, question.at_s - question.since_s, end - begin])
            recalled += came
        cost.skip()
        if len(waiting) == (session.steps_due if isinstance(session, TurnSession) else 1):
            events = list(drive(watch, _watch(session, waiting)))
            thought += sum(isinstance(event, Reflected) for event in events)
            waiting = []
        cost.note()
    facts = {"asked": answers, "recalled": recalled, "thought": thought, **cost.summary()}
    return facts | ({"lag_s": statistics.mean(lag_s for *_, lag_s in answers)} if answers else {})


def _watch(session: BaseSession, steps: Sequence[Step], asks: Sequence[Ask] = ()) -> Run:
    """Watch steps that make a turn, or the one of a narration, with what is asked then."""
    session.asks += asks
    if isinstance(session, TurnSession):
        yield from session.turn(steps, silent=not asks)
        return
    (step,) = steps
    yield from session.watch(step.pixel_values, step.grid_thw, step.arrival_s)


def _answer(loaded: Loaded, events: Iterator) -> tuple[str, int, float]:
    """What is said to a question, how many tokens it recalled, and when it was over, by the CPU's clock."""
    ids, recalled, end = [], 0, time.process_time()
    for event in events:
        recalled += event.num_recalled if isinstance(event, Asked) else 0
        if isinstance(event, Spoken):
            ids, end = [*ids, event.token_id], time.process_time()
        if isinstance(event, Said) and not event.thought:  # of chat turns, without what ends them
            ids = list(event.words)
    return loaded.tokenizer.decode(ids, skip_special_tokens=True).strip(), recalled, end


def put_on(loaded: Loaded, see: str) -> Loaded:
    """The same model under a policy of SEE."""
    settings = replace(loaded.settings, see=parse_see(see))
    loaded.model.settings = settings
    return replace(loaded, settings=settings)


def clips_of(data: Path, count: int) -> Iterator[tuple[dict, Path]]:
    """(record, video) of the first test clips of a toy data set."""
    return ((record, data / video) for record, video in islice(clips.clips_of(data, "test"), count))


def _steps(loaded: Loaded, video: Path) -> Iterator:
    return iter_steps(video, max_frames=None, fps=loaded.settings.fps)
