"""What `swwatch stream` does once its flags are read: load the model, narrate, show and write."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain

import torch

from swwatch.data.video import FRAMES_PER_STEP, StepFrames
from swwatch.engine.choose import choose, open_watcher, why_not_fast
from swwatch.engine.door import about
from swwatch.engine.requests import drive
from swwatch.engine.source import StepEncoder
from swwatch.engine.trace import Decided, RealTimeClock, SimulatedClock
from swwatch.errors import UserError
from swwatch.narrate.latency import Aside, kind_of, show_lag, span_of
from swwatch.narrate.record import Clip
from swwatch.narrate.words import Thought, Token, Turn, narration, with_fast_path
from swwatch.paths import empty, writing
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS


def stream(settings, clip: Clip, first: StepFrames, steps: Iterator[StepFrames]) -> int:
    """Narrate a clip whose first step has been read. `settings` are command.StreamSettings."""
    try:
        jsonl = open(settings.jsonl, "a", encoding="utf-8") if settings.jsonl else nullcontext()
    except OSError as error:
        raise UserError(
            f"--jsonl {settings.jsonl} cannot be written: {error.strerror}; choose another file"
        ) from error
    loaded = settings.load(settings.model)
    model, forgets = loaded.model, loaded.settings.own_keep.forgets
    options = session_options(settings)
    if forgets and settings.choose is None and loaded.settings.variant not in TURNS:
        options.setdefault("max_new_tokens", None)
    if clip.question is not None:
        options.setdefault("question", clip.question)
    if clip.conversation is not None and get(loaded.settings.variant).previous_text:
        options["previous"] = clip.conversation.previous
    question = options.get("question")

    num_devices = torch.cuda.device_count() if model.device.type == "cuda" else 1
    engine, why = choose(settings.engine, loaded.settings.variant, model.device, num_devices)
    watcher = open_watcher(engine, model)
    if model.device.type == "cuda" and not settings.attention:
        how = loaded.settings
        refused = why_not_fast(how.variant, forgets or None, how.schedule, how.think)
        if refused is None:
            num_steps = (first.num_frames or settings.max_frames) // FRAMES_PER_STEP
            limits = {name: options.get(name) for name in ("question", "max_new_tokens")}
            size = {"num_steps": num_steps, "max_pixels": settings.max_pixels}
            loaded = with_fast_path(loaded, first, **limits, **size, warm=settings.realtime)
        else:
            why += f"; no CUDA graphs: {refused}"
    print(f"{clip.path} | {about(loaded.settings, question)}\nengine {engine}: {why}", end="")

    run = narration(
        loaded,
        clip.labelled(chain([first], steps), loaded.settings.variant),
        **options,
        encode=StepEncoder(loaded, max_pixels=settings.max_pixels),
        clip_key=clip.path.stem,
        clock=RealTimeClock() if settings.realtime else SimulatedClock(),
        engine=engine,
        watcher=watcher,
    )
    guard = writing(settings.jsonl.parent) if settings.jsonl else nullcontext()
    with guard, watcher or nullcontext(), jsonl as out:
        if out:
            empty(out)  # not sooner: a mistake in another flag should not cost the tokens of an earlier run
        for event in (show_lag if settings.realtime else show)(drive(loaded.model, run), loaded.settings.step_s):
            if out:
                print(as_json(event), file=out, flush=True)
    return 0


def session_options(settings) -> dict:
    """What the flags ask of a session; what they leave out is its form's own."""
    names = ("question", "schedule", "max_new_tokens", "repetition_penalty", "stop_early")
    options = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in options.items() if value is not None and value is not False}


def show(events: Iterable, step_s: float, out=None) -> Iterator:
    """Print text as it is spoken, one line for each step, of `step_s` seconds, that has words; pass all events on.

    A line tells the newest second that had been seen, how far behind its arrival the first word came, the words, and
    of a chat turn the seconds that they are about. What was thought meanwhile stands on a line of its own.
    Between two lines stands for how many steps nothing was due, where the schedule decided so.
    """
    out = out or sys.stdout
    step, num_silent, aside = None, 0, Aside(out)
    for event in events:
        if isinstance(event, Decided):
            num_silent += event.num_tokens == 0
        if isinstance(event, Token):
            if event.step != step:
                print(aside.line(event.step), end="", file=out)
                if num_silent:
                    print(f"\nsilent for {num_silent} step{'s' * (num_silent > 1)}", end="", file=out)
                    num_silent = 0
                step, lag_s = event.step, event.t_emit_s - event.t_frame_s
                start = "" if event.text.startswith(" ") else " "
                seen = f"0-{(event.newest_visible_step + 1) * step_s:g} s"
                print(f"\nseen {seen:<7} lag {lag_s:5.2f} s |{start}", end="", file=out)
            print(event.text.replace("\n", " "), end="", file=out, flush=True)
        elif isinstance(event, Thought):
            aside.take(event)
        elif isinstance(event, Turn):
            print(aside.turn(event) if event.thought else f" ({span_of(event)})", end="", file=out, flush=True)
            step = None if event.thought else step
        yield event
    if num_silent:
        print(f"\nsilent for {num_silent} step{'s' * (num_silent > 1)}", end="", file=out)
    print(aside.line(), file=out, flush=True)


def as_json(event) -> str:
    """A line of --jsonl."""
    kind = {} if isinstance(event, Token) else {"event": kind_of(event)}
    return json.dumps(kind | asdict(event), ensure_ascii=False)
