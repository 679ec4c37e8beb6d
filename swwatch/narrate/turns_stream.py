"""What `swwatch turns` does once its flags are read: load the model, comment, show and write."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from swwatch.data.turns.dataset import training_budget
from swwatch.data.turns.given import Given
from swwatch.data.turns.samples import SampleFormat
from swwatch.data.video import StepFrames
from swwatch.engine.requests import drive
from swwatch.engine.source import StepEncoder
from swwatch.engine.trace import RealTimeClock, SimulatedClock
from swwatch.errors import UserError
from swwatch.model.loading import Loaded
from swwatch.model.settings import Settings
from swwatch.narrate.record import Clip
from swwatch.narrate.words import Thought, Token, Turn, narration
from swwatch.paths import writing
from swwatch.rules.systems import get
from swwatch.rules.variants import TURNS

ANSWER_S = 2.0  # how long an answer is shown


def stream_turns(settings, clip: Clip, steps: Iterator[StepFrames]) -> int:
    """Comment on a clip, of which these are the steps. `settings` are turns_command.TurnsSettings."""
    loaded = settings.load(settings.model, variant=settings.system)
    system = loaded.settings.variant
    if system not in TURNS:
        wanted = "which does not stream in turns: use swwatch stream"
        raise UserError(f"{settings.model} is trained as {system!r}, {wanted}")
    begin_s, row_of = clip.span[0], get(system)
    options = session_options(settings, loaded.settings) | conversation_options(settings, clip, loaded)
    given = options["given"]
    print(f"{clip.path} | {system} | {row_of.query if options['question'] is None else options['question']}")
    if note := settings.lopsided(options["keep"]):
        print(note)
    budget = None if clip.conversation is None else training_budget(loaded.settings.pixel_budget)
    how = {
        "clock": RealTimeClock() if settings.realtime else SimulatedClock(),
        "encode": StepEncoder(loaded, max_pixels=settings.max_pixels, budget=budget),
    }
    start_s, step_s = begin_s if row_of.clip_time else 0.0, loaded.settings.step_s
    steps = clip.labelled(steps, system)
    with ExitStack() as stack:
        jsonl, vtt = (_open(stack, path) for path in (settings.jsonl, settings.vtt))
        if vtt:
            print("WEBVTT", file=vtt)
        begun, since = False, time.perf_counter()
        for event in drive(loaded.model, narration(loaded, steps, **how, **options)):
            if isinstance(event, Token | Thought):
                if not begun:
                    kind = " (thinks)" if isinstance(event, Thought) else ""
                    print(f"{begin_s + event.t_frame_s + step_s / 2:8.1f} s |{kind}", end="")
                    begun = True
                print(event.text.replace("\n", " "), end="", flush=True)
            elif isinstance(event, Turn):
                turn = replace(event, start_s=event.start_s + start_s, end_s=event.end_s + start_s)
                words = given and given(event.start_s, event.end_s)
                took_s, since = time.perf_counter() - since, time.perf_counter()
                print(f"  [{took_s:.2f} s]" + ("" if words is None else f" given: {words}"))
                begun = False
                if jsonl:
                    print(json.dumps(row(turn, took_s, words), ensure_ascii=False), file=jsonl, flush=True)
                turn = turn if words is None else replace(turn, text=words)
                if vtt and not turn.thought and (turn.text or settings.silent_cues):
                    print(f"\nNOTE took {took_s:.2f} s\n{cue(turn)}", file=vtt, flush=True)
    return 0


def session_options(settings, own: Settings) -> dict:
    """What the flags ask of a session; what they leave out is the checkpoint's own, else the system's.

    Args:
        own: the checkpoint's.
    Raises:
        UserError: numbers that make no sense.
    """
    return {
        "policy": settings.positions,
        "keep": settings.keep_policy(own.variant, own.keep),
        "seconds_per_turn": settings.seconds_per_turn,
        "choose": settings.choose_policy(own.own_choose),
    }


def conversation_options(settings, clip: Clip, loaded: Loaded) -> dict:
    """What is asked, what was said before, and what is to stand in the stream: of the flags, else of the record."""
    turns, options = loaded.turns(get(loaded.settings.variant)), {"given": None}
    if clip.conversation is None:
        options |= {"question": settings.query, "previous": settings.previous or ""}
    else:
        turn_s = settings.seconds_per_turn or loaded.settings.seconds_per_turn
        form = SampleFormat(turns, settings.context, fps=clip.fps, seconds_per_turn=turn_s)
        begin_s = clip.span[0]
        conversation = (
            clip.conversation if settings.query is None else replace(clip.conversation, query=settings.query)
        )
        first, *later = form.script(conversation, clip.num_steps, begin_s)
        options |= {"question": first.query, "previous": settings.previous or ""}
        if turns.system.previous_text and settings.previous is None:
            options["previous"] = conversation.previous
        zero_s = 0.0 if turns.system.clip_time else begin_s
        options["questions"] = [(line.start_s - zero_s, line.query) for line in later if line.query]
        if settings.says_own:
            options["given"] = Given.of_script([first, *later])
    if settings.say is not None and not settings.says_own:
        zero_s = clip.span[0] if turns.system.clip_time else 0.0
        given = options["given"] = Given.read(settings.say, clip.path, turns.system, clip.fps, zero_s)
        turns.answer(" ".join(words for _, words in given.words))  # chat markup is told before the stream begins
    return options


def row(turn: Turn, took_s: float, given: str | None = None) -> dict:
    """A turn as a line of JSON, under the names of StreamingVLM's public program, the seconds that it took, and the
    words that stand in the stream in place of the said ones, where some were given; whether it was a thought, and what
    it ended with where its form wants another end."""
    line = {"type": "segment", "start": turn.start_s, "end": turn.end_s, "text": turn.text}
    line |= {"thought": True} if turn.thought else {}
    line |= {} if turn.wrong_end is None else {"wrong_end": turn.wrong_end}
    return line | {"took_s": round(took_s, 4)} | ({} if given is None else {"given": given})


def cue(turn: Turn) -> str:
    """A turn as a WebVTT cue, with the blank line before it. An answer is about no seconds of its own, and stays."""
    end_s = turn.end_s + (turn.start_s == turn.end_s) * ANSWER_S
    text = turn.text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return f"\n{_stamp(turn.start_s)} --> {_stamp(end_s)}\n{text}"


def _stamp(seconds: float) -> str:
    minutes, left = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left // 1000:02}.{left % 1000:03}"


def _open(stack: ExitStack, path: Path | None):
    if path is None:
        return None
    try:
        stack.enter_context(writing(path.parent))
        return stack.enter_context(open(path, "w", encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another file") from error
