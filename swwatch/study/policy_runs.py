"""One policy on one clip: a narration, or questions in mid-stream; what came of it and what it cost."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from swwatch.bench.stopwatch import Stopwatch
from swwatch.data.video import iter_steps
from swwatch.engine.base import BaseSession
from swwatch.engine.door import open_stream
from swwatch.engine.requests import drive
from swwatch.engine.source import Ask, StepEncoder
from swwatch.engine.trace import Asked, SimulatedClock, Watched
from swwatch.engine.turns import Said
from swwatch.metrics.events import event_timing
from swwatch.model.loading import Loaded
from swwatch.narrate.words import Token, watching
from swwatch.policies.see import parse_see
from swwatch.toy import clips
from swwatch.toy.mentions import mentions
from swwatch.toy.questions import questions_of
from swwatch.toy.scores import clip_counts, toy_events

CHOOSE = "greedy:1:max_new_tokens=none"
ANSWER = "greedy:1:max_new_tokens=6"  # of a question: a word and what ends a turn


class Cost:
    """What a session costs, noted after each step.

    Attributes:
        step_s: CPU seconds of each step, decoding and words included.
        fed: tokens that went through the LLM, those read anew included; cache, host: most bytes held at once, on the
            device and parked.
    """

    def __init__(self, session: BaseSession, watch: Stopwatch):
        self.session, self.watch = session, watch
        self.step_s: list[float] = []
        self.fed = self.cache = self.host = 0
        self._last = time.process_time()

    def note(self) -> None:
        self.watch.stop()
        self.step_s.append(time.process_time() - self._last)
        self.fed += sum(work.watched + work.said for work in self.watch.work if work.what != "look")
        self.cache = max(self.cache, self.session.cache.nbytes)
        self.host = max(self.host, self.session.cache.parking.nbytes)
        self.skip()

    def skip(self) -> None:
        """What was done since the last note does not count."""
        self.watch.stop()
        self.watch.forget()
        self._last = time.process_time()

    def told(self) -> dict:
        """Medians of the first and of the last fifth of the steps; the very first step prepares."""
        some = max(1, len(self.step_s) // 5)
        early, late = self.step_s[1 : some + 1] or self.step_s, self.step_s[-some:]
        times = {"early_s": statistics.median(early), "late_s": statistics.median(late)}
        return times | {"fed": self.fed, "cache_bytes": self.cache, "host_bytes": self.host, "steps": len(self.step_s)}


@torch.no_grad()
def narrated(loaded: Loaded, record: dict, video: Path, seconds: int, **policies: str) -> dict:
    """A narration of the first seconds of a clip, which goes on behind them.

    Args:
        policies: see, keep or schedule; what is left out is the checkpoint's own.
    Returns:
        `counts`, of toy.scores.MEANING; `events`, of metrics.events; tokens that `arrived` and were `dropped`; what
        `Cost.told` tells.
    """
    loaded = put_on(loaded, policies.get("see", "all"))
    how = {name: policies[name] for name in ("keep", "schedule") if name in policies}
    clock = SimulatedClock()
    session = open_stream(loaded, choose=CHOOSE, clock=clock, key=record["video_id"], **how)
    watch = Stopwatch(loaded.model)
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
    return {"counts": counts, "events": timed, **seen, **cost.told()}


@torch.no_grad()
def asked(loaded: Loaded, record: dict, video: Path, seconds: int, keep: str) -> dict:
    """The questions of a clip, asked in chat turns that are silent else; each leaves no trace.

    Returns:
        `answers`: kind -> [right, asked]; tokens `recalled` by the KEEP policy; what `Cost.told` tells.
    """
    session = open_stream(loaded, keep=keep, choose=ANSWER, question="")
    watch, encode = Stopwatch(loaded.model), StepEncoder(loaded)
    cost, answers, recalled = Cost(session, watch), {}, 0
    for frames in islice(_steps(loaded, video), int(seconds / loaded.settings.step_s)):
        step = encode(frames)
        for question in questions_of(record):
            if question.at_s != step.end_s:
                continue
            kept = session.state()
            session.asks.append(Ask((), question.text))
            said = ""
            for event in drive(watch, session.turn([step])):
                recalled += event.num_recalled if isinstance(event, Asked) else 0
                if isinstance(event, Said):
                    said = loaded.tokenizer.decode(event.words).strip()
            session.restore(kept)
            counts = answers.setdefault(question.kind, [0, 0])
            counts[0] += said == question.word
            counts[1] += 1
        cost.skip()
        list(drive(watch, session.turn([step], silent=True)))
        cost.note()
    return {"answers": answers, "recalled": recalled, **cost.told()}


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
