"""What `swwatch turns` does once its flags are read: load the model, comment, show and write."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from swwatch.data.video import StepFrames
from swwatch.engine.requests import drive
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.errors import UserError
from swwatch.narrate.words import Token, Turn, narration
from swwatch.policies.choose import parse_choose
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS


def stream_turns(settings, steps: Iterator[StepFrames]) -> int:
    """Comment on a video. `settings` are turns_command.TurnsSettings."""
    loaded = settings.load(settings.model, variant=settings.system)
    system = loaded.settings.variant
    if system not in TURNS:
        wanted = "which does not stream in turns: use swwatch stream"
        raise UserError(f"{settings.model} is trained as {system!r}, {wanted}")
    options = session_options(settings, system)
    print(f"{settings.video} | {system} | {get(system).query if settings.query is None else settings.query}")
    clock = RealTimeClock() if settings.realtime else SimulatedClock()
    with ExitStack() as stack:
        jsonl, vtt = (_open(stack, path) for path in (settings.jsonl, settings.vtt))
        if vtt:
            print("WEBVTT", file=vtt)
        begun = False
        for event in drive(loaded.model, narration(loaded, steps, clock=clock, **options)):
            if isinstance(event, Token):
                if not begun:
                    print(f"{event.t_frame_s + 0.5:8.1f} s |", end="")
                    begun = True
                print(event.text.replace("\n", " "), end="", flush=True)
            elif isinstance(event, Turn):
                print()
                begun = False
                if jsonl:
                    print(json.dumps({"type": "segment"} | asdict(event), ensure_ascii=False), file=jsonl, flush=True)
                if vtt and event.text:
                    print(cue(event), file=vtt, flush=True)
    return 0


def session_options(settings, system: str) -> dict:
    """What the flags ask of a session; what they leave out is the system's own.

    Raises:
        UserError: numbers that make no sense.
    """
    choose = parse_choose(get(system).choose).drawing(not settings.greedy)
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "threshold", "threshold_step", "seed")
    asked = {name: getattr(settings, name) for name in names} | {"penalty": settings.repetition_penalty}
    known = {name: value for name, value in asked.items() if value is not None and name in vars(choose)}
    return {
        "question": settings.query,
        "previous": settings.previous,
        "policy": settings.positions,
        "keep": settings.kept(system),
        "steps_per_turn": settings.steps_per_turn,
        "choose": replace(choose, **known),
    }


def cue(turn: Turn) -> str:
    """A turn as a WebVTT cue, with the blank line before it."""
    text = turn.text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return f"\n{_stamp(turn.start_s)} --> {_stamp(turn.end_s)}\n{text}"


def _stamp(seconds: float) -> str:
    minutes, left = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left // 1000:02}.{left % 1000:03}"


def _open(stack: ExitStack, path: Path | None):
    if path is None:
        return None
    try:
        return stack.enter_context(open(path, "w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
