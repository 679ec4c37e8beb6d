"""The modes of the endless benchmark on one set of weights: how each is opened, and one stream through it, watched."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import torch

from swwatch.bench.memory import memory_now
from swwatch.bench.stream.soak import Noted
from swwatch.bench.stream.source import prompt_of
from swwatch.data.turns.prompt import Turns
from swwatch.engine.endless import Window
from swwatch.engine.fused import FusedSession
from swwatch.engine.requests import drive
from swwatch.engine.session import Session
from swwatch.engine.source import Ask, Order, Step
from swwatch.engine.trace import Spoken
from swwatch.engine.turns import STEP_S, TurnSession
from swwatch.model.dummy import Pieces, Saying
from swwatch.policies.choose import Greedy, parse_choose
from swwatch.policies.keep import Windows
from swwatch.policies.speak import WaitK
from swwatch.rules.systems import SYSTEMS


@dataclass(frozen=True)
class Mode:
    """A way to go on without end, or not to.

    Attributes:
        system, eviction, positions: of a stream in chat turns; else `engine`, of a parallel variant with a window.
        constant: once its windows are full, every step costs the same.
    """

    name: str
    what: str
    system: str = ""
    eviction: str = ""
    positions: str = ""
    engine: type[Session] | None = None
    constant: bool = False


MODES = {  # what is bounded comes first, so that the memory of what is not does not count for it
    mode.name: mode
    for mode in (
        Mode("serial", "a parallel variant with a window: watches, then speaks", engine=Session, constant=True),
        Mode("fused", "the same, watching while speaking", engine=FusedSession, constant=True),
        Mode(
            "sink_window",
            "StreamingVLM: sinks and windows, positions closed up",
            "streamingvlm",
            "sink_window",
            "mrope_contiguous",
            constant=True,
        ),
        Mode(
            "recompute",
            "the same window, read anew every second",
            "streamingvlm",
            "recompute",
            "mrope_contiguous",
            constant=True,
        ),
        Mode("restart", "a window without overlap: everything begins anew", "streamingvlm", "restart", "mrope_append"),
        Mode("flush", "LiveCC's paper: all video goes at once, all text stays", "livecc", "flush", "mrope_full"),
        Mode("full", "full attention: nothing is forgotten", "streamingvlm", "append", "mrope_append"),
    )
}


def open_session(mode: Mode, model, settings) -> Session | TurnSession:
    """A session of a mode.

    Args:
        settings: a settled EndlessSettings.
    """
    sink, window, tokens = settings.text_sink, settings.text_window, settings.tokens
    if mode.engine is not None:
        options = {"schedule": WaitK(tokens), "choose": Greedy(max_new_tokens=None)}
        keeps = Window(settings.vision_s, sink, window)
        return mode.engine(model, prompt_of(model, settings.seed), window=keeps, **options)
    vision_s = settings.restart_s if mode.eviction == "restart" else float(settings.vision_s)
    turns = Turns(Pieces(), SYSTEMS[mode.system])
    session = TurnSession(
        model,
        turns,
        eviction=mode.eviction,
        policy=mode.positions,
        windows=Windows(vision_s, vision_s, sink, window, settings.flush_s),
        choose=Greedy(parse_choose(turns.system.choose).penalty, tokens),
    )
    session.chooser = Saying(session.chooser, tokens, (*turns.ellipsis, turns.im_end), cycle(range(100, 150)))
    return session


@dataclass
class Tape:
    """Seconds without end that are there whenever they are asked for: a few pictures in turn."""

    pictures: Sequence[Step]
    taken: int = 0
    ended: bool = False

    def poll(self) -> Step:
        self.taken += 1
        return replace(self.pictures[self.taken % len(self.pictures)], arrival_s=self.taken - STEP_S / 2, last=False)

    def wait(self, timeout_s: float | None = None) -> None:
        raise AssertionError("the next second is always there")

    def orders(self) -> list[Ask | Order]:
        return []


@dataclass
class Sample:
    """A second of the stream, or in a first turn more.

    Attributes:
        at_s: stream time at its end.
        step_s, cpu_s: wall and CPU seconds since the last token of the step before.
        gap_s: seconds from one word to the next, mean within the step.
        fed: tokens that went through the LLM.
        held: tokens in the cache; cache: their bytes.
        memory: bytes of the process, on a GPU of its tensors, more than before the mode began.
        position: the largest that was fed.
    """

    at_s: float
    step_s: float
    cpu_s: float
    gap_s: float
    fed: int
    held: int
    cache: int
    memory: int | None
    position: int


def play(session: Session | TurnSession, pictures: Sequence[Step], settings) -> tuple[list[Sample], str | None]:
    """One stream through a session.

    Args:
        settings: a settled EndlessSettings.
    Returns:
        A sample for each step, and why it ended before `settings.seconds`, or None.
    """
    cuda, noted, samples, emitted = settings.device == "cuda", Noted(session.model), [], []
    gc.collect()
    before, begun = memory_now(cuda), time.perf_counter()
    last_s, last_cpu = begun, time.process_time()
    try:
        for event in drive(noted, session.run(Tape(pictures))):
            if not isinstance(event, Spoken):
                continue
            emitted.append(time.perf_counter())
            if len(emitted) < settings.tokens:
                continue
            now, cpu, memory = emitted[-1], time.process_time(), memory_now(cuda)
            fed = sum(work.watched + work.said for work in noted.work if work.what != "look")
            samples.append(
                Sample(
                    at_s=event.t_frame_s + STEP_S / 2,
                    step_s=now - last_s,
                    cpu_s=cpu - last_cpu,
                    gap_s=(now - emitted[0]) / (len(emitted) - 1),
                    fed=fed,
                    held=sum(map(len, session.cache.tokens.values())),
                    cache=session.cache.nbytes,
                    memory=None if memory is None else memory - before,
                    position=noted.largest,
                )
            )
            emitted.clear()
            noted.work.clear()
            noted.largest, last_s, last_cpu = 0, time.perf_counter(), time.process_time()
            if samples[-1].at_s >= settings.seconds:
                break
            if last_s - begun > settings.mode_s:
                limit = f"the {settings.mode_s:g} s of --mode-s were up"
                return samples, f"stopped at second {samples[-1].at_s:.0f}: {limit}"
    except torch.OutOfMemoryError:
        return samples, f"no memory left after second {samples[-1].at_s if samples else 0:.0f}"
    return samples, None
