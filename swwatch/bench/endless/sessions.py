"""A session of each mode of the endless benchmark, and one stream through it, watched."""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING

import torch

from swwatch.bench.endless.modes import Mode
from swwatch.bench.endless.settings import EndlessBenchSettings
from swwatch.bench.inputs import prompt_of
from swwatch.bench.process import memory_now
from swwatch.bench.source import MadeSource
from swwatch.bench.stopwatch import TimedModel
from swwatch.data.turns.prompt import Turns
from swwatch.engine import choose
from swwatch.engine.base import BaseSession
from swwatch.engine.door import open_stream
from swwatch.engine.requests import drive
from swwatch.engine.source import Step
from swwatch.engine.trace import Said, Spoken
from swwatch.model.dummy import DummyTokenizer, ScriptedChooser
from swwatch.policies.choose import Greedy, parse_choose
from swwatch.policies.keep import Window, parse_keep, with_numbers
from swwatch.policies.speak import WaitK
from swwatch.rules.systems import SYSTEMS

if TYPE_CHECKING:
    from swwatch.model.loading import Loaded


def open_session(mode: Mode, model, settings: EndlessBenchSettings, loaded: "Loaded | None" = None) -> BaseSession:
    """A session of a mode, by the same door as everywhere. The model becomes one of the mode's variant.

    Args:
        settings: settled.
        loaded: the checkpoint that the model is of: the session asks in its words and says its own.
    """
    sink, window, tokens = settings.text_sink, settings.text_window, settings.tokens
    model.settings = replace(model.settings, variant=mode.system or mode.variant or settings.variant, keep=None)
    policies = settings.session_policies()
    if mode.engine:
        keep = parse_keep(mode.keep or policies.get("keep") or Window(settings.vision_s, sink, window))
        choosing = replace(policies.get("choose") or Greedy(), max_new_tokens=None)
        options = {"schedule": WaitK(tokens), "choose": choosing, "keep": keep}
        options["think"] = policies.get("think") or model.settings.think
        if loaded is not None:
            return open_stream(replace(loaded, settings=model.settings), engine=mode.engine, **options)
        return choose.open_session(mode.engine, model, prompt_of(model, settings.seed), **options)
    vision_s = settings.restart_s if mode.eviction == "restart" else float(settings.vision_s)
    numbers = {"vision_s": vision_s, "turns_s": vision_s, "flush_s": settings.flush_s}
    numbers |= {"text_sink": sink, "text_window": window}
    turns = Turns(DummyTokenizer(), SYSTEMS[mode.system])
    keep = parse_keep(mode.keep or with_numbers(turns.system.keep, mode.eviction, numbers))
    options = {"keep": keep, "policy": mode.positions or None}
    if loaded is not None:
        return open_stream(replace(loaded, settings=model.settings), choose=policies.get("choose"), **options)
    penalty = parse_choose(turns.system.choose).penalty
    session = choose.open_session("serial", model, turns, choose=Greedy(penalty, tokens), **options)
    session.chooser = ScriptedChooser(session.chooser, tokens, (*turns.ellipsis, turns.im_end), cycle(range(100, 150)))
    return session


@dataclass
class Tape(MadeSource):
    """Steps without end that are there whenever they are asked for: a few pictures in turn.

    Attributes:
        spent_s, spent_cpu: wall and CPU seconds that the asking took, which are no part of a stream's cost.
    """

    pictures: Sequence[Step]
    step_s: float
    taken: int = 0
    ended: bool = False
    spent_s: float = 0.0
    spent_cpu: float = 0.0

    def next_step(self) -> Step:
        self.taken += 1
        picture, arrival_s = self.pictures[self.taken % len(self.pictures)], (self.taken - 0.5) * self.step_s
        return replace(picture, arrival_s=arrival_s, last=False)


@dataclass
class Film(Tape):
    """The seconds of a video, read and made pixels as they are asked for."""

    pictures: Iterator[Step]

    def next_step(self) -> Step | None:
        began, began_cpu = time.perf_counter(), time.process_time()
        step = next(self.pictures, None)
        self.spent_s += time.perf_counter() - began
        self.spent_cpu += time.process_time() - began_cpu
        self.ended = step is None or step.last
        return step


def play(
    session: BaseSession, tape: Tape, settings: EndlessBenchSettings, *, own_turns: bool = False
) -> tuple[list[dict], str | None]:
    """One stream through a session.

    Args:
        settings: settled.
        own_turns: a step ends with its chat turn; else with the last of `settings.tokens`.
    Returns:
        For each step or turn of the stream: at_s: stream time at its end; step_s, cpu_s: wall and CPU seconds since
        the last token of the step before; token_s: wall seconds for each of its tokens; gap_s: seconds from one word
        to the next, mean within the step; fed: tokens that went through the LLM; held: tokens in the cache; cache:
        their bytes; host: bytes that are parked in host memory; memory: bytes of the process, on a GPU of its tensors,
        more than before the mode began; position: the largest that was fed.
        And why it ended before `settings.seconds`, or None.
    """
    cuda, stopwatch, seconds, emitted = settings.device == "cuda", TimedModel(session.model), [], []
    gc.collect()
    before, begun = memory_now(cuda), time.perf_counter()
    last_s, last_cpu = begun, time.process_time()
    try:
        for event in drive(stopwatch, session.run(tape)):
            if isinstance(event, Spoken):
                emitted.append(time.perf_counter())
                newest = event
            if not (isinstance(event, Said) if own_turns else len(emitted) == settings.tokens):
                continue

            now, cpu, memory = emitted[-1], time.process_time(), memory_now(cuda)
            second = {"at_s": newest.t_frame_s + settings.step_s / 2, "step_s": now - last_s - tape.spent_s}
            second |= {"cpu_s": cpu - last_cpu - tape.spent_cpu, "token_s": second["step_s"] / len(emitted)}
            second["gap_s"] = (now - emitted[0]) / (len(emitted) - 1) if len(emitted) > 1 else None
            second["fed"] = sum(work.watched + work.said for work in stopwatch.work if work.what != "look")
            second["held"] = sum(map(len, session.cache.tokens.values()))
            second["cache"], second["position"] = session.cache.held_nbytes, stopwatch.largest_position
            second["host"] = session.cache.parking.nbytes
            second["memory"] = None if memory is None else memory - before
            seconds.append(second)
            emitted.clear()
            stopwatch.forget()
            last_s, last_cpu = time.perf_counter(), time.process_time()
            tape.spent_s = tape.spent_cpu = 0.0
            if second["at_s"] >= settings.seconds:
                break
            if last_s - begun > settings.mode_s:
                limit = f"the {settings.mode_s:g} s of --mode-s were up"
                return seconds, f"stopped at second {second['at_s']:.0f}: {limit}"
    except torch.OutOfMemoryError:
        return seconds, f"no memory left after second {seconds[-1]['at_s'] if seconds else 0:.0f}"
    return seconds, None
