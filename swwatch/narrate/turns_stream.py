"""What `swwatch turns` does once its flags are read: load the model, comment, show and write."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from swwatch.data.video import StepFrames
from swwatch.engine.requests import drive
from swwatch.engine.source import StepEncoder
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
    how = {
        "clock": RealTimeClock() if settings.realtime else SimulatedClock(),
        "encode": StepEncoder(loaded, max_pixels=settings.max_pixels),
    }
    start_s = settings.start
    if not get(system).clip_time:  # its labels tell the seconds of the video
        steps, start_s = (replace(step, step=step.step + settings.start) for step in steps), 0.0
    with ExitStack() as stack:
        jsonl, vtt = (_open(stack, path) for path in (settings.jsonl, settings.vtt))
        if vtt:
            print("WEBVTT", file=vtt)
        begun, since = False, time.perf_counter()
        for event in drive(loaded.model, narration(loaded, steps, **how, **options)):
            if isinstance(event, Token):
                if not begun:
                    print(f"{settings.start + event.t_frame_s + 0.5:8.1f} s |", end="")
                    begun = True
                print(event.text.replace("\n", " "), end="", flush=True)
            elif isinstance(event, Turn):
                turn = replace(event, start_s=event.start_s + start_s, end_s=event.end_s + start_s)
                took_s, since = time.perf_counter() - since, time.perf_counter()
                print(f"  [{took_s:.2f} s]")
                begun = False
                if jsonl:
                    print(json.dumps(row(turn, took_s), ensure_ascii=False), file=jsonl, flush=True)
                if vtt and (turn.text or settings.silent_cues):
                    print(f"\nNOTE took {took_s:.2f} s\n{cue(turn)}", file=vtt, flush=True)
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


def row(turn: Turn, took_s: float) -> dict:
    """A turn as a line of JSON, under the names of StreamingVLM's public program, and the seconds that it took."""
    return {"type": "segment", "start": turn.start_s, "end": turn.end_s, "text": turn.text, "took_s": round(took_s, 4)}


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
